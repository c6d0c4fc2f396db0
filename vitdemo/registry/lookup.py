"""Models by name: embedded, added from a folder, or from the Hub."""

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
from vitdemo.settings import ASSETS, Settings, on_zero_gpu
from vitdemo.types import ModelSpec

_added: dict[str, ModelSpec] = {}
"""Models of local folders, added while the process runs."""


def available_models() -> tuple[ModelSpec, ...]:
    """All known models: embedded, then local, then Hub models, those on disk first."""
    sources = ("embedded", "local", "hub")
    known = (*_embedded().values(), *_added.values(), *_hub())
    return tuple(
        sorted(known, key=lambda spec: (sources.index(spec.source), not spec.ready, FAMILIES.index(spec.family)))
    )


def ready_models() -> tuple[ModelSpec, ...]:
    """The models whose weights are on disk."""
    return tuple(spec for spec in available_models() if spec.ready)


def get_spec(name: str) -> ModelSpec:
    """The model of this name, ready to run. Safe for untrusted names: no folder is opened and no request is made.

    Raises:
        UnknownModelError: there is none; the message lists the choices.
        NotDownloadedError: the weights of a Hub model are not on disk.
    """
    spec = _embedded().get(name) or _added.get(name)
    if spec is None and hub_cache.is_hub_name(name):
        spec = hub_spec(name)
    if spec is None:
        choices = ", ".join(spec.name for spec in ready_models())
        raise UnknownModelError(
            f"Unknown model {name!r}. Choose from: {choices}; or a model on the Hub, as organisation/model."
        )
    if not spec.ready:
        if on_zero_gpu():
            raise NotDownloadedError(
                f"{name} is not on this Space, and none is fetched here after the start. Choose from: "
                f"{', '.join(spec.name for spec in ready_models())}; or duplicate the Space with this model in VITDEMO_MODELS."
            )
        size = f" ({spec.bytes / 1e6:.0f} MB)" if spec.bytes else ""
        raise NotDownloadedError(
            f"{name} is not on this machine{size}. Fetch it in the Models tab, or with: python -m vitdemo download {name}"
        )
    return spec


def find_spec(name: str) -> ModelSpec:
    """The model of this name or folder. Never pass untrusted names: folders are opened.

    Raises:
        UnknownModelError: there is none.
        CheckpointError: the folder holds no supported model.
        NotDownloadedError: the weights of a Hub model are not on disk.
    """
    folder = _folder_of(name)
    return get_spec(name) if folder is None else spec_from_folder(folder)


def add_folder(path: str) -> ModelSpec:
    """Add the model of a folder until the process ends. Never pass untrusted paths.

    Raises:
        OptionError: no such folder with a model, or its name is taken.
        CheckpointError: the model is not supported.
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
    """The folder, if it exists and holds a model."""
    try:
        folder = Path(path).expanduser()
        return folder if (folder / "config.json").is_file() else None
    except (OSError, RuntimeError, ValueError):  # name too long, unknown user, NUL byte
        return None


def forget_folder(name: str) -> None:
    """Undo `add_folder`; the files are kept."""
    _added.pop(name, None)


def embedded_models() -> tuple[ModelSpec, ...]:
    """The models that ship with the project, ordered by family."""
    return tuple(_embedded().values())


def default_models(settings: Settings) -> tuple[ModelSpec, ...]:
    """The initial models of a comparison: those of the settings, else all embedded ones with labels and attention."""
    if settings.models:
        return tuple(get_spec(name) for name in settings.models)
    return tuple(spec for spec in embedded_models() if spec.labels and spec.readouts)


def segmenting_model() -> ModelSpec:
    """The default model for segmentation: a DINO, whose features separate objects, else the first with attention."""
    ready = [spec for spec in ready_models() if spec.readouts]
    return next((spec for spec in ready if spec.family == "DINO"), ready[0])


def reconstructing_model() -> ModelSpec:
    """The default model for reconstruction: the first masked autoencoder."""
    return next(spec for spec in ready_models() if spec.reconstructs)


def hub_spec(name: str) -> ModelSpec | None:
    """A Hub model's description: from its files if on disk, else from the table of official checkpoints, else None."""
    repo, _ = hub_cache.split(name)
    known = OFFICIAL.get(repo)
    found = hub_cache.snapshot(name, pickle=known is not None)
    if found is not None:
        try:
            return spec_from_snapshot(found, name)
        except CheckpointError:
            pass  # a damaged file is fetched again by the next download
    return replace(known, name=name) if known is not None else None


@lru_cache(maxsize=256)
def spec_from_snapshot(found: Path, name: str) -> ModelSpec:
    """Cached, because the files of a commit never change."""
    with errors_name_model(found, name):
        spec = spec_from_folder(found, "hub", name, OFFICIAL.get(hub_cache.split(name)[0]))
    return replace(spec, revision=found.name)


def check_snapshot(found: Path, name: str) -> None:
    """Check a snapshot's configuration files.

    Raises:
        CheckpointError: the model is not supported.
    """
    with errors_name_model(found, name):
        spec_from_configs(found, "hub", name)


@contextmanager
def errors_name_model(found: Path, name: str) -> Iterator[None]:
    """Replace the commit hash, the name of a snapshot's folder, by the model's name in error messages."""
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
