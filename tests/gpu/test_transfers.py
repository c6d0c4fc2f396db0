"""Pixels are copied to the GPU beside the forward pass of another caller, and arrive whole."""

from __future__ import annotations

import torch

from scripts.gpu.rig import Rig
from tests.gpu.conftest import Keep
from vitdemo.engine.devices import _copies, sent
from vitdemo.models.preprocess import preprocess
from vitdemo.registry import get_spec
from vitdemo.types import Capture

CYCLES = 500_000_000
"""Of a kernel that does nothing but take time: about a third of a second."""


def test_a_copy_does_not_wait_for_the_forward_pass_that_runs(cuda: Rig, keep: Keep) -> None:
    pixels = torch.randn(8, 3, 224, 224)
    sent(pixels, cuda.device, torch.bfloat16)  # page-locked memory is slow to get the first time
    cuda.wait()
    started, copied = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    done = torch.cuda.Event(enable_timing=True)
    started.record()
    torch.cuda._sleep(CYCLES)
    done.record()
    found = sent(pixels, cuda.device, torch.bfloat16)
    copies = _copies(cuda.device)
    copied.record(copies)
    copies.synchronize()
    running = not done.query()
    cuda.wait()
    keep(kernel_ms=started.elapsed_time(done), copied_after_ms=started.elapsed_time(copied))
    assert running, "the copy had to wait for the kernel"
    assert torch.equal(found.cpu(), pixels.to(torch.bfloat16))


def test_what_uses_a_copy_at_once_waits_for_it(cuda: Rig) -> None:
    for seed in range(50):
        pixels = torch.full((64, 3, 224, 224), float(seed + 1))
        total = sent(pixels, cuda.device, torch.bfloat16).float().amin()
        assert total.item() == seed + 1


def test_sent_pixels_give_what_pixels_give_that_are_moved_at_once(rig: Rig) -> None:
    spec, backend = get_spec("vit-mini"), rig.backend()
    pixels = preprocess(rig.photos(), spec.processor).pixel_values
    outputs = backend.run(spec, pixels, Capture(), rig.half)
    with backend._queue(spec, rig.half, rig.device) as queue, torch.no_grad():
        moved = pixels[:8].to(queue.device, queue.dtype)
        expected = queue.model(moved).float().cpu()
    found = torch.stack([output.logits for output in outputs[:8] if output.logits is not None])
    assert torch.equal(found, expected), "the same batch, the same kernels"
