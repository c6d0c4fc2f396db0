"""Every method beside the code that its authors or others have published: `python -m scripts.compare_references [--write]`.

`tests/golden` holds what that code gave for the inputs of `scripts/reference_inputs.py`: arrays by name, and in `provenance.json`
where each comes from. The references themselves are not needed. `--write` puts the table into `docs/methods.md`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from scripts import reference_inputs as inputs
from scripts.parts import replace_part
from vitdemo.attribution import grad_rollout, relevance, rollout, rollout_vit_explain
from vitdemo.engine.attribute import attribute
from vitdemo.engine.local import LocalBackend
from vitdemo.evaluation.faithfulness import deletion_and_insertion
from vitdemo.models.attention_tap import record_attention
from vitdemo.models.loading import Classifier, load_model
from vitdemo.models.nn.mae import accept_masks, reconstruct
from vitdemo.models.position_embeddings import DINO_OFFSET, resize_positions
from vitdemo.pipeline import Pipeline
from vitdemo.registry import spec_from_folder
from vitdemo.segmentation import foreground, keep_mass
from vitdemo.settings import ROOT, Settings
from vitdemo.training.export import export
from vitdemo.types import Attribution, Capture, Faithfulness, Fusion, LayerQueries

GOLDEN = ROOT / "tests" / "golden"
CLOSE = 1e-5
"""Largest difference, relative to the largest value, of two computations of the same in float32."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One comparison."""

    method: str
    reference: str
    """Names the file in `tests/golden`, and the entry in its `provenance.json`."""
    compared: str
    ours: Callable[[], Mapping[str, Array]]
    """By the names of the stored arrays."""
    differs: str = ""
    """Why the two are not the same; empty where they are."""


def stored(reference: str) -> dict[str, Array]:
    """What a reference gave."""
    with np.load(GOLDEN / f"{reference}.npz") as file:
        return dict(file)


def same(case: Case) -> bool:
    """Whether masks are equal, and values to `CLOSE`."""
    return all(_same(found, theirs) for found, theirs in _pairs(case))


def agreement(case: Case) -> str:
    """In words: the same, or how nearly."""
    pairs = _pairs(case)
    if pairs[0][1].dtype == bool:
        equal = [
            np.array_equal(one, other) for found, theirs in pairs for one, other in zip(found, theirs, strict=True)
        ]
        return "every patch" if all(equal) else f"every patch in {sum(equal)} of {len(equal)}"
    if same(case):
        return f"to {CLOSE:.0e}".replace("e-0", "e-")
    ranks = [float(spearmanr(found, theirs, axis=None).statistic) for found, theirs in pairs]
    return f"rank correlation {min(ranks):.2f}" + (f" to {max(ranks):.2f}" if len(ranks) > 1 else "")


def table() -> str:
    """All comparisons in Markdown."""
    known = json.loads((GOLDEN / "provenance.json").read_text(encoding="utf-8"))
    rows = ["| method | reference | what is compared | agreement | what differs |", "|---|---|---|---|---|"]
    for case in CASES:
        source = known[case.reference]
        link = f"[{source['name']}]({source['url']})"
        rows.append(f"| {case.method} | {link} | {case.compared} | {agreement(case)} | {case.differs} |")
    return "\n".join(rows)


def _pairs(case: Case) -> list[tuple[Array, Array]]:
    theirs = stored(case.reference)
    return [(np.asarray(found), theirs[name]) for name, found in case.ours().items()]


def _same(found: Array, theirs: Array) -> bool:
    if found.shape != theirs.shape:
        raise ValueError(f"Shapes differ: {found.shape} here, {theirs.shape} in the reference.")
    if theirs.dtype == bool:
        return np.array_equal(found, theirs)
    return bool(np.abs(found - theirs).max() <= CLOSE * np.abs(theirs).max())


# What is run


@cache
def _model(as_dino: bool = False) -> Classifier:
    """The tiny network, through the same doors as any other checkpoint."""
    with torch.device("meta"):
        network: Any = transformers.ViTForImageClassification(
            transformers.ViTConfig(
                image_size=inputs.SIZE,
                patch_size=inputs.PATCH,
                hidden_size=inputs.WIDTH,
                num_hidden_layers=inputs.LAYERS,
                num_attention_heads=inputs.HEADS,
                intermediate_size=2 * inputs.WIDTH,
                layer_norm_eps=inputs.EPS,
                num_labels=inputs.CLASSES,
            )
        )
    network.load_state_dict(inputs.in_transformers(inputs.vit()), assign=True)
    with tempfile.TemporaryDirectory() as folder:
        export(network, Path(folder), [str(number) for number in range(inputs.CLASSES)], inputs.SIZE, half=False)
        spec = spec_from_folder(Path(folder))
        if as_dino:
            # What `load_model` goes by when it chooses DINO's interpolation.
            spec = replace(spec, source="hub", family="DINO")
        return load_model(spec, torch.device("cpu"), torch.float32)


def _map(method: str, target: int | None = inputs.TARGET, **options: Any) -> Array:
    request = Attribution(method, target=target, **options)
    return attribute(_model(), inputs.picture(), request)[1][0].detach().numpy()


def _given() -> list[LayerQueries]:
    """Queries and keys whose attention is the given matrices."""
    return [LayerQueries(torch.zeros(*one.shape[:3], 1), torch.zeros(*one.shape[:3], 1), one.log(), 1.0) for one in A]


A, G = inputs.attentions(), inputs.gradients()
START = torch.eye(A[0].shape[-1])[0]
"""The class token is read."""


def _patches(tokens: Tensor) -> Array:
    return tokens[0, 1:].numpy()


def _by_maximum(values: Array) -> Array:
    side = int(values.size**0.5)
    return values.reshape(side, side) / values.max()


def _by_range(values: Array) -> Array:
    side = int(values.size**0.5)
    span = np.ptp(values)
    return (values.reshape(side, side) - values.min()) / (span if span > 0 else 1)


def _dino_rows() -> Array:
    """`[H, h, w]`: the last layer's attention of the class token, of a picture of another size."""
    with torch.no_grad(), record_attention(Capture(tokens=(0,))) as record:
        _model(as_dino=True)(inputs.picture(48, 72))
    return record.rows["class"][-1][0, :, 1:].unflatten(1, (6, 9)).numpy()


def _dino_masses() -> dict[str, Array]:
    heads = A[-1][0, :, 0, 1:].unflatten(1, (4, 4)).numpy()
    found = {f"mass {share}": keep_mass(heads, share) for share in (0.6, 0.9)}
    return found | {"mass of the network": keep_mass(_dino_rows(), 0.6)}


def _positions(rows: int, columns: int, antialias: bool = False, offset: float = 0.0) -> Array:
    table = inputs.position_table(14, 2)
    return resize_positions(table, (14, 14), (rows, columns), antialias, offset)[0].numpy()


def _vit_explain() -> dict[str, Array]:
    fusions: tuple[Fusion, ...] = ("mean", "max", "min")
    return {
        f"rollout {fusion} {discard:g}": _by_maximum(_patches(rollout_vit_explain(_given(), START, fusion, discard)))
        for fusion in fusions
        for discard in (0, 0.5, 0.9)
    }


def _by_row(share: float) -> Array:
    return _by_maximum(_patches(rollout(_given(), START, discard=share)))


def _grad_cams() -> dict[str, Array]:
    return {f"class {number}": _by_range(_map("grad-cam", number)) for number in range(inputs.CLASSES)}


def _cuts(**options: Any) -> Array:
    """`[scenes, objects, h, w]`, empty masks where there are fewer."""
    found = np.zeros((len(inputs.SCENES), options.get("objects", 1), 14, 14), np.bool_)
    for masks, number in zip(found, inputs.SCENES, strict=True):
        cut = foreground(inputs.scene(number), (14, 14), **options)
        masks[: len(cut.masks)] = cut.masks
    return found


def _eigenvectors() -> Array:
    return np.stack([foreground(inputs.scene(n), (14, 14), side="seed").eigenvectors[0] for n in inputs.SCENES[:4]])


def _curves() -> dict[str, Array]:
    model = _model()
    with torch.no_grad():
        target = int(cast(Tensor, model(inputs.picture())).argmax())
    settings = Settings(device="cpu")
    # The network's folder is gone: it is handed over.
    pipeline = Pipeline(settings, LocalBackend(settings, load=lambda *_: model))
    side = inputs.SIZE // inputs.PATCH
    curves = deletion_and_insertion(
        pipeline, model.spec, inputs.picture()[0], inputs.saliency(), target, steps=side * side, dtype="fp32"
    )
    deletion, insertion = (tuple(one) for one in curves)
    areas = Faithfulness("", target, (), deletion, insertion, deletion)
    return {
        "deletion": np.array(deletion),
        "insertion": np.array(insertion),
        "areas": np.array([areas.deletion_auc, areas.insertion_auc]),
    }


def _mae_prediction() -> Array:
    """`[h * w, values]` of hidden patches, zeros elsewhere."""
    size = inputs.MAE
    with torch.device("meta"):
        network: Any = transformers.ViTMAEForPreTraining(
            transformers.ViTMAEConfig(
                image_size=size["size"],
                patch_size=size["patch"],
                hidden_size=size["width"],
                num_hidden_layers=size["layers"],
                num_attention_heads=size["heads"],
                intermediate_size=2 * size["width"],
                decoder_hidden_size=size["decoder_width"],
                decoder_num_hidden_layers=size["decoder_layers"],
                decoder_num_attention_heads=size["heads"],
                decoder_intermediate_size=2 * size["decoder_width"],
                layer_norm_eps=inputs.EPS,
                norm_pix_loss=True,
            )
        )
    network.load_state_dict(inputs.in_transformers(inputs.mae()), assign=True)
    accept_masks(network.eval())
    pixels, hidden = inputs.picture(size["size"], size["size"]), torch.from_numpy(inputs.mae_mask())
    with torch.no_grad():
        filled, true = (network.patchify(one) for one in (reconstruct(network, pixels, hidden[None]), pixels))
    # The reference predicts normalised patches.
    normalised = (filled - true.mean(dim=-1, keepdim=True)) / (true.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    return (normalised[0] * hidden.flatten()[:, None]).numpy()


# What is compared

WITHOUT_LRP = (
    "attention takes the place of its LRP relevance, and rows are normalised as in the paper, not as in its code"
)

CASES = (
    Case("`attention`", "dino", "class token's rows, tiny network, 48 x 72 px", lambda: {"attention": _dino_rows()}),
    Case("`attention`", "dino", "masks that hold 60% and 90% of the mass", _dino_masses),
    Case(
        "position embeddings",
        "dino",
        "DINO's checkpoints at 320 x 320, 480 x 480 and 320 x 480 px",
        lambda: {
            f"positions {height} x {width}": _positions(height // 16, width // 16, offset=DINO_OFFSET)
            for height, width in ((320, 320), (480, 480), (320, 480))
        },
    ),
    Case(
        "position embeddings",
        "timm",
        "bicubic; antialiased for DINOv2 with registers",
        lambda: {
            "positions 20 x 30": _positions(20, 30),
            "positions 10 x 12, antialiased": _positions(10, 12, antialias=True),
        },
    ),
    Case("scores", "timm", "logits, tiny network", lambda: {"logits": _logits()}),
    Case(
        "`rollout`",
        "transformer-explainability",
        "mean of heads, nothing discarded",
        lambda: {"rollout": _patches(rollout(_given(), START))},
    ),
    Case("`rollout`, `vit-explain`", "vit-explain", "mean, max, min; discard 0, 0.5, 0.9", _vit_explain),
    Case(
        "`rollout`, `by-row`",
        "vit-explain",
        "mean; discard 0.5, 0.9",
        lambda: {f"rollout mean {share:g}": _by_row(share) for share in (0.5, 0.9)},
        "discards in each row, and keeps the class token's column",
    ),
    Case(
        "`grad-rollout`",
        "transformer-explainability",
        "`compute_rollout_attention` of gradient times attention",
        lambda: {"weighted": _patches(grad_rollout(A, G, START))},
    ),
    Case(
        "`grad-rollout`",
        "transformer-explainability",
        "`transformer_attribution`, tiny network",
        lambda: {"transformer attribution": _map("grad-rollout")},
        WITHOUT_LRP,
    ),
    Case(
        "`grad-rollout`",
        "vit-explain",
        "discard 0",
        lambda: {"grad-rollout 0": _by_maximum(_patches(grad_rollout(A, G, START)))},
        "there the heads' mean is clipped at 0, here each head; there columns are divided by the sums of rows",
    ),
    Case("`relevance`", "transformer-mm-explainability", "tiny network", lambda: {"relevance": _map("relevance")}),
    Case(
        "`relevance`",
        "transformer-mm-explainability",
        "rules 5 and 6 of given attention",
        lambda: {"rules": _patches(relevance(A, G, START))},
    ),
    Case(
        "`legrad`, `last-layers`",
        "legrad",
        "tiny network, without CLIP's normalisation of the embedding",
        lambda: {"last two layers": _by_range(_map("legrad"))},
    ),
    Case(
        "`legrad`, `last-layers`",
        "legrad",
        "with that normalisation",
        lambda: {"last two layers, normalised": _by_range(_map("legrad"))},
        "a classifier's score is linear in the embedding",
    ),
    Case(
        "`legrad`, `all-layers`",
        "legrad",
        "from the first layer",
        lambda: {"from the first layer": _by_range(_map("legrad", variant="all-layers"))},
        "each layer is scored by the classifier's token, not by the mean of all",
    ),
    Case("`grad-cam`", "pytorch-grad-cam", "tiny network, `norm1` of the last block, five classes", _grad_cams),
    Case(
        "`foreground`, one object",
        "tokencut",
        "masks of 20 scenes; side by the seed",
        lambda: {"masks": _cuts(side="seed")[:, 0]},
        "on the page keys and last hidden states together, and the side with more attention",
    ),
    Case("`foreground`, one object", "tokencut", "eigenvectors of 4 scenes", lambda: {"eigenvectors": _eigenvectors()}),
    Case(
        "`foreground`, three objects",
        "cutler",
        "masks of 20 scenes; side by the corners, objects painted over",
        lambda: {"masks": _cuts(objects=3, taken="painted")},
        "whether corners count depends there on the solver's sign",
    ),
    Case(
        "`foreground`, three objects",
        "cutler",
        "the same, objects dropped",
        lambda: {"masks": _cuts(objects=3)},
        "the patches of an object leave the graph, as on the page: later objects are larger and more",
    ),
    Case(
        "faithfulness",
        "rise",
        "deletion, insertion and their areas, one patch a step, the picture's mean colour",
        _curves,
    ),
    Case("reconstruction", "mae", "hidden patches, tiny network", lambda: {"prediction": _mae_prediction()}),
)


def _logits() -> Array:
    with torch.no_grad():
        logits = _model()(inputs.picture())
    assert logits is not None
    return logits[0].numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Every method beside published code.")
    parser.add_argument("--write", action="store_true", help="put the table into docs/methods.md")
    text = table()
    print(text)
    if parser.parse_args().write:
        replace_part(ROOT / "docs" / "methods.md", "compared: references", text)
