"""The training loop: one optimiser step after the other, logged, saved, and the same again after a kill."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn

from vitdemo.errors import TrainingError
from vitdemo.training.augment import normalised
from vitdemo.training.data import Batch, PhotoSet
from vitdemo.training.ema import Average
from vitdemo.training.optimisers import make_optimiser
from vitdemo.training.recipes.base import STATE, Moment, Recipe

LOG = "log.jsonl"


@dataclass(frozen=True)
class Plan:
    """How long and how fast to learn. A run is resumed only under the plan it was begun with."""

    steps: int
    batch: int = 64
    size: int = 224
    optimiser: str = "adamw"
    learning_rate: float = 5e-4
    """At its peak; it rises linearly and falls as a cosine."""
    warm_up: float = 0.05
    """Share of the steps."""
    weight_decay: float = 0.05
    clip: float = 1.0
    """Largest norm of the gradients; 0 switches clipping off."""
    average: float = 0.0
    """Decay of the running average of the weights, which is then what is judged and exported; 0 switches it off."""
    precision: str = "fp32"
    seed: int = 0
    judge_every: int = 0
    """Steps between two judgements; 0 for one at the end."""
    patience: int = 0
    """Judgements without a better score after which training stops early; 0 for never."""
    save_every: int = 200

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        rising = max(1, round(self.warm_up * self.steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    steps: int
    score: float
    best: float
    seconds: float
    images_per_second: float
    """While training, judging and saving left out."""
    stopped_early: bool


class Trainer:
    """Runs a recipe under a plan, in a folder that holds its log and its state.

    Raises (from `run`):
        TrainingError: the loss is no longer a finite number; the last good state is kept.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        train: PhotoSet,
        test: PhotoSet,
        folder: Path,
        *,
        cpu: bool = False,
        report: Callable[[dict[str, Any]], None] = lambda figures: None,
        snapshot: Callable[[nn.Module, int], None] = lambda network, step: None,
    ) -> None:
        # Precision is ours, below: Accelerate would fix it for the whole process.
        # BEiT has a mask token that only masked modelling uses; without the flag several processes would stop over it.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=cpu, kwargs_handlers=[unused])
        self.plan, self.train_set, self.test_set, self.folder = plan, train, test, folder
        self.report, self.snapshot = report, snapshot
        self.recipe = recipe
        self.average = Average(recipe.result(), plan.average) if plan.average else None
        optimiser = make_optimiser(plan.optimiser, recipe.named_parameters(), plan.learning_rate, plan.weight_decay)
        self.module, self.optimiser = self.accelerator.prepare(recipe, optimiser)
        if self.average is not None:
            self.average.to(self.accelerator.device)
        self.batches = recipe.batches(train, plan.batch, plan.size, plan.seed)
        self.batches.shard = (self.accelerator.process_index, self.accelerator.num_processes)
        self.step = 0
        self.best = -math.inf
        self.since_best = 0
        self.seconds = 0.0

    @property
    def network(self) -> nn.Module:
        """What is judged and exported: the result of the recipe, or the running average of it."""
        return self.recipe.result() if self.average is None else self.average.network

    def run(self, until: int | None = None) -> Result:
        """Train to the end of the plan, or to step `until`, and leave the state behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.batches.start = self.step
        seen, score, early = 0, math.nan, False
        last = min(self.plan.steps, until if until is not None else self.plan.steps)
        begun = time.perf_counter()
        aside = 0.0  # seconds that went into judging and saving
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            for batch in self.batches:
                if self.step >= last or early:
                    break
                figures = self._step(batch)
                seen += len(batch.labels) * self.accelerator.num_processes
                spent = time.perf_counter() - begun
                figures |= {"images_per_second": seen / (spent - aside), "seconds": self.seconds + spent}
                if self._due(self.plan.judge_every) or self.step == self.plan.steps:
                    score = self._judge()
                    figures["score"] = score
                    early = bool(self.plan.patience) and self.since_best >= self.plan.patience
                self._write(log, figures)
                if self.step & (self.step - 1) == 0 and self.accelerator.is_main_process:
                    self.snapshot(self.network, self.step)
                if self._due(self.plan.save_every):
                    self.save(self.seconds + spent)
                aside += time.perf_counter() - begun - spent
        spent = time.perf_counter() - begun
        self.seconds += spent
        self.save(self.seconds)
        return Result(self.step, score, self.best, self.seconds, seen / max(spent - aside, 1e-9), early)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _step(self, batch: Batch) -> dict[str, Any]:
        # Dropout and the like draw from numbers of this step alone: there is no generator to save.
        torch.manual_seed(hash((self.plan.seed, self.step)) & 0x7FFFFFFF)
        rate = self.plan.rate(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        device = self.accelerator.device
        views = [normalised(view.to(device, non_blocking=True)) for view in batch.views]
        moment = Moment(self.step, self.step / self.plan.steps, self.plan.seed)
        more = {"targets": [target.to(device) for target in batch.targets]} if batch.targets else {}
        with torch.autocast(device.type, torch.bfloat16, enabled=self.plan.precision == "bf16"):
            loss, figures = self.module(views, batch.labels.to(device), moment, **more)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss is {value} at step {self.step}. The last good state is kept in {self.folder.name}; resume from "
                "it with a lower learning rate, or in fp32."
            )
        self.optimiser.zero_grad()
        self.accelerator.backward(loss)
        if self.plan.clip:
            self.accelerator.clip_grad_norm_(self.module.parameters(), self.plan.clip)
        self.optimiser.step()
        self.recipe.after_step(moment)
        if self.average is not None:
            self.average.update(self.recipe.result(), self.step)
        self.step += 1
        return {"step": self.step, "epoch": self.step / self.batches.per_epoch, "loss": value, "rate": rate} | {
            name: float(figure) for name, figure in figures.items()
        }

    def _judge(self) -> float:
        score = self.recipe.score(self.network, self.train_set, self.test_set)
        self.since_best = 0 if score > self.best else self.since_best + 1
        self.best = max(self.best, score)
        return score

    def _write(self, log: TextIO, figures: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            log.write(json.dumps(figures) + "\n")
            log.flush()
            self.report(figures)

    def save(self, seconds: float) -> None:
        """Write everything that the next step depends on; a kill in the middle leaves the old file.

        Raises:
            TrainingError: there is no room.
        """
        if not self.accelerator.is_main_process:
            return
        state = {
            "plan": asdict(self.plan),
            "step": self.step,
            "best": self.best,
            "since_best": self.since_best,
            "seconds": seconds,
            "recipe": self.recipe.state(),
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else self.average.network.state_dict(),
        }
        part = self.folder / (STATE + ".part")
        try:
            torch.save(state, part)
            os.replace(part, self.folder / STATE)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            raise TrainingError(
                f"The state cannot be saved in {self.folder.name}: {error}. The last one is kept."
            ) from error

    def resume(self) -> None:
        """Go on from the state in the folder.

        Raises:
            TrainingError: there is none, it is damaged, or it belongs to another plan.
        """
        try:
            state = torch.load(self.folder / STATE, map_location=self.accelerator.device, weights_only=True)
        except FileNotFoundError:
            raise TrainingError(f"There is no run to resume in {self.folder.name}.") from None
        except Exception as error:
            raise TrainingError(f"The state in {self.folder.name} is damaged.") from error
        theirs, ours = state["plan"], asdict(self.plan)
        differing = [name for name in ours if theirs.get(name) != ours[name]]
        if differing:
            raise TrainingError(
                f"The run in {self.folder.name} was begun with other settings: "
                + ", ".join(f"{name} {theirs.get(name)} (now {ours[name]})" for name in differing)
            )
        self.recipe.load_state(state["recipe"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])
        self.step, self.best, self.since_best = state["step"], state["best"], state["since_best"]
        self.seconds = state["seconds"]
