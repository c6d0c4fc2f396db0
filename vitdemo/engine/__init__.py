"""Runs models: the Backend protocol, the backend of one process, and which one the settings choose."""

from vitdemo.engine.backend import Backend, ModelRun
from vitdemo.engine.choose import backend_of
from vitdemo.engine.local import LocalBackend

__all__ = ["Backend", "LocalBackend", "ModelRun", "backend_of"]
