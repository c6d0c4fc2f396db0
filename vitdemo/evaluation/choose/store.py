"""Features on disk, under the photo's digest and the model's checkpoint, revision and dtype, within a size."""

from __future__ import annotations

from pathlib import Path

from vitdemo.settings import Settings


class FeatureStore:
    """One file. Safe for several threads and processes."""

    def __init__(self, folder: Path, limit: int) -> None:
        """`limit` in bytes; the entries that were not used for longest go first."""
        self.folder, self.limit = folder, limit

    @classmethod
    def default(cls, settings: Settings) -> FeatureStore:
        """In the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`) / `vitdemo`, `VITDEMO_FEATURES_MB` large."""
        raise NotImplementedError
