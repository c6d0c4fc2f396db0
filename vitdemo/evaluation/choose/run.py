"""The whole of a choice: photos to features to figures to a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vitdemo.evaluation.choose.store import FeatureStore
from vitdemo.evaluation.choose.types import Choice, ChooseRequest, Report
from vitdemo.pipeline import Pipeline
from vitdemo.types import ModelSpec


def choose(
    pipeline: Pipeline,
    specs: Sequence[ModelSpec],
    request: ChooseRequest,
    *,
    store: FeatureStore | None = None,
    report: Report | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Choice:
    """Run every photo through every model, and compare what their features are worth.

    Args:
        store: where features are kept; `FeatureStore.default(settings)` if None.
        report: told how far it is, from this thread.
        stopped: asked between batches; when it is true, the run ends with what is done kept in the store.

    Raises:
        OptionError: no model, or an option out of range.
        InputError: the data is missing, damaged, holds fewer than two photos, or does not fit into memory.
        ChoiceStoppedError: `stopped` became true. The same call resumes.
    """
    raise NotImplementedError


def relabelled(choice: Choice, labels: Mapping[str, str], report: Report | None = None) -> Choice:
    """The same photos and features with other labels, by file name; no forward pass. Files that are not named have none."""
    raise NotImplementedError
