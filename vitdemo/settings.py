"""Settings from `VITDEMO_*` environment variables; `docs/settings.md` has the table, made from the docstrings here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vitdemo.errors import SettingsError

VERSION = "0.1.0"

_PACKAGE = Path(__file__).resolve().parent
ROOT: Path | None = None if (_PACKAGE / "assets").is_dir() else _PACKAGE.parent
"""The repository that this runs from; None where a wheel was installed."""
ASSETS = (_PACKAGE if ROOT is None else ROOT) / "assets"
"""Embedded models, examples, favicon and preview; inside the package where a wheel was installed."""


@dataclass(frozen=True)
class Settings:
    """Limits and defaults. Each field is read from `VITDEMO_` + its name in capitals."""

    max_image_mb: float = 10.0
    """Largest image file, in 10^6 bytes; also the largest download from a URL."""
    max_megapixels: float = 25.0
    """Largest image, in 10^6 pixels."""
    max_side: int = 16_384
    """Longest side of an image, in pixels."""
    url_input: bool = True
    """Whether images may be fetched from URLs that a user gives."""
    url_timeout: float = 10.0
    """Seconds that one URL may take in all, redirects included."""
    url_allow_hosts: tuple[str, ...] = ()
    """`host` or `host:port` entries, separated by commas, that are fetched although they resolve to a private address."""
    hosts: tuple[str, ...] = ()
    """Names under which the page answers, and other sites whose pages may use it, separated by commas; `*.example.com` means
    every subdomain, `*` any name. Addresses, localhost, this machine's own name and those of a Space need no entry."""
    models: tuple[str, ...] = ()
    """Models that Compare opens with, as `a,b,c`; empty means every embedded one that has labels and attention."""
    backend: str = "local"
    """What runs the models: `local`, the process of the page or command, or `ray`, a service of replicas: see `docs/scale.md`.
    On ZeroGPU it is neither."""
    ray_address: str = ""
    """`host:port` of the Ray cluster that has the service; empty means the one that `vitdemo serve` runs on this machine, or, if
    there is none, one that lasts as long as the page or command. The machine has to be part of the cluster."""
    ray_replicas: int = 1
    """How many replicas a service starts with, each with models of its own; with `ray_max_replicas`, the fewest."""
    ray_max_replicas: int = 0
    """The most replicas that load may bring about; 0 means that their number is fixed."""
    ray_cpus: float = 0.0
    """Cores for each replica; 0 means an even share of those of the machine."""
    ray_gpus: float = 0.0
    """GPUs for each replica; several may share one, as with 0.5."""
    ray_timeout: float = 120.0
    """Seconds that a job may take on the service, waiting included, before it is given up."""
    metrics: bool = False
    """Whether `/metrics` tells, in Prometheus' text format, how much is asked for and run. Only this machine and its private
    network may read it, and not through a proxy."""
    device: str = "auto"
    """Where models run: `auto`, `cpu`, `cuda` or `mps`; `auto` means CUDA if there is one, else MPS, else the CPU."""
    dtype: str = "auto"
    """Precision: `auto`, `fp32`, `bf16` or `fp16`; `auto` means bf16 on CUDA, fp32 on MPS, and on the CPU fp32 unless the model
    has 50 M parameters or more and the CPU supports bf16."""
    max_batch: int = 8
    """How many waiting images of several users share one forward pass."""
    memory_gb: float = 0.0
    """What loaded models may take, in 10^9 bytes; 0 means 70% of the free GPU memory, or half of the free main memory."""
    add_models: str = ""
    """Which models users of the page may download or add: `any`, `listed` (the official checkpoints) or `none`; empty means
    `any`, and on a Hugging Face Space `listed`. On ZeroGPU it is `none`."""
    cache_mb: float = 256.0
    """What cached results (captured attention, no images) may take in memory, in 10^6 bytes."""
    max_queue: int = 32
    """How many jobs may wait before the page says that it is busy."""
    max_photos: int = 50
    """How many images one user may compare at once under "Several photos"."""
    mcp: bool | None = None
    """Whether agents may call the app as tools over MCP; empty means only on a Hugging Face Space. Needs the package `mcp`."""
    train: bool | None = None
    """Whether the page has the tab Train; empty means yes, and on a Hugging Face Space no. On ZeroGPU it never has."""
    train_minutes: float = 60.0
    """Longest training that may be started on the page, in minutes."""
    train_mb: float = 300.0
    """Largest archive of photos that may be uploaded for a training, in 10^6 bytes."""
    choose: bool | None = None
    """Whether the page has the tab Choose; empty means yes. On ZeroGPU it says why it cannot run there."""
    choose_photos: int | None = None
    """How many photos Choose compares models on, on the page; empty means 20,000, and on a Hugging Face Space 1,000. Of more, so
    many are drawn."""
    choose_minutes: float | None = None
    """Longest comparison of Choose that runs on the page, in minutes; empty means 120, and on a Hugging Face Space 10."""
    choose_mb: float | None = None
    """Largest archive of photos that may be uploaded for Choose, in 10^6 bytes; empty means 800, and on a Hugging Face Space
    100."""
    max_models: int = 16
    """How many models one call, or one comparison on the page, may name."""
    temp_mb: float = 1000.0
    """What uploaded images and files of results may take on the disk, in 10^6 bytes; the oldest are deleted for new ones."""
    features_mb: float = 1000.0
    """What features of photos may take on the disk, in 10^6 bytes, from which an interrupted `choose` resumes; those not used for
    longest are deleted for new ones."""
    data: Path | None = None
    """Folder with the labelled photos that some tests use; those tests are skipped without it."""


def get_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings as the environment has them now.

    Raises:
        SettingsError: a variable has a value of the wrong form.

    >>> get_settings({"VITDEMO_MODELS": "vit-mini, dino-mini"}).models
    ('vit-mini', 'dino-mini')
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for field in fields(Settings):
        variable = f"VITDEMO_{field.name.upper()}"
        text = environment.get(variable, "").strip()
        if not text:
            continue
        try:
            values[field.name] = _PARSERS[str(field.type)](text)
        except ValueError as error:
            raise SettingsError(f"{variable}={text!r} cannot be used: {error}.") from None
    return Settings(**values)


def on_zero_gpu(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this is a Hugging Face Space whose GPU is lent for each call (ZeroGPU); read as the `spaces` package reads it."""
    environment = os.environ if environment is None else environment
    return environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError("a number is expected") from None
        if not 0 < value < 1e9:
            raise ValueError("it must be above 0 and below 1e9")
        return value

    return parse


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("1 or 0 is expected")


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int": _positive(int),
    "float": _positive(float),
    "int | None": _positive(int),
    "float | None": _positive(float),
    "bool": _boolean,
    "bool | None": _boolean,
    "str": str,
    "tuple[str, ...]": lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
    "Path | None": Path,
}
