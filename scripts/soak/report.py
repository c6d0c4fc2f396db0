"""The table at the end, and whether the bars are met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles

from scripts.soak.users import MIX, Done

GROWTH = 1.05
"""What memory in the last tenth may be over that in the second."""
ENDING = 10.0
"""Seconds that the server may take to end."""


@dataclass(frozen=True)
class Soaked:
    """What was seen."""

    users: int
    start: float
    stopped: float
    """When the server was told to end."""
    done: Sequence[Done]
    memory: Sequence[tuple[float, float]]
    ending: float
    status: int
    files_before: int
    files_left: int
    log: str

    def tenths(self) -> list[float]:
        """Mean MB in each tenth of the time under load."""
        length = (self.stopped - self.start) / 10
        parts: list[list[float]] = [[] for _ in range(10)]
        for at, resident in self.memory:
            if self.start <= at < self.stopped:
                parts[min(9, int((at - self.start) / length))].append(resident)
        return [fmean(part) if part else 0.0 for part in parts]

    def failures(self) -> list[str]:
        """The bars that are not met, in words."""
        found = []
        for outcome, words in (
            ("broken", "jobs without exactly one worded answer"),
            ("of another", "answers to another user's photo"),
            ("wrong", "wrong answers"),
        ):
            if count := _count(self.done, outcome):
                found.append(f"{count} {words}")
        # Of its own accord, the page fails at nothing: only while it ends.
        if count := sum(one.outcome == "error" and one.at + one.seconds < self.stopped for one in self.done):
            found.append(f"{count} errors")
        tenths = self.tenths()
        if tenths[9] > GROWTH * tenths[1]:
            found.append(f"memory of the last tenth is {tenths[9] / tenths[1]:.2f} times that of the second")
        if self.ending > ENDING or self.status != 0:
            found.append(f"ended after {self.ending:.1f} s with status {self.status}")
        if self.files_left:
            found.append(f"{self.files_left} files left")
        if "Traceback" in self.log:
            found.append("tracebacks in the log")
        return found


def table(seen: Soaked) -> str:
    """Markdown."""
    minutes = (seen.stopped - seen.start) / 60
    lines = [
        f"{seen.users} users for {minutes:.1f} minutes",
        "",
        "| | number | per second | p50 | p95 | p99 | refused | wrong | another user's | unanswered |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in (*MIX, "all"):
        mine = [one for one in seen.done if kind in (one.kind, "all")]
        during = [one.seconds for one in mine if one.outcome == "right" and one.at + one.seconds <= seen.stopped]
        counts = [_count(mine, outcome) for outcome in ("refused", "wrong", "of another", "broken")]
        cells = [f"{len(mine):,}", f"{len(mine) / minutes / 60:.2f}", *_percentiles(during), *map(str, counts)]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    tenths = seen.tenths()
    ended = [one for one in seen.done if one.at + one.seconds > seen.stopped]
    lines += [
        "",
        f"Memory per tenth, MB: {', '.join(f'{one:,.0f}' for one in tenths)}; "
        f"last over second: {tenths[9] / tenths[1] if tenths[1] else 0:.3f}.",
        f"SIGTERM under load: ended after {seen.ending:.1f} s with status {seen.status}; of {len(ended)} actions under way "
        f"{_count(ended, 'right') + _count(ended, 'gone')} finished, "
        f"{_count(ended, 'refused') + _count(ended, 'error')} were refused in words, {_count(ended, 'broken')} cut off.",
        f"Files: {seen.files_before:,} before it, {seen.files_left} after.",
    ]
    return "\n".join(lines)


def odd(done: Iterable[Done], limit: int = 20) -> list[str]:
    """What should be looked at: everything that was neither right nor meant to be left, each kind of words once."""
    words: dict[tuple[str, str, str], Done] = {}
    for one in done:
        if one.outcome not in ("right", "gone"):
            words.setdefault((one.kind, one.outcome, one.words[:60]), one)
    return [f"{one.kind}: {one.outcome} after {one.seconds:.1f} s: {one.words[:300]}" for one in words.values()][:limit]


def _count(done: Iterable[Done], outcome: str) -> int:
    return sum(one.outcome == outcome for one in done)


def _percentiles(seconds: Sequence[float]) -> list[str]:
    if len(seconds) < 2:
        return ["", "", ""]
    cuts = quantiles(seconds, n=100, method="inclusive")
    return [f"{cuts[at - 1]:.2f} s" for at in (50, 95, 99)]
