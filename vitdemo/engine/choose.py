"""Which backend the settings choose."""

from __future__ import annotations

from vitdemo.engine.backend import Backend
from vitdemo.engine.local import LocalBackend
from vitdemo.errors import SettingsError
from vitdemo.settings import Settings


def backend_of(settings: Settings) -> Backend:
    """The backend that `VITDEMO_BACKEND` names; Ray is loaded for its own only.

    Raises:
        SettingsError: there is no such backend.
        ServiceError: see `vitdemo.engine.ray_backend`.
    """
    if settings.backend == "local":
        return LocalBackend(settings)
    if settings.backend == "ray":
        from vitdemo.engine.ray_backend import RayBackend

        return RayBackend(settings)
    raise SettingsError(f"VITDEMO_BACKEND={settings.backend!r} cannot be used. Choose local or ray.")
