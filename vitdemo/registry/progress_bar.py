"""Progress bar of a download in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vitdemo.registry.download import Progress


@contextmanager
def console_progress(name: str) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on stderr, from the first report on; none if stderr is not a terminal."""
    from tqdm import tqdm

    bar: tqdm[None] | None = None

    def report(progress: Progress) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc=name, total=progress.total, unit="B", unit_scale=True, disable=None, initial=progress.done)
        bar.update(progress.done - bar.n)

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()
