"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from vitdemo.ui import memory
from vitdemo.ui.memory import FreedMemory


def resident() -> float:
    """Of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc"
)
def test_freed_memory_is_given_back_once_something_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    freed = FreedMemory()
    freed.give_back()
    before = resident()
    blocks = [bytearray(b"x" * 100_000) for _ in range(3000)]
    kept = blocks[:: len(blocks) // 10]  # what is still used lies between what is not
    del blocks
    left = resident()
    assert left > before + 200
    monkeypatch.setattr(memory, "WORK", 1e9)
    freed.give_back()
    assert resident() > before + 200
    monkeypatch.setattr(memory, "WORK", 0.0)
    freed.give_back()
    assert resident() < before + 50
    assert all(block[0] == ord("x") for block in kept)
