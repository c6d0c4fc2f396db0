"""Tables of the benchmarks, each from the figures of one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


def _throughput(figures: dict[str, Any]) -> Iterator[str]:
    operations, peak, product = (figures.get(key, {}) for key in ("operations", "peak", "product"))
    if operations:
        yield (
            f"ViT-B/16 with random weights, bf16, 224 px: {operations['counted'] / 1e9:.2f} x 10^9 operations "
            f"per image as counted by torch, {operations['by hand'] / 1e9:.2f} by hand."
        )
    if peak.get("tflops"):
        yield f"Peak of {peak['device']}: {peak['tflops']:g} TFLOPS, dense bf16 ([NVIDIA]({peak['source']}))."
    elif peak:
        yield f"The peak of {peak['device']} is not known here, so that MFU is left out."
    if product:
        yield f"A product of two bf16 matrices of {product['side']} x {product['side']} reaches {product['tflops']:.3g} TFLOPS."
    yield ""
    rows = []
    for key, entry in figures.items():
        if "batch" in entry:
            share = "" if entry["mfu"] is None else f"{100 * entry['mfu']:.1f}%"
            how = "compiled" if key == "compiled" else "as it is"
            rows.append([how, str(entry["batch"]), f"{entry['images per second']:,.0f}", f"{entry['ms']:.2f}", share])
    yield from table(("`torch.compile`", "batch", "images per second", "ms per batch", "MFU"), rows)
    compiled = figures.get("compiled", {})
    if "fault" in compiled:
        yield f"`torch.compile` failed: `{compiled['fault'].splitlines()[0]}`."
        yield ""
    elif compiled:
        yield (
            f"Compiling took {compiled['seconds to compile']:.0f} s; "
            f"logits differ by {compiled['largest difference of a logit']:.2g} at most."
        )
        yield ""


def _tap(figures: dict[str, Any]) -> Iterator[str]:
    rows = []
    for name, entry in figures.items():
        plain = entry["plain"]
        rows.append([name, "plain, flash attention", f"1 ({plain['ms']:.2f} ms)", number(plain["mb"], 0)])
        rows += [
            [name, variant, _ratio(one["ratio"]), number(one["mb"], 0)]
            for variant, one in entry.items()
            if variant != "plain"
        ]
    yield "Random weights, bf16. Time over that of the plain forward pass; memory beside model and input."
    yield ""
    yield from table(("model", "recorded", "time", "peak MB"), rows)


def _compare(figures: dict[str, Any]) -> Iterator[str]:
    rows = [
        [
            dtype,
            _ratio(figures[dtype]),
            *(f"{figures.get(f'{dtype}, ms', {}).get(kind, 0):.0f}" for kind in ("compared", "naive")),
        ]
        for dtype in ("bf16", "fp32")
        if dtype in figures
    ]
    yield "`scripts/measure_compare`: each naive run opens the file, runs its processor, and its model with eager attention."
    yield ""
    yield from table(("precision", "five compared / five naive", "compared, ms", "naive, ms"), rows)
    if "users" in figures:
        yield f"Throughput of five users over that of one: {_ratio(figures['users'])}."
        yield ""


def _methods(figures: dict[str, Any]) -> Iterator[str]:
    names = list(dict.fromkeys(name for entry in figures.values() for name in entry["ms"]))
    rows = [
        [
            model,
            *(
                f"{entry['ms'][name]['device']:.1f} / {entry['ms'][name]['whole']:.1f}" if name in entry["ms"] else ""
                for name in names
            ),
        ]
        for model, entry in figures.items()
    ]
    dtype = next(iter(figures.values()))["dtype"]
    yield f"Milliseconds for one photo, {dtype}: on the device / with copies to it and back. Medians."
    yield ""
    yield from table(("model", *names), rows)


def _users(figures: dict[str, Any]) -> Iterator[str]:
    keys = ("images per second", "images per forward pass", "p50 ms", "p95 ms")
    yield "Each user sends a photo when the last one is answered; class-token rows of all layers."
    yield ""
    yield from table(
        ("model, users", *keys), [[name, *(number(one[key], 1) for key in keys)] for name, one in figures.items()]
    )


def _live(figures: dict[str, Any]) -> Iterator[str]:
    keys = ("frames per second", "p50 ms", "p95 ms", "model p50 ms")
    yield "Frames of 640 x 480 px, one after the other, from JPEG to the answer; without browser and network."
    yield "All cameras together."
    yield ""
    yield from table(
        ("model, cameras", *keys), [[name, *(number(one[key], 1) for key in keys)] for name, one in figures.items()]
    )


def _transfers(figures: dict[str, Any]) -> Iterator[str]:
    copy = figures.get("copy")
    if copy:
        yield (
            f"{copy['mb']:.0f} MB of bf16 pixels: {copy['plain GB/s']:.1f} GB/s as they are, {copy['sent GB/s']:.1f} GB/s "
            "with page-locked memory, conversion from fp32 included."
        )
        yield ""
    rest = {name: one for name, one in figures.items() if name != "copy"}
    if rest:
        yield "Eight users, batches of eight images, ViT-B/16 in bf16; milliseconds in which the device was busy with it:"
        yield ""
        keys = list(next(iter(rest.values())))
        yield from table(
            ("recorded", *keys), [[name, *(number(one[key], 1) for key in keys)] for name, one in rest.items()]
        )


def _bench(figures: dict[str, Any]) -> Iterator[str]:
    names = list(dict.fromkeys(name for entry in figures.values() for name in entry["ratios"]))
    rows = [
        [model, *(_ratio(entry["ratios"][name]) if name in entry["ratios"] else "" for name in names)]
        for model, entry in figures.items()
    ]
    dtype = next(iter(figures.values()))["dtype"]
    yield f"`python -m vitdemo bench` at batch 1, {dtype}: time over that of a plain forward pass."
    yield ""
    yield from table(("model", *names), rows)


PARTS: dict[str, tuple[str, Callable[[dict[str, Any]], Iterator[str]]]] = {
    "throughput": ("ViT-B/16", _throughput),
    "tap": ("The attention tap", _tap),
    "compare": ("Five models compared", _compare),
    "methods": ("Methods", _methods),
    "users": ("Many users", _users),
    "live": ("Live", _live),
    "transfers": ("Copies to the device and back", _transfers),
    "ratios": ("Ratios", _bench),
}


def table(head: Iterable[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    cells = list(head)
    yield f"| {' | '.join(cells)} |"
    yield f"|{'---|' * len(cells)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _ratio(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['q1']:.2f} to {value['q3']:.2f})"


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
