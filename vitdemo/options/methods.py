"""The attribution methods, as data: what each one needs, costs, and says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Needs = Literal["rows", "queries", "gradients", "features"]


@dataclass(frozen=True)
class Method:
    """One way to say which patches mattered."""

    name: str
    title: str
    needs: Needs
    """What has to be recorded: class-token rows, queries and keys, gradients, or patch features."""
    class_specific: bool
    """Whether it explains one class, so that another class gives another map."""
    convolutional: bool
    """Whether it also works without attention."""
    cost: str
    """Beside a plain forward."""
    says: str
    paper: str
    variants: tuple[tuple[str, str], ...] = ()
    """Ways to compute it: name and title, the default first. Empty where there is only one."""

    @property
    def variant_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.variants)


METHODS = {
    method.name: method
    for method in (
        Method(
            "attention",
            "Attention",
            "rows",
            False,
            False,
            "no extra time",
            "Where one layer's class token reads.",
            "Caron et al. 2021, arXiv:2104.14294",
        ),
        Method(
            "rollout",
            "Attention rollout",
            "queries",
            False,
            False,
            "little extra time",
            "How attention passes through all layers.",
            "Abnar & Zuidema 2020, arXiv:2005.00928",
            (("by-row", "discard row by row"), ("vit-explain", "as in vit-explain")),
        ),
        Method(
            "grad-rollout",
            "Gradient rollout",
            "gradients",
            True,
            False,
            "about 3x a forward pass",
            "Rollout of the attention that raises the score of a class; simplified, without LRP.",
            "Chefer et al. 2021, arXiv:2012.09838",
        ),
        Method(
            "relevance",
            "Relevance",
            "gradients",
            True,
            False,
            "about 3x a forward pass",
            "Attention weighted by its gradient, passed through all layers.",
            "Chefer et al. 2021, arXiv:2103.15679",
        ),
        Method(
            "legrad",
            "LeGrad",
            "gradients",
            True,
            False,
            "about 2x a forward pass",
            "Gradient of the class score of the last layers towards their attention.",
            "Bousselham et al. 2024, arXiv:2404.03214",
            (("last-layers", "last two layers, mean token"), ("all-layers", "all layers, the classifier's token")),
        ),
        Method(
            "grad-cam",
            "Grad-CAM",
            "gradients",
            True,
            True,
            "about 1.5x a forward pass",
            "Features of the last block, weighted by their gradient.",
            "Selvaraju et al. 2017, arXiv:1610.02391",
        ),
        Method(
            "similarity",
            "Similarity",
            "features",
            False,
            True,
            "no extra time",
            "How alike every patch is to a chosen one.",
            "Caron et al. 2021, arXiv:2104.14294",
        ),
    )
}
"""By name, in the order in which they are offered."""


def obstacle(method: Method, attention: bool, classes: bool) -> str:
    """Why a method does not apply to a model; empty if it does.

    >>> obstacle(METHODS["relevance"], attention=True, classes=False)
    'it explains a class, and this model has no classifier'
    """
    if not attention and not method.convolutional:
        return "it needs attention, and a convolutional network has none"
    if method.class_specific and not classes:
        return "it explains a class, and this model has no classifier"
    return ""


def applicable(attention: bool, classes: bool) -> tuple[str, ...]:
    """Names of the methods that apply."""
    return tuple(name for name, method in METHODS.items() if not obstacle(method, attention, classes))
