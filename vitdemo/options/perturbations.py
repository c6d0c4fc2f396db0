"""The perturbations of robustness curves, as data: what each does, its strengths, and who measured with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vitdemo.errors import OptionError


@dataclass(frozen=True)
class Perturbation:
    """One way to change the pixels of a photo, with one number for how much."""

    name: str
    title: str
    unit: str
    """What the strengths count."""
    strengths: tuple[float, ...]
    """Those that are measured by default; the first one changes nothing."""
    lowest: float
    highest: float
    whole: bool
    """Whether strengths are whole numbers."""
    summary: str
    source: str

    @property
    def neutral(self) -> float:
        """The strength that leaves a photo as it is."""
        return self.strengths[0]


PERTURBATIONS: dict[str, Perturbation] = {
    one.name: one
    for one in (
        Perturbation(
            "shuffle",
            "Patch shuffle",
            "cells per side",
            (1, 2, 4, 8, 14, 28),
            1,
            56,
            True,
            "The photo is cut into k x k cells, which are put back in random order.",
            "Naseer et al. 2021, arXiv:2105.10497",
        ),
        Perturbation(
            "shift",
            "Shift",
            "px to the right",
            (0, 1, 2, 4, 8, 12, 16),
            0,
            64,
            True,
            "The photo moves to the right; its left edge is repeated.",
            "Azulay & Weiss 2019, arXiv:1805.12177",
        ),
        Perturbation(
            "occlusion",
            "Occlusion",
            "share of patches dropped",
            (0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9),
            0,
            0.9,
            False,
            "Random patches of a grid of 14 x 14 become black; more and more of them in the same order.",
            "Naseer et al. 2021, arXiv:2105.10497",
        ),
        Perturbation(
            "low",
            "Low frequencies removed",
            "radius, of the Nyquist frequency",
            (0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32),
            0,
            1.5,
            False,
            "Frequencies below the radius are removed; the mean colour stays.",
            "Park & Kim 2022, arXiv:2202.06709",
        ),
        Perturbation(
            "high",
            "High frequencies removed",
            "radius, of the Nyquist frequency",
            (1.5, 0.5, 0.25, 0.12, 0.06, 0.03),
            0,
            1.5,
            False,
            "Frequencies from the radius on are removed.",
            "Park & Kim 2022, arXiv:2202.06709",
        ),
        Perturbation(
            "rotation",
            "Rotation",
            "degrees, counter-clockwise",
            (0, 15, 30, 45, 90, 180),
            -180,
            180,
            False,
            "The photo turns about its centre; it is mirrored at its edges to fill the corners.",
            "Engstrom et al. 2019, arXiv:1712.02779",
        ),
    )
}
"""By name, in the order in which they are offered."""

Plan = Mapping[str, Sequence[float]]
"""The strengths of each perturbation that is to be measured, the neutral one first."""


def plan_of(kinds: Iterable[str] = (), strengths: Sequence[float] = ()) -> Plan:
    """The perturbations of these names, or all, at their default strengths.

    Args:
        strengths: others than the default ones, for a single perturbation.

    Raises:
        OptionError: there is no perturbation of that name, strengths are given for several, or one is out of range.

    >>> dict(plan_of(["shuffle"], [4]))
    {'shuffle': (1, 4)}
    """
    names = list(dict.fromkeys(kinds)) or list(PERTURBATIONS)
    for name in names:
        if name not in PERTURBATIONS:
            raise OptionError(f"Unknown perturbation {name!r}. Choose from: {', '.join(PERTURBATIONS)}.")
    if not strengths:
        return {name: PERTURBATIONS[name].strengths for name in names}
    if len(names) > 1:
        raise OptionError(
            f"Strengths belong to one perturbation, and {len(names)} are to be measured. Name the one that they are for."
        )
    kind = PERTURBATIONS[names[0]]
    for strength in strengths:
        require_strength(kind.name, strength)
    return {kind.name: tuple(dict.fromkeys((kind.neutral, *strengths)))}


def require_strength(kind: str, strength: float) -> None:
    """Raises:
    OptionError: the strength is out of this perturbation's range, or not a whole number where it must be one.
    """
    one = PERTURBATIONS[kind]
    whole = "a whole number " if one.whole else ""
    fits = math.isfinite(strength) and one.lowest <= strength <= one.highest
    if not fits or (one.whole and strength != int(strength)):
        raise OptionError(
            f"The strength of {kind} ({one.unit}) must be {whole}from {one.lowest:g} to {one.highest:g}, not {strength:g}."
        )
