"""The list of all models: what each one is, whether it is here, and buttons to download, unload or remove it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from vitdemo.registry import FAMILIES, available_models
from vitdemo.types import ModelSpec
from vitdemo.ui import STATIC

LIST = '<div class="vd-models" role="region" aria-label="Models" tabindex="-1"></div>'
DIALOG = f"""<dialog class="vd-dialog" aria-label="Get more models"><header><h2>Get more models</h2>
<button type="button" class="vd-close" aria-label="Close">✕</button></header>
<p>Full-size checkpoints from the Hugging Face Hub. One that has arrived joins the models you see.</p>{LIST}</dialog>"""


def model_list(value: dict[str, Any] | None, elem_id: str, dialog: bool = False) -> gr.HTML:
    """The component; `select` fires with the `action` (download, cancel, dismiss, unload, remove) and the `name` of a model.

    Args:
        dialog: in a dialog of the browser, with those models alone that are not here yet; None as value shows none.
    """
    return gr.HTML(
        value,
        html_template=DIALOG if dialog else LIST,
        css_template=(STATIC / "models.css").read_text(encoding="utf-8"),
        js_on_load="\n".join((STATIC / name).read_text(encoding="utf-8") for name in ("common.js", "models.js")),
        apply_default_css=False,
        elem_id=elem_id,
    )


def model_list_value(
    loaded: Mapping[str, int], jobs: Mapping[str, dict[str, Any]], policy: str, message: str | None = ""
) -> dict[str, Any]:
    """Everything that the list shows.

    Args:
        loaded: bytes in memory by checkpoint.
        jobs: downloads by name.
        policy: which models may be fetched: `any`, `listed` or `none`.
        message: answer to what was typed into the box; None leaves the one that is shown.
    """
    specs = available_models()
    known = {spec.name for spec in specs}
    entries = [_entry(spec, loaded.get(spec.checkpoint, 0), jobs.get(spec.name)) for spec in specs]
    # A model that was added by name is not known before its configuration is here.
    others = [
        {"name": name, "family": "Requests", "job": job}
        for name, job in jobs.items()
        if name not in known and job["state"] != "done"
    ]
    families = [family for family in FAMILIES if any(entry["family"] == family for entry in entries)]
    return {
        "families": ["Requests", *families] if others else families,
        "models": [*others, *entries],
        "policy": policy,
        "message": message,
    }


def _entry(spec: ModelSpec, memory: int, job: dict[str, Any] | None) -> dict[str, Any]:
    rows, columns = spec.patch_grid
    height, width = spec.image_size
    return {
        "name": spec.name,
        "family": spec.family,
        "source": spec.source,
        "ready": spec.ready,
        "parameters": spec.parameters,
        "input": [width, height],
        "grid": [rows, columns] if spec.readouts else None,
        "patch": spec.patch_size,
        "classes": spec.num_classes,
        "probe": bool(spec.note),
        "license": spec.license,
        "bytes": spec.bytes,
        "memory": memory,
        "gated": "" if spec.ready else spec.gated,
        "link": spec.link,
        "revision": spec.revision[:12] if spec.ready else "",
        "job": job if job and job["state"] != "done" else None,
    }
