"""Where and in which precision a model runs, and how much memory there is."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vitdemo.errors import OptionError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

LARGE = 50_000_000
"""Parameters from which bf16 pays on a CPU that has it."""

GPU_SHARE, CPU_SHARE = 0.7, 0.5
"""Share of the memory free at the start that models may take."""


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU.

    Raises:
        OptionError: the device does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("not a device that runs models here, such as meta")
    except (RuntimeError, AssertionError, ImportError):
        raise OptionError(f"Device {name!r} is not available here. Use auto, cpu, cuda or mps.") from None
    return device


def pick_dtype(name: str, device: torch.device, parameters: int) -> torch.dtype:
    """`auto` is bf16 on CUDA, fp32 on MPS, and on the CPU fp32 unless the model is large and the CPU has bf16.

    Raises:
        OptionError: an unknown name.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16
        large = device.type == "cpu" and parameters >= LARGE and _cpu_has_bf16()
        return torch.bfloat16 if large else torch.float32
    if name not in DTYPES:
        raise OptionError(f"Unknown dtype {name!r}. Choose from: auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def short(dtype: torch.dtype) -> str:
    """Its name on the command line."""
    return next(name for name, value in DTYPES.items() if value == dtype)


def memory_budget(device: torch.device, setting: float) -> int:
    """Bytes that models may take on a device: the setting in 10^9 bytes, or a share of the memory free now."""
    if setting:
        return int(setting * 1e9)
    if device.type == "cuda":
        return int(GPU_SHARE * torch.cuda.mem_get_info(device)[0])
    return int(CPU_SHARE * free_memory())


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of main memory that are free; in a container, within its limit."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8 << 30
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        group = root / "sys/fs/cgroup"
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        taken = int((group / "memory.current").read_text(encoding="ascii"))
        # Cached files, such as checkpoints that were read, count as used, and give way.
        numbers = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        free = min(free, limit - taken + int(numbers["active_file"]) + int(numbers["inactive_file"]))
    except (OSError, ValueError, KeyError, StopIteration):
        pass  # not Linux, or no limit
    return max(free, 0)


def sent(pixels: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The pixels on CUDA, in the dtype of a model there; on another device what was given, for the forward pass to move.

    They are copied from page-locked memory on a stream of their own, so that a forward pass of another caller goes on meanwhile.
    What this thread and others do with them afterwards waits for the copy.
    """
    if device.type != "cuda" or pixels.device.type != "cpu":
        return pixels
    copies, work = _copies(device), torch.cuda.current_stream(device)
    locked = pixels.to(dtype).pin_memory()
    with torch.cuda.stream(copies):
        found = locked.to(device, non_blocking=True)
    work.wait_stream(copies)
    # It was allocated for the one stream and is used on the other: its memory must not be given away before that is done.
    found.record_stream(work)
    return found


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    """One for all copies to a device: the allocator keeps memory for each stream."""
    return torch.cuda.Stream(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device was out of memory; the allocators of the CPU and of MPS have no exception of their own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The last is cuBLAS's and cuDNN's, which ask the driver for memory of their own.
    words = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(part in str(error) for part in words)


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
