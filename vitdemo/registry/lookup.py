"""Every model that can be named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from vitdemo.errors import CheckpointError, NotDownloadedError, OptionError, UnknownModelError
from vitdemo.registry import hub_cache
from vitdemo.registry.checkpoints import spec_from_configs, spec_from_folder
from vitdemo.registry.configs import FAMILIES
from vitdemo.registry.official import OFFICIAL
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import ModelSpec

_added: dict[str, ModelSpec] = {}
"""Local folders that were added while this process runs."""


def available_models() -> tuple[ModelSpec, ...]:
    """Every model that can be named: embedded ones first, then those of the Hub, those that are on the disk before the others."""
    sources = ("embedded", "local", "hub")
    known = (*_embedded().values(), *_added.values(), *_hub())
    return tuple(
        sorted(known, key=lambda spec: (sources.index(spec.source), not spec.ready, FAMILIES.index(spec.family)))
    )


def ready_models() -> tuple[ModelSpec, ...]:
    """Those that can run at once."""
    return tuple(spec for spec in available_models() if spec.ready)


def get_spec(name: str) -> ModelSpec:
    """The model of that name, ready to run. Never looks at a folder or at the network.

    Raises:
        UnknownModelError: there is none; the message lists the choices.
        NotDownloadedError: it is on the Hub, and its weights are not here.
    """
    spec = _embedded().get(name) or _added.get(name)
    if spec is None and hub_cache.is_hub_name(name):
        spec = hub_spec(name)
    if spec is None:
        choices = ", ".join(spec.name for spec in ready_models())
        raise UnknownModelError(
            f"Unknown model {name!r}. Choose from: {choices}; or a model of the Hub, as organisation/model."
        )
    if not spec.ready:
        size = f" ({spec.bytes / 1e6:.0f} MB)" if spec.bytes else ""
        raise NotDownloadedError(
            f"{name} is not on this machine{size}. Fetch it in the Models tab, or with: python -m vitdemo download {name}"
        )
    return spec


def find_spec(name: str) -> ModelSpec:
    """The model of that name, or the one in that folder. Not for names that strangers give: it looks at the disk.

    Raises:
        UnknownModelError: neither.
        CheckpointError: the folder holds no model that can be loaded.
        NotDownloadedError: it is on the Hub, and its weights are not here.
    """
    folder = _folder_of(name)
    return get_spec(name) if folder is None else spec_from_folder(folder)


def add_folder(path: str) -> ModelSpec:
    """Put the model of a folder among the others until the process ends. Not for names that strangers give.

    Raises:
        OptionError: there is no such folder with a model, or its name is taken.
        CheckpointError: the model cannot be loaded.
    """
    folder = _folder_of(path)
    if folder is None:
        raise OptionError(f"{path!r} is neither organisation/model on the Hub nor a folder with a config.json.")
    spec = spec_from_folder(folder.resolve())
    taken = _embedded().get(spec.name) or _added.get(spec.name)
    if taken is not None and taken.checkpoint != spec.checkpoint:
        raise OptionError(f"There is a model {spec.name!r} already. Rename the folder.")
    _added[spec.name] = spec
    return spec


def _folder_of(path: str) -> Path | None:
    """The folder, if there is one with a model in it."""
    try:
        folder = Path(path).expanduser()
        return folder if (folder / "config.json").is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, of no such user, with a zero byte
        return None


def forget_folder(name: str) -> None:
    """Take a folder that was added out again; its files stay."""
    _added.pop(name, None)


def embedded_models() -> tuple[ModelSpec, ...]:
    """Those that ship with the project, in the order of the families."""
    return tuple(_embedded().values())


def default_models(settings: Settings) -> tuple[ModelSpec, ...]:
    """The models that a comparison opens with: those of the settings, else every embedded one with labels and attention."""
    if settings.models:
        return tuple(get_spec(name) for name in settings.models)
    return tuple(spec for spec in embedded_models() if spec.labels and spec.readouts)


def segmenting_model() -> ModelSpec:
    """The model that segments where none is named: a DINO, in whose features objects stand out, else the first with attention."""
    ready = [spec for spec in ready_models() if spec.readouts]
    return next((spec for spec in ready if spec.family == "DINO"), ready[0])


def reconstructing_model() -> ModelSpec:
    """The model that fills in hidden patches where none is named: the first masked autoencoder."""
    return next(spec for spec in ready_models() if spec.reconstructs)


def hub_spec(name: str) -> ModelSpec | None:
    """What is known of a model of the Hub: from its files if they are here, else from the table; None if from neither."""
    repo, _ = hub_cache.split(name)
    known = OFFICIAL.get(repo)
    found = hub_cache.snapshot(name, pickle=known is not None)
    if found is not None:
        try:
            return spec_from_snapshot(found, name)
        except CheckpointError:
            pass  # a damaged file: fetched again by the next download
    return replace(known, name=name) if known is not None else None


@lru_cache(maxsize=256)
def spec_from_snapshot(found: Path, name: str) -> ModelSpec:
    """The files of a commit never change."""
    with named(found, name):
        spec = spec_from_folder(found, "hub", name, OFFICIAL.get(hub_cache.split(name)[0]))
    return replace(spec, revision=found.name)


def check_snapshot(found: Path, name: str) -> None:
    """Whether it can be loaded, as far as the configuration files tell.

    Raises:
        CheckpointError: it cannot.
    """
    with named(found, name):
        spec_from_configs(found, "hub", name)


@contextmanager
def named(found: Path, name: str) -> Iterator[None]:
    """A snapshot's folder has the name of a commit, which tells nobody anything."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(found.name, name)) from None


def _hub() -> Iterator[ModelSpec]:
    for name in OFFICIAL:
        spec = hub_spec(name)
        if spec is not None:
            yield spec
    for repo in hub_cache.repositories():
        if repo not in OFFICIAL:
            spec = hub_spec(repo)
            if spec is not None:
                yield spec


@lru_cache(maxsize=1)
def _embedded() -> dict[str, ModelSpec]:
    folders = sorted(path.parent for path in (ASSETS / "models").glob("*/config.json"))
    specs = [spec_from_folder(folder, source="embedded") for folder in folders]
    return {spec.name: spec for spec in sorted(specs, key=lambda spec: (FAMILIES.index(spec.family), spec.name))}
