"""The training loop: the same again after a kill, the same on two processes, and an end in words."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitdemo.errors import TrainingError
from vitdemo.settings import ROOT
from vitdemo.training.architectures import build
from vitdemo.training.augment import Augmentation
from vitdemo.training.average import Average
from vitdemo.training.data import Batches, PhotoSet
from vitdemo.training.loop import LOG, STATE, Plan, Trainer
from vitdemo.training.optimisers import orthogonal
from vitdemo.training.recipes.base import Moment, Recipe
from vitdemo.training.recipes.dino import Dino
from vitdemo.training.recipes.supervised import Supervised

CLASSES = ("red", "green", "blue")


def coloured_photos(count: int = 48, seed: int = 0) -> PhotoSet:
    """Noise with a cast: three classes that a network learns in a few steps."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = generator.integers(0, 60, (count, 40, 52, 3))
    for index, label in enumerate(labels):
        images[index, :, :, label] += 120
    return PhotoSet(tuple(images.astype(np.uint8)), labels.astype(np.int64), CLASSES)


def small_vit() -> nn.Module:
    torch.manual_seed(3)
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=32,
            patch_size=16,
            num_labels=3,
            hidden_dropout_prob=0.1,
        )
    )


def trainer(folder: Path, recipe: Recipe | None = None, **changes: Any) -> Trainer:
    photos = coloured_photos()
    plan = Plan(
        **{"steps": 12, "batch": 12, "size": 32, "learning_rate": 1e-3, "average": 0.9, "save_every": 1, **changes}
    )
    return Trainer(recipe or Supervised(small_vit(), 3, 32), plan, photos, coloured_photos(12, 1), folder, cpu=True)


def weights(run: Trainer) -> dict[str, Tensor]:
    return {**run.recipe.state_dict(), **{f"mean.{k}": v for k, v in run.network.state_dict().items()}}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_run_that_is_cut_off_and_resumed_ends_with_the_same_weights(tmp_path: Path, cut: int) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run()
    trainer(tmp_path / "cut").run(until=cut)
    resumed = trainer(tmp_path / "cut")
    resumed.resume()
    assert resumed.step == cut
    resumed.run()
    assert_same(weights(whole), weights(resumed))


def test_self_distillation_resumes_with_its_teacher_and_centre(tmp_path: Path) -> None:
    def recipe() -> Dino:
        network = small_vit()
        torch.manual_seed(5)
        return Dino(network.vit, 32, outputs=32, local=1)  # type: ignore[arg-type]

    whole = trainer(tmp_path / "whole", recipe(), average=0.0)
    whole.run()
    trainer(tmp_path / "cut", recipe(), average=0.0).run(until=7)
    resumed = trainer(tmp_path / "cut", recipe(), average=0.0)
    resumed.resume()
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
        from tests.test_loop import trainer
        run = trainer(Path({str(tmp_path / "run")!r}), save_every=3)
        run.report = lambda figures: figures["step"] == 8 and os.kill(os.getpid(), signal.SIGKILL)
        run.run()
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=100, check=False)
    assert done.returncode == -9, done.stderr.decode()
    resumed = trainer(tmp_path / "run", save_every=3)
    resumed.resume()
    assert resumed.step == 6
    resumed.run()
    whole = trainer(tmp_path / "whole", save_every=3)
    whole.run()
    assert_same(weights(whole), weights(resumed))


def test_a_run_resumes_only_under_its_own_plan(tmp_path: Path) -> None:
    trainer(tmp_path).run(until=2)
    with pytest.raises(TrainingError, match=r"learning_rate 0.001 \(now 0.5\)"):
        trainer(tmp_path, learning_rate=0.5).resume()


def test_there_must_be_a_sound_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no run to resume"):
        trainer(tmp_path).resume()
    (tmp_path / STATE).write_bytes(b"no state")
    with pytest.raises(TrainingError, match="damaged"):
        trainer(tmp_path).resume()


class Diverging(Recipe):
    """Fine for some steps, then not a number."""

    def __init__(self, student: nn.Module, last: int) -> None:
        super().__init__()
        self.student, self.last = student, last

    def augmentations(self, size: int) -> list[Augmentation]:
        return [Augmentation(size)]

    def forward(self, views: Any, labels: Tensor, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.student(views[0]).logits.square().mean()
        return loss * (math.nan if moment.step >= self.last else 1.0), {}

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        return 0.0


def test_a_loss_that_is_not_a_number_ends_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    run = trainer(tmp_path, Diverging(small_vit(), last=4))
    with pytest.raises(TrainingError, match="loss is nan at step 4"):
        run.run()
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert state["step"] == 4
    assert all(torch.isfinite(value).all() for value in state["recipe"].values() if value.is_floating_point())


def test_no_room_for_the_state_is_said_and_the_old_one_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path)
    run.run(until=2)
    before = (tmp_path / STATE).read_bytes()

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left"):
        run.save(0.0)
    assert (tmp_path / STATE).read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_the_log_has_a_line_a_step_and_the_snapshots_are_at_powers_of_two(tmp_path: Path) -> None:
    run = trainer(tmp_path, judge_every=4)
    snapshots: list[int] = []
    run.snapshot = lambda network, step: snapshots.append(step)
    run.run()
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert snapshots == [1, 2, 4, 8]
    assert [line["step"] for line in lines if "score" in line] == [4, 8, 12]
    assert all({"loss", "rate", "epoch", "images_per_second", "seconds", "accuracy"} <= line.keys() for line in lines)


def test_training_stops_early_when_the_score_no_longer_rises(tmp_path: Path) -> None:
    run = trainer(tmp_path, Diverging(small_vit(), last=10**6), steps=50, judge_every=2, patience=3)
    result = run.run()
    assert result.stopped_early
    assert result.steps == 8  # the first judgement is the best there is, three more are not better


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    plan = Plan(steps=100, learning_rate=2.0, warm_up=0.1)
    rates = [plan.rate(step) for step in range(100)]
    assert rates[9] == max(rates) == 2.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_vectors_and_positions_do_not_decay(tmp_path: Path, name: str, kind: type) -> None:
    run = trainer(tmp_path, optimiser=name)
    assert isinstance(getattr(run.optimiser, "optimizer", run.optimiser), kind)
    decaying, free = run.optimiser.param_groups
    assert decaying["weight_decay"] == run.plan.weight_decay
    assert free["weight_decay"] == 0
    assert all(parameter.ndim > 1 for parameter in decaying["params"])
    names = {id(parameter): name for name, parameter in run.recipe.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[-1] for p in free["params"]} == {
        "bias",
        "weight",
        "cls_token",
        "position_embeddings",
    }


def test_matrices_are_moved_with_singular_values_near_one() -> None:
    for shape in ((3, 8, 8), (2, 6, 24), (2, 24, 6)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)).float())
        assert values.min() > 0.4
        assert values.max() < 1.4


def test_muon_moves_the_matrices_of_the_layers_alone_and_about_as_far_as_adamw(tmp_path: Path) -> None:
    run = trainer(tmp_path, optimiser="muon", weight_decay=0.0, learning_rate=0.01, warm_up=0.01)
    names = {id(parameter): name for name, parameter in run.recipe.named_parameters()}
    own = next(group for group in run.optimiser.param_groups if group["matrices"])
    assert {names[id(p)].split("layers.")[1].split(".", 1)[1] for p in own["params"]} == {
        *(f"attention.{part}_proj.weight" for part in "qkvo"),
        *(f"mlp.fc{number}.weight" for number in (1, 2)),
    }
    before = {name: parameter.detach().clone() for name, parameter in run.recipe.named_parameters()}
    run._step(run.batches.batch(0))
    moved = {name: (p - before[name]).square().mean().sqrt() for name, p in run.recipe.named_parameters()}
    # AdamW's first step has the size of the rate everywhere; Muon's a fifth of it, which is AdamW's usual later one.
    assert 0.001 < moved["student.vit.layers.0.mlp.fc1.weight"] < 0.0028
    torch.testing.assert_close(moved["student.classifier.weight"], torch.tensor(0.01), rtol=0.05, atol=0)


def test_an_unknown_optimiser_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="adam, adamw, muon"):
        trainer(tmp_path, optimiser="sgd")


def test_the_gradients_are_clipped(tmp_path: Path) -> None:
    run = trainer(tmp_path, clip=1e-3)
    run._step(run.batches.batch(0))
    norms = [p.grad.norm() for p in run.recipe.parameters() if p.grad is not None]
    assert torch.stack(norms).norm() <= 1.001e-3


def test_the_running_average_follows_the_weights() -> None:
    network = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = Average(network, 0.5)
    nn.init.ones_(network.weight)
    average.update(network, 10**6)
    assert torch.equal(average.network.weight, torch.full((1, 2), 0.5))  # type: ignore[arg-type]
    average.update(network, 10**6)
    assert torch.equal(average.network.weight, torch.full((1, 2), 0.75))  # type: ignore[arg-type]


def test_bf16_learns_too(tmp_path: Path) -> None:
    run = trainer(tmp_path, precision="bf16", steps=30)
    run.run()
    losses = [json.loads(line)["loss"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


WORKER = """
import sys, torch
sys.path.insert(0, {root!r})
from pathlib import Path
from vitdemo.training.augment import Mixing
from vitdemo.training.recipes.supervised import Supervised
from tests.test_loop import small_vit, trainer
network = small_vit()
for module in network.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
run = trainer(Path({folder!r}), Supervised(network, 3, 32, mixing=Mixing()), clip=0.0)
run._step(run.batches.batch(0))
if run.accelerator.is_main_process:
    grads = {{name: p.grad.clone() for name, p in run.recipe.named_parameters() if p.grad is not None}}
    torch.save(grads, Path({folder!r}) / "grads.pt")
    assert run.accelerator.num_processes == {processes}, run.accelerator.num_processes
run.accelerator.end_training()
"""


def gradients(folder: Path, processes: int) -> dict[str, Tensor]:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = WORKER.format(root=str(ROOT), folder=str(folder), processes=processes)
    workers = []
    for rank in range(processes):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {
                "ACCELERATE_USE_CPU": "true",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
            }
        workers.append(subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE))
    for worker in workers:
        _, errors = worker.communicate(timeout=110)
        assert worker.returncode == 0, errors.decode()[-3000:]
    loaded: dict[str, Tensor] = torch.load(folder / "grads.pt", weights_only=True)
    return loaded


@pytest.mark.thorough
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    one, two = gradients(tmp_path / "one", 1), gradients(tmp_path / "two", 2)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_every_architecture_can_be_built_in_every_size_of_the_table() -> None:
    with torch.device("meta"):
        for arch in ("vit", "deit", "beit", "mae"):
            small, large = (
                sum(p.numel() for p in build(arch, size, CLASSES, 224).parameters()) for size in ("tiny", "base")
            )
            assert small < 8e6 < 85e6 < large + 5e6


def test_batches_are_made_while_the_last_one_is_trained_on() -> None:
    batches = Batches(coloured_photos(), 12, (Augmentation(32),), 0)
    iterator = iter(batches)
    for step in range(6):
        batch = next(iterator)
        assert torch.equal(batch.views[0], batches.batch(step).views[0])
