"""The page of figures, from the results on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from scripts.gpu.results import DONE, Result
from scripts.gpu.tables import PARTS, number, table

Found = Sequence[tuple[str, Result]]
"""Phase and result."""

CHECKS = {
    "precision": "bf16 and fp16 against fp32, every family",
    "memory": "the GPU's memory really full",
    "users": "batches across users",
    "transfers": "copies beside forward passes",
    "determinism": "the same photo again",
    "tap": "rows beside flash attention",
    "live": "frames of a camera",
}


def page(results: Found) -> str:
    """Markdown of the whole page."""
    text = "\n".join([*_head(results), *_checks(results), *_benches(results)])
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _head(results: Found) -> Iterator[str]:
    newest = max((result.identity for _, result in results), key=lambda identity: identity.get("date", ""))
    yield "# Benchmarks on a GPU"
    yield ""
    yield "Written by `make gpu`; [how to run it](benchmarks.md#on-a-gpu)."
    yield ""
    if newest.get("sizes") != "full" or "driver" not in newest or newest["driver"] == "none":
        yield "**A rehearsal: these figures say nothing about any GPU.**"
        yield ""
    yield from table(("device", "memory", "driver", "torch", "CUDA", "Python", "date"), [
        [newest.get(key) or "none" for key in ("device", "memory", "driver", "torch", "cuda", "python", "date")]
    ])  # fmt: skip
    others = [
        f"{phase} {result.step}"
        for phase, result in results
        if {**result.identity, "date": ""} != {**newest, "date": ""}
    ]
    if others:
        yield f"Of another machine, or of another state of the code: {', '.join(others)}."
        yield ""
    broken = [f"{phase} {result.step} ({result.state})" for phase, result in results if result.state != DONE]
    if broken:
        yield f"**Not complete: {', '.join(broken)}.**"
        yield ""


def _checks(results: Found) -> Iterator[str]:
    checks = {result.step: result for phase, result in results if phase == "check"}
    if not checks:
        return
    yield "## Checks"
    yield ""
    rows = []
    for name, result in checks.items():
        outcomes = [entry.get("outcome", "unfinished") for entry in result.figures.values()]
        counts = [str(outcomes.count(kind)) for kind in ("passed", "failed", "skipped")]
        rows.append([CHECKS.get(name, name), *counts, f"{result.seconds:.0f} s"])
    yield from table(("what", "passed", "failed", "skipped", "took"), rows)
    for name, result in checks.items():
        for test, entry in result.figures.items():
            if entry.get("outcome") == "failed":
                words = " ".join(entry.get("words", "").split())[:300].replace("`", "'")
                yield f"- failed in {name}: `{test}`: `{words}`"
    yield ""
    for name, part in (
        ("precision", _precision),
        ("memory", _notes),
        ("users", _notes),
        ("transfers", _notes),
        ("determinism", _determinism),
        ("tap", _notes),
        ("live", _notes),
    ):
        if name in checks:
            yield from part(checks[name])


def _precision(result: Result) -> Iterator[str]:
    rows, tiny = [], []
    for test, entry in result.figures.items():
        figures = entry.get("figures", {})
        what = test.partition("[")[2].rstrip("]")
        model, _, dtype = what.rpartition("-")
        if "correlation" in figures:
            other = "fp32 on the CPU" if dtype == "fp32" else "fp32 there"
            same = figures["same_top1"]
            cells = [number(figures[key], 4) for key in ("correlation", "difference", "score")]
            rows.append([model, f"{dtype}, with {other}", *cells, "" if same is None else f"{same:.0%}"])
        elif figures:
            tiny.append((dtype, figures.get("difference") or 0.0, figures.get("logits") or 0.0))
    if rows:
        yield "Precision: the lowest rank correlation of the examples' maps, their largest difference (share of the map's range),"
        yield "the largest difference of a score, and the share of photos with the same first label."
        yield ""
        yield from table(("model", "precision", "rank correlation", "difference", "score", "same label"), rows)
    for dtype in sorted({dtype for dtype, _, _ in tiny}):
        of_it = [one for one in tiny if one[0] == dtype]
        rest = f"of a row {max(one[1] for one in of_it):.4f}, of logits {max(one[2] for one in of_it):.4f}"
        yield f"Tiny random networks of {len(of_it)} kinds in {dtype}: largest difference {rest}."
        yield ""


def _determinism(result: Result) -> Iterator[str]:
    same: set[str] = set()
    other: set[str] = set()
    worst = 0.0
    for test, entry in result.figures.items():
        figures = entry.get("figures", {})
        what = test.partition("[")[2].rstrip("]")
        for method, bits in figures.get("same_bits", {}).items():
            (same if bits else other).add(method if bits else f"{method} ({what})")
        worst = max(worst, figures.get("difference", 0.0))
    if same or other:
        always = sorted(same - {one.partition(" ")[0] for one in other})
        yield f"Determinism: the same photo alone, asked again, gave the same bits with {', '.join(always) or 'no method'}."
        if other:
            yield f"Other bits: {', '.join(sorted(other))}; the largest relative difference was {worst:.1e}."
        yield ""


def _notes(result: Result) -> Iterator[str]:
    """One line for each test that kept figures."""
    for test, entry in result.figures.items():
        if entry.get("figures"):
            words = test.removeprefix("test_").replace("_", " ")
            yield f"- {words}: {_figures(entry['figures'])}"
    yield ""


def _benches(results: Found) -> Iterator[str]:
    found = {result.step: result.figures for phase, result in results if phase == "bench"}
    for name, (title, part) in PARTS.items():
        if found.get(name):
            yield f"## {title}"
            yield ""
            yield from part(found[name])


def _figures(values: dict[str, Any]) -> str:
    found = []
    for name, value in values.items():
        words = name.replace("_", " ")
        if isinstance(value, dict):
            found.append(f"{words}: {_figures(value)}")
        elif isinstance(value, float):
            found.append(f"{words} {value:.4g}")
        else:
            found.append(f"{words} {value}")
    return ", ".join(found)
