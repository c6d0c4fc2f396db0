"""Runs models: the Backend protocol, and the backend of one process."""

from vitdemo.engine.backend import Backend, ModelRun
from vitdemo.engine.local import LocalBackend

__all__ = ["Backend", "LocalBackend", "ModelRun"]
