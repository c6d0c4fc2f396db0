"""The device that is measured, the sizes that suit it, and how times are taken."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from vitdemo.engine import LocalBackend
from vitdemo.engine.devices import pick_dtype, short
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec, spec_from_folder, write_json
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import ModelSpec, Photo

DEFAULT = ("vit-mini", "deit-mini", "beit-mini", "dino-mini", "hybrid-mini")


@dataclass(frozen=True)
class Rig:
    """Where the suite runs: a GPU at full size, or, as a rehearsal, any device at sizes that say nothing."""

    device: torch.device
    tiny: bool = False

    @classmethod
    def of_environment(cls) -> Rig:
        """As `scripts.gpu` tells the processes that it starts."""
        return cls(torch.device(os.environ.get("VITDEMO_GPU_DEVICE", "cuda")), bool(os.environ.get("VITDEMO_GPU_TINY")))

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def present(self) -> bool:
        """Whether the device is here."""
        return not self.cuda or torch.cuda.is_available()

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.cuda else self.device.type

    @property
    def settings(self) -> Settings:
        return Settings(device=str(self.device))

    @cached_property
    def pipeline(self) -> Pipeline:
        return Pipeline(self.settings)

    @property
    def half(self) -> str:
        """The precision in which models run here by themselves."""
        return short(pick_dtype("auto", self.device, 0))

    def choose(self, full: Any, tiny: Any) -> Any:
        """One of two sizes."""
        return tiny if self.tiny else full

    def backend(self, **changes: Any) -> LocalBackend:
        """A backend of its own, with nothing loaded."""
        return LocalBackend(Settings(device=str(self.device), **changes))

    def models(self) -> list[ModelSpec]:
        """The five transformers with labels, which the page opens with."""
        return [get_spec(name) for name in self.choose(DEFAULT, DEFAULT[:1])]

    def photos(self, count: int | None = None) -> list[Photo]:
        """The examples."""
        paths = sorted((ASSETS / "examples").glob("*.jpg"))[: count or self.choose(None, 2)]
        return [self.pipeline.open(path) for path in paths]

    def vit(self, folder: Path, patch: int = 16, small: bool = False) -> ModelSpec:
        """A ViT-B (or ViT-S) with a classifier of 1,000 classes and random weights: time and memory do not depend on them."""
        width, heads, layers = self.choose((384, 6, 12) if small else (768, 12, 12), (24, 4, 2))
        config = transformers.ViTConfig(
            hidden_size=width,
            num_attention_heads=heads,
            num_hidden_layers=layers,
            intermediate_size=4 * width,
            patch_size=patch,
            image_size=self.choose(224, 4 * patch),
            num_labels=self.choose(1000, 7),
        )
        target = folder / f"vit-{'s' if small else 'b'}{patch}-random"
        transformers.logging.disable_progress_bar()
        transformers.ViTForImageClassification(config).save_pretrained(target)
        size = {"height": config.image_size, "width": config.image_size}
        write_json(
            target / "preprocessor_config.json",
            {"size": size, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        )
        return spec_from_folder(target)

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], Any], rounds: int, warm: int = 3) -> list[float]:
        """Of each of so many runs, after a few that do not count."""
        for _ in range(self.choose(warm, 1)):
            run()
        found = []
        for _ in range(self.choose(rounds, 2)):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            found.append(time.perf_counter() - start)
        return found

    def peak_mb(self, run: Callable[[], Any]) -> float | None:
        """10^6 bytes of the device that a run takes beside what is there before it; None where nobody counts."""
        if not self.cuda:
            run()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        run()
        self.wait()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 1e6


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return dict.fromkeys(("median", "q1", "q3"), float(values[0]))
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the sorted values lies; the nearest one.

    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the reports of libraries."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
