"""The training loop: bit-identical after an interruption, the same on two processes, with errors in words."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitdemo.training.optimisers as optimisers
from tests.training.small import CLASSES, SIZE, assert_same, encoder, log_of, trainer, vit, weights
from vitdemo.errors import TrainingError
from vitdemo.settings import ROOT
from vitdemo.training.architectures import build
from vitdemo.training.augment import Augmentation, Mixing
from vitdemo.training.config import STATE, TrainConfig
from vitdemo.training.data import PhotoSet
from vitdemo.training.ema import EMA
from vitdemo.training.loop import Trainer
from vitdemo.training.optimisers import Muon, make_optimisers, orthogonalise
from vitdemo.training.recipes.base import Recipe, StepContext
from vitdemo.training.recipes.dino import Dino
from vitdemo.training.recipes.supervised import Supervised


def supervised(**changes: Any) -> Supervised:
    torch.manual_seed(3)
    return Supervised(vit(hidden_dropout_prob=0.1), 3, SIZE, **changes)


def dino() -> Dino:
    torch.manual_seed(5)
    return Dino(encoder(), SIZE, outputs=32, local=1)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("recipe", "settings"),
    [(supervised, {"optimiser": "adam", "ema_decay": 0.9}), (supervised, {"optimiser": "muon"}), (dino, {})],
    ids=["adam and EMA", "muon", "self-distillation"],
)
def test_an_interrupted_run_that_is_resumed_ends_with_identical_weights(
    tmp_path: Path, recipe: Callable[[], Recipe], settings: dict[str, Any]
) -> None:
    whole = trainer(tmp_path / "whole", recipe(), **settings)
    whole.run()
    trainer(tmp_path / "cut", recipe(), **settings).run(until=3)
    resumed = trainer(tmp_path / "cut", recipe(), **settings)
    resumed.resume()
    assert resumed.step == 3
    resumed.run()
    assert_same(weights(whole), weights(resumed))


@pytest.mark.thorough
def test_a_killed_process_resumes_from_its_last_saved_step(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, signal, sys, torch
        torch.set_num_threads(1)  # as the tests: another order of adding changes the last bit
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from tests.training.test_loop import supervised, trainer
        run = trainer(Path({str(tmp_path / "run")!r}), supervised(), steps=12, save_every=3)
        run.report = lambda figures: figures["step"] == 8 and os.kill(os.getpid(), signal.SIGKILL)
        run.run()
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=100, check=False)
    assert done.returncode == -9, done.stderr.decode()
    resumed = trainer(tmp_path / "run", supervised(), steps=12, save_every=3)
    resumed.resume()
    assert resumed.step == 6
    resumed.run()
    whole = trainer(tmp_path / "whole", supervised(), steps=12, save_every=3)
    whole.run()
    assert_same(weights(whole), weights(resumed))


def test_a_run_resumes_only_under_its_own_configuration(tmp_path: Path) -> None:
    trainer(tmp_path, supervised()).run(until=2)
    with pytest.raises(TrainingError, match=r"learning_rate 0.002 \(now 0.5\)"):
        trainer(tmp_path, supervised(), learning_rate=0.5).resume()


def test_there_must_be_a_sound_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no run to resume"):
        trainer(tmp_path, supervised()).resume()
    (tmp_path / STATE).write_bytes(b"no state")
    with pytest.raises(TrainingError, match="damaged"):
        trainer(tmp_path, supervised()).resume()


class Diverging(Recipe):
    """The loss is NaN from some step on; the score never improves."""

    def __init__(self, student: nn.Module, last: int) -> None:
        super().__init__()
        self.student, self.last = student, last

    def augmentations(self, size: int) -> list[Augmentation]:
        return [Augmentation(size)]

    def forward(self, views: Any, labels: Tensor, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.student(views[0]).logits.square().mean()
        return loss * (math.nan if context.step >= self.last else 1.0), {}

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        return 0.0


def test_a_loss_that_is_not_a_number_ends_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    run = trainer(tmp_path, Diverging(vit(), last=4))
    with pytest.raises(TrainingError, match="loss is nan at step 4"):
        run.run()
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert state["step"] == 4
    assert all(torch.isfinite(value).all() for value in state["recipe"].values() if value.is_floating_point())


def test_a_full_disk_is_reported_and_the_previous_state_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path, supervised())
    run.run(until=2)
    before = (tmp_path / STATE).read_bytes()

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left"):
        run.save(0.0)
    assert (tmp_path / STATE).read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_the_log_has_one_line_per_step_and_snapshots_are_at_powers_of_two(tmp_path: Path) -> None:
    run = trainer(tmp_path, supervised(), evaluate_every=4)
    snapshots: list[int] = []
    run.snapshot = lambda network, step: snapshots.append(step)
    run.run()
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert snapshots == [1, 2, 4]
    assert [line["step"] for line in lines if "score" in line] == [4, 6]
    assert all({"loss", "rate", "epoch", "images_per_second", "seconds", "accuracy"} <= line.keys() for line in lines)


def test_training_stops_early_when_the_score_no_longer_improves(tmp_path: Path) -> None:
    run = trainer(tmp_path, Diverging(vit(), last=10**6), steps=50, evaluate_every=2, patience=3)
    result = run.run()
    assert result.stopped_early
    assert result.steps == 8  # the first evaluation is the best, three more are not better


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = TrainConfig(steps=100, learning_rate=2.0, warmup=0.1)
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[9] == max(rates) == 2.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_vectors_and_positions_have_no_weight_decay(tmp_path: Path, name: str, kind: type) -> None:
    run = trainer(tmp_path, supervised(), optimiser=name)
    (optimiser,) = run.optimisers
    assert isinstance(getattr(optimiser, "optimizer", optimiser), kind)
    decayed, not_decayed = optimiser.param_groups
    assert decayed["weight_decay"] == run.config.weight_decay
    assert not_decayed["weight_decay"] == 0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    names = {id(parameter): name for name, parameter in run.recipe.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[-1] for p in not_decayed["params"]} == {
        "bias",
        "weight",
        "cls_token",
        "position_embeddings",
    }


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((3, 8, 8), (2, 6, 24), (2, 24, 6)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.4
        assert values.max() < 1.4


def test_wide_and_tall_matrices_are_orthogonalised_like_square_ones() -> None:
    """The short way through `x @ x.mT` against the iteration as Jordan wrote it."""
    a, b, c = 3.4445, -4.7750, 2.0315
    matrix = torch.randn(192, 768, dtype=torch.float64) @ torch.logspace(0, -4, 768, dtype=torch.float64).diag()
    expected = matrix / matrix.norm()
    for _ in range(5):
        square = expected @ expected.mT
        expected = a * expected + (b * square + c * square @ square) @ expected
    found = orthogonalise(torch.stack([matrix, matrix]).float())
    torch.testing.assert_close(found[1].double(), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(orthogonalise(matrix.float().mT[None])[0].double(), expected.mT, rtol=0, atol=2e-5)


def test_muon_trains_the_matrices_of_the_layers_with_updates_of_adamws_size(tmp_path: Path) -> None:
    run = trainer(tmp_path, supervised(), optimiser="muon", weight_decay=0.0, learning_rate=0.01, warmup=0.01)
    names = {id(parameter): name for name, parameter in run.recipe.named_parameters()}
    matrices = run.optimisers[0].param_groups[0]["params"]
    assert {names[id(p)].split("layers.")[1].split(".", 1)[1] for p in matrices} == {
        *(f"attention.{part}_proj.weight" for part in "qkvo"),
        *(f"mlp.fc{number}.weight" for number in (1, 2)),
    }
    before = {name: parameter.detach().clone() for name, parameter in run.recipe.named_parameters()}
    run._step(run.batches.batch(0))
    moved = {name: (p - before[name]).square().mean().sqrt() for name, p in run.recipe.named_parameters()}
    # AdamW's first update is as large as the learning rate; Muon's a fifth of it, like a typical later one of AdamW.
    assert 0.0008 < moved["student.vit.layers.0.mlp.fc1.weight"] < 0.0028
    torch.testing.assert_close(moved["student.classifier.weight"], torch.tensor(0.01), rtol=0.05, atol=0)


def test_muon_trains_filters_as_matrices() -> None:
    filters = nn.Parameter(torch.randn(6, 4, 3, 3))
    matrix = nn.Parameter(filters.detach().flatten(1).clone())
    muon, adamw = make_optimisers("muon", [("layers.0.weight", filters), ("projection.weight", matrix)], 0.1, 0.0)
    assert muon.param_groups[0]["params"] == [filters]
    assert adamw.param_groups[0]["params"] == [matrix]
    filters.grad = torch.randn(6, 4, 3, 3)
    matrix.grad = filters.grad.flatten(1).clone()
    for optimiser in (muon, Muon([matrix], 0.1, 0.0)):
        optimiser.step()
    torch.testing.assert_close(filters.flatten(1), matrix)


@pytest.mark.parametrize("quick", [False, True])
def test_matrices_are_orthogonalised_in_bf16_only_where_that_is_quick(
    monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    monkeypatch.setattr(optimisers, "quick_bf16", lambda device: quick)
    assert orthogonalise(torch.randn(1, 4, 8)).dtype == (torch.bfloat16 if quick else torch.float32)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")
def test_muon_is_torchs_but_for_its_precision(tmp_path: Path) -> None:
    run = trainer(tmp_path, supervised(), optimiser="muon", warmup=0.01)
    run._step(run.batches.batch(0))
    matrices = run.optimisers[0].param_groups[0]["params"]
    copies = [nn.Parameter(matrix.detach().clone()) for matrix in matrices]
    reference = torch.optim.Muon(copies, lr=2e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for copy, matrix in zip(copies, matrices, strict=True):
        copy.grad = matrix.grad.clone()
        reference.state[copy]["momentum_buffer"] = run.optimisers[0].state[matrix]["momentum"].clone()
    for group in run.optimisers[0].param_groups:
        group["lr"] = 2e-3
    before = [copy.detach().clone() for copy in copies]
    run.optimisers[0].step()
    reference.step()
    for old, copy, matrix in zip(before, copies, matrices, strict=True):
        assert nn.functional.cosine_similarity((copy - old).flatten(), (matrix - old).flatten(), dim=0) > 0.95


def test_an_unknown_optimiser_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="adam, adamw, muon"):
        trainer(tmp_path, supervised(), optimiser="sgd")


def test_the_gradients_are_clipped(tmp_path: Path) -> None:
    run = trainer(tmp_path, supervised(), clip=1e-3)
    run._step(run.batches.batch(0))
    norms = [p.grad.norm() for p in run.recipe.parameters() if p.grad is not None]
    assert torch.stack(norms).norm() <= 1.001e-3


def test_the_ema_follows_the_weights() -> None:
    network = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema = EMA(network, 0.5)
    nn.init.ones_(network.weight)
    for expected in (0.5, 0.75):
        ema.update(network, 10**6)
        assert torch.equal(ema.network.weight, torch.full((1, 2), expected))  # type: ignore[arg-type]


def test_bf16_gives_about_the_loss_of_fp32_and_fp32_gradients(tmp_path: Path) -> None:
    full, half = (trainer(tmp_path, supervised(), precision=name) for name in ("fp32", "bf16"))
    losses = [run._step(run.batches.batch(0))["loss"] for run in (full, half)]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)
    assert {p.grad.dtype for p in half.recipe.parameters() if p.grad is not None} == {torch.float32}


def one_step(folder: Path) -> Trainer:
    """A run after its first step, without dropout or mixing: every process draws its own."""
    recipe = supervised(mixing=Mixing())
    for module in recipe.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    run = trainer(folder, recipe, optimiser="muon", clip=0.0)
    run._step(run.batches.batch(0))
    return run


def gradients(run: Trainer) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in run.recipe.named_parameters() if p.grad is not None}


WORKER = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.training.test_loop import gradients, one_step
run = one_step(Path({folder!r}))
assert run.accelerator.num_processes == 2, run.accelerator.num_processes
if run.accelerator.is_main_process:
    torch.save(gradients(run), Path({folder!r}) / "gradients.pt")
run.accelerator.end_training()
"""


@pytest.mark.timeout(400)
@pytest.mark.thorough
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    one = gradients(one_step(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", WORKER.format(root=str(ROOT), folder=str(tmp_path))]
    workers = [
        subprocess.Popen(
            command, env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE
        )
        for rank in ("0", "1")
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=390)
        assert worker.returncode == 0, errors.decode()[-3000:]
    two = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_every_architecture_can_be_built_in_every_size() -> None:
    with torch.device("meta"):
        for arch in ("vit", "deit", "beit", "mae"):
            small, large = (
                sum(p.numel() for p in build(arch, size, CLASSES, 224).parameters()) for size in ("tiny", "base")
            )
            assert small < 8e6 < 85e6 < large + 5e6
