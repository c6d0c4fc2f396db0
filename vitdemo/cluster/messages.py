"""What the page and its bridge tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitdemo.cluster.placement import Model


@dataclass(frozen=True)
class Work:
    """One forward pass, or one look at a model."""

    model: Model
    packed: bytes


@dataclass(frozen=True)
class Job:
    """All that one action needs, and the pixels that its parts share."""

    method: str
    version: str
    works: Sequence[Work]
    pixels: Sequence[bytes]
    seconds: float
    """After which it is given up."""


@dataclass(frozen=True)
class Failure:
    """Why there is no answer: "busy", "late", "lost", "absent" or "failed"."""

    kind: str
    detail: str = ""
