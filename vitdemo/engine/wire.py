"""Values that cross a process, as bytes: tensors travel as arrays.

multiprocessing would send a tensor as a handle of shared memory, which dies with the process that made it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return _reduced(value) if isinstance(value, Tensor) else NotImplemented


def _reduced(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    tensor = tensor.detach().cpu().contiguous()
    # NumPy has no bfloat16.
    raw = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    return _restored, (raw.numpy(), tensor.dtype)


def _restored(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(array if array.flags.writeable else np.array(array))
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor


def pack(value: Any) -> bytes:
    """Dataclasses, containers, errors and tensors, as bytes."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def unpack(data: bytes) -> Any:
    """The value. Never give it bytes that come from outside of the program."""
    return pickle.loads(data)
