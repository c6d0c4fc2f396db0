"""Which replica runs a model: the one that has it. A pure function of what replicas have told, and of what is under way."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Model:
    """What has to be known of a model to place it."""

    key: str
    """Its checkpoint."""
    parameters: int


@dataclass(frozen=True)
class Report:
    """What a replica tells of itself, with every answer."""

    replica: str
    pid: int
    version: str
    where: str
    """What its models run on, for people."""
    holds: int
    """How many parameters all its models together may have."""
    loaded: Mapping[str, int] = field(default_factory=dict)
    """Checkpoints in its memory, and the bytes of each."""
    forwards: int = 0
    counts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """See `vitdemo.engine.counts.Counts.shown`."""


class Placement:
    """Safe to use from many threads.

    Calls of a model go to the replica that has it. A model that none has is loaded by the one that holds the least; whoever asks
    for it meanwhile is sent there too. A replica that has `hot` runs under way is no longer the only one for its models: another
    one that has at most half as many loads the model as well.

    Where several pages use one cluster, each has a placement of its own. They agree on the replica for a new model as long as
    they know the same: ties are broken by a digest that all compute alike.
    """

    def __init__(self, hot: int) -> None:
        self.hot = hot
        self._reports: dict[str, Report] = {}
        self._under_way: dict[str, Counter[Model]] = {}
        self._guard = threading.Lock()

    def place(self, models: Sequence[Model], replicas: Collection[str]) -> list[str]:
        """A replica for each model; "" while there is none. They count as under way until `ended`."""
        with self._guard:
            found = []
            for model in models:
                replica = self._pick(model, replicas) if replicas else ""
                self._under_way.setdefault(replica, Counter())[model] += 1
                found.append(replica)
            return found

    def ended(self, replica: str, models: Sequence[Model]) -> None:
        """They are no longer under way where they were placed."""
        with self._guard:
            self._under_way[replica].subtract(models)
            self._under_way[replica] += Counter()
            if not self._under_way[replica]:
                del self._under_way[replica]

    def learned(self, report: Report) -> None:
        with self._guard:
            self._reports[report.replica] = report

    def lost(self, replica: str) -> None:
        """It has nothing in memory any more; what it did is still counted."""
        with self._guard:
            if report := self._reports.get(replica):
                self._reports[replica] = Report(
                    replica, 0, report.version, report.where, report.holds, {}, report.forwards, report.counts
                )

    def reports(self) -> list[Report]:
        """The last one of every replica that there has been."""
        with self._guard:
            return list(self._reports.values())

    def _pick(self, model: Model, replicas: Collection[str]) -> str:
        homes = [replica for replica in replicas if self._has(replica, model)]
        fitting = [replica for replica in replicas if self._may_hold(replica) >= model.parameters] or list(replicas)
        if not homes:
            return min(fitting, key=lambda one: (self._held(one), self._load(one), _digest(model.key, one)))
        best = min(homes, key=lambda one: (self._load(one), _digest(model.key, one)))
        others = [one for one in fitting if one not in homes]
        if others and self._load(best) >= self.hot:
            other = min(others, key=lambda one: (self._load(one), _digest(model.key, one)))
            if 2 * self._load(other) <= self._load(best):
                return other
        return best

    def _has(self, replica: str, model: Model) -> bool:
        report = self._reports.get(replica)
        return (report is not None and model.key in report.loaded) or model in self._under_way.get(replica, ())

    def _load(self, replica: str) -> int:
        return sum(self._under_way.get(replica, {}).values())

    def _held(self, replica: str) -> int:
        """Bytes that it holds, and will hold in float32 when it has loaded what is under way."""
        report = self._reports.get(replica)
        loaded = report.loaded if report else {}
        coming = [model for model in self._under_way.get(replica, {}) if model.key not in loaded]
        return sum(loaded.values()) + sum(4 * model.parameters for model in coming)

    def _may_hold(self, replica: str) -> float:
        report = self._reports.get(replica)
        return report.holds if report else float("inf")


def _digest(key: str, replica: str) -> str:
    return hashlib.sha256(f"{key} {replica}".encode()).hexdigest()
