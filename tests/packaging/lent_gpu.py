"""Starts the Space in the working directory as on ZeroGPU, with the real `spaces` package, where there is no GPU.

The package is told that torch has CUDA. Everything else of it is what runs on a Space: it replaces torch's functions, packs to
disk what was moved to "cuda", forks workers, pickles, and asks a scheduler, at SPACES_ZERO_DEVICE_API_URL. Two functions that
need a GPU are exchanged in the worker: the weights are put back as CPU tensors, and the pixels stay with them.
"""

import os
import runpy
import sys

import torch

sys.path.insert(0, os.getcwd())
torch.version.cuda = "12.8"
torch._C._cuda_init = lambda: None
torch.cuda._is_in_bad_fork = bool
import spaces  # noqa: E402, F401
import spaces.zero.torch as lent  # noqa: E402
from spaces.zero.torch import patching  # noqa: E402


def initialise(_: str) -> None:
    from vitdemo.engine import zerogpu

    forward = zerogpu.forward

    def on_cpu(model, spec, pixels, request, _, dtype):  # type: ignore[no-untyped-def]
        return forward(model, spec, pixels, request, torch.device("cpu"), dtype)

    zerogpu.forward = on_cpu


def move(callback=None) -> None:  # type: ignore[no-untyped-def]
    for pack in patching.tensor_packs:
        with open(pack.path(), "rb") as file:
            for tensor, size, aligned in [*(one for batch in pack.batches for one in batch), *pack.big_tensors]:
                data = bytearray(file.read(aligned)[:size])
                storage = torch.frombuffer(data, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)
                found = torch.tensor([], dtype=tensor.dtype)
                found.set_(storage.clone().untyped_storage(), 0, tensor.shape, tensor.stride())
                for fake in pack.fakes[tensor]:
                    fake.data = found


lent.init, lent.move = initialise, move
sys.argv = ["app.py"]
runpy.run_path("app.py", run_name="__main__")
