"""What the steps of the Inside tab cost beside a forward pass: `python -m scripts.measure_inside [MODEL]`.

For each step the median milliseconds, over photos that are new to the program, from the page's request to its answer as JSON,
next to those of `classify` with the same model, in turn. Then a single head switched off, and all heads ranked.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median

from scripts.measure_compare import new_photo
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.types import Photo
from vitdemo.ui.inside import InsideTab
from vitdemo.ui.inside_bench import effects_json
from vitdemo.ui.inside_settings import STEPS, read_settings

ROUNDS = 7


def main() -> None:
    pipeline, spec = Pipeline(), get_spec(sys.argv[1] if len(sys.argv) > 1 else "vit-mini")
    # The tab without its page: it makes the answers, and nothing else.
    tab = object.__new__(InsideTab)
    tab.pipeline = pipeline

    def forward(photo: Photo) -> None:
        pipeline.classify([photo], spec)

    def step(name: str, **given: object) -> Callable[[Photo], None]:
        settings, _ = read_settings({"step": name, "model": spec.name, "beside": spec.name, **given}, spec.name)

        def run(photo: Photo) -> None:
            json.dumps(tab.views(photo, settings))

        return run

    def rank(photo: Photo) -> None:
        settings, _ = read_settings({"model": spec.name}, spec.name)
        start, count = 0, 1
        while start < count:
            found = effects_json(pipeline, photo, spec, settings, {"by": "heads", "start": start, "target": 0})
            start, count = start + len(found["effects"]), found["count"]

    names = {name: step(name) for name in STEPS if name not in ("cnn", "training")}
    for name, run in {**names, "one head off": step("apart", heads="3:0"), "all heads ranked": rank}.items():
        times = [(elapsed(forward), elapsed(run)) for _ in range(ROUNDS + 1)][1:]
        plain, own = median(one for one, _ in times), median(one for _, one in times)
        print(f"{name}: {own:.0f} ms; classify {plain:.0f} ms; {own - plain:.0f} ms more", flush=True)


def elapsed(run: Callable[[Photo], None]) -> float:
    """Milliseconds with a new photo, decoded before."""
    photo = Pipeline().open(new_photo())
    start = time.perf_counter()
    run(photo)
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
