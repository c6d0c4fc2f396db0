"""The training loop: logged, checkpointed, and bit-identical when resumed after an interruption."""

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
from vitdemo.training.config import LOG, STATE, TrainConfig
from vitdemo.training.data import Batch, PhotoSet
from vitdemo.training.ema import EMA
from vitdemo.training.optimisers import make_optimisers
from vitdemo.training.recipes.base import Recipe, StepContext


@dataclass(frozen=True)
class Result:
    """Outcome of a run."""

    steps: int
    score: float
    best: float
    seconds: float
    images_per_second: float
    """Training alone, without evaluation and saving."""
    stopped_early: bool
    interrupted: bool = False
    """Whether it was asked to stop, and can be resumed."""


class Trainer:
    """Trains a recipe, in a folder that holds the run's log and state.

    Raises (from `run`):
        TrainingError: the loss is not finite; the last good state is kept.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: TrainConfig,
        train: PhotoSet,
        test: PhotoSet,
        folder: Path,
        *,
        cpu: bool = False,
        report: Callable[[dict[str, Any]], None] = lambda figures: None,
        snapshot: Callable[[nn.Module, int], None] = lambda network, step: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        # Autocast is applied in `_step`: Accelerate would set the precision for the whole process.
        # Only masked modelling uses BEiT's mask token: DDP stops at unused parameters without this flag.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=cpu, kwargs_handlers=[unused])
        self.config, self.train_set, self.test_set, self.folder = config, train, test, folder
        self.report, self.snapshot, self.stop = report, snapshot, stop
        self.recipe = recipe
        self.ema = EMA(recipe.result(), config.ema_decay) if config.ema_decay else None
        optimisers = make_optimisers(
            config.optimiser, recipe.named_parameters(), config.learning_rate, config.weight_decay
        )
        self.module, *self.optimisers = self.accelerator.prepare(recipe, *optimisers)
        if self.ema is not None:
            self.ema.to(self.accelerator.device)
        self.batches = recipe.batches(train, config.batch, config.resolution, config.seed)
        self.batches.shard = (self.accelerator.process_index, self.accelerator.num_processes)
        self.step = 0
        self.best = -math.inf
        self.evaluations_since_best = 0
        self.seconds = 0.0

    @property
    def network(self) -> nn.Module:
        """What is evaluated and exported: the recipe's result, or its EMA."""
        return self.recipe.result() if self.ema is None else self.ema.network

    def run(self, until: int | None = None) -> Result:
        """Train to the last step, to step `until`, or until `stop` says so after a step, and save the state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.batches.start = self.step
        seen, score, early, interrupted = 0, math.nan, False, False
        last = min(self.config.steps, until if until is not None else self.config.steps)
        started = time.perf_counter()
        overhead = 0.0  # seconds of evaluation and saving
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            for batch in self.batches:
                interrupted = self.step < last and not early and self.stop()
                if self.step >= last or early or interrupted:
                    break
                figures = self._step(batch)
                seen += len(batch.labels) * self.accelerator.num_processes
                spent = time.perf_counter() - started
                figures |= {"images_per_second": seen / (spent - overhead), "seconds": self.seconds + spent}
                if self._due(self.config.evaluate_every) or self.step == self.config.steps:
                    score = self._evaluate()
                    figures["score"] = score
                    early = bool(self.config.patience) and self.evaluations_since_best >= self.config.patience
                self._write(log, figures)
                if self.step & (self.step - 1) == 0 and self.accelerator.is_main_process:
                    self.snapshot(self.network, self.step)
                if self._due(self.config.save_every):
                    self.save(self.seconds + spent)
                overhead += time.perf_counter() - started - spent
        spent = time.perf_counter() - started
        self.seconds += spent
        self.save(self.seconds)
        if interrupted:
            # Not counted as an evaluation: what is resumed ends as if it had not been interrupted.
            score = self.recipe.score(self.network, self.train_set, self.test_set)
        speed = seen / max(spent - overhead, 1e-9)
        return Result(self.step, score, self.best, self.seconds, speed, early, interrupted)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _step(self, batch: Batch) -> dict[str, Any]:
        # Dropout and the like are seeded step by step: there is no generator state to save.
        torch.manual_seed(hash((self.config.seed, self.step)) & 0x7FFFFFFF)
        rate = self.config.learning_rate_at(self.step)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = rate
        device = self.accelerator.device
        views = [normalised(view.to(device, non_blocking=True)) for view in batch.views]
        context = StepContext(self.step, self.step / self.config.steps, self.config.seed)
        cached = {"targets": [target.to(device) for target in batch.targets]} if batch.targets else {}
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss, figures = self.module(views, batch.labels.to(device), context, **cached)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss is {value} at step {self.step}. The last good state is kept in {self.folder.name}; start "
                "again with a lower learning rate, or in fp32."
            )
        self.accelerator.backward(loss)
        if self.config.clip:
            self.accelerator.clip_grad_norm_(self.module.parameters(), self.config.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.recipe.after_step(context)
        if self.ema is not None:
            self.ema.update(self.recipe.result(), self.step)
        self.step += 1
        place = {"step": self.step, "steps": self.config.steps, "epoch": self.step / self.batches.per_epoch}
        return {**place, "loss": value, "rate": rate} | {name: float(figure) for name, figure in figures.items()}

    def _evaluate(self) -> float:
        score = self.recipe.score(self.network, self.train_set, self.test_set)
        self.evaluations_since_best = 0 if score > self.best else self.evaluations_since_best + 1
        self.best = max(self.best, score)
        return score

    def _write(self, log: TextIO, figures: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            log.write(json.dumps(figures) + "\n")
            log.flush()
            self.report(figures)

    def save(self, seconds: float) -> None:
        """Atomically write everything that the next step depends on.

        Raises:
            TrainingError: the disk is full.
        """
        if not self.accelerator.is_main_process:
            return
        state = {
            "config": asdict(self.config),
            "step": self.step,
            "best": self.best,
            "evaluations_since_best": self.evaluations_since_best,
            "seconds": seconds,
            "recipe": self.recipe.state(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "ema": None if self.ema is None else self.ema.network.state_dict(),
        }
        part = self.folder / (STATE + ".part")
        try:
            torch.save(state, part)
            os.replace(part, self.folder / STATE)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            raise TrainingError(
                f"The state cannot be saved in {self.folder.name}: {error}. The previous one is kept."
            ) from error

    def resume(self) -> None:
        """Load the state in the folder.

        Raises:
            TrainingError: there is none, it is damaged, or it was written under another configuration.
        """
        try:
            state = torch.load(self.folder / STATE, map_location=self.accelerator.device, weights_only=True)
        except FileNotFoundError:
            raise TrainingError(f"There is no run to resume in {self.folder.name}.") from None
        except Exception as error:
            raise TrainingError(f"The state in {self.folder.name} is damaged.") from error
        saved, ours = state["config"], asdict(self.config)
        differing = [name for name in ours if saved.get(name) != ours[name]]
        if differing:
            raise TrainingError(
                f"The run in {self.folder.name} was started with other settings: "
                + ", ".join(f"{name} {saved.get(name)} (now {ours[name]})" for name in differing)
            )
        self.recipe.load_state(state["recipe"])
        for optimiser, optimiser_state in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(optimiser_state)
        if self.ema is not None:
            self.ema.network.load_state_dict(state["ema"])
        self.step, self.best, self.evaluations_since_best = (
            state["step"],
            state["best"],
            state["evaluations_since_best"],
        )
        self.seconds = state["seconds"]
