"""Decoded photos of the page's uploads: one decode per file, however many events ask for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from gradio import processing_utils

from vitdemo.errors import ImageError, UrlError
from vitdemo.images.fetch import fetch_url
from vitdemo.images.open import open_image
from vitdemo.pipeline.cache import LRUCache
from vitdemo.settings import Settings, get_settings
from vitdemo.types import Photo

BUDGET = 200_000_000
"""Bytes of RGB pixels that are kept: two photos of the largest size, or some hundred of a common one."""


class DecodedPhotos:
    """Opens files and data URLs with the settings of one app. A decoded photo is forgotten with its file."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache = LRUCache(BUDGET)
        self._lock = threading.Lock()

    def open(self, source: Path | str) -> Photo:
        """A photo from a file, or from a data URL.

        Raises:
            ImageError: see `vitdemo.images.open`.
        """
        if isinstance(source, str):
            return open_image(source, self._settings)
        with self._lock:
            self._cache.discard(lambda key: not Path(key[0]).is_file())
            try:
                status = source.stat()
            except OSError:
                return open_image(source, self._settings)
            key = (str(source), status.st_mtime_ns, status.st_size)
            photo: Photo | None = self._cache.get(key)
            if photo is None:
                photo = open_image(source, self._settings)
                self._cache.put(key, photo, photo.size[0] * photo.size[1] * 3)
            return photo

    def download(self, url: str, cache: str) -> str:
        """Path of an image from a URL, kept where Gradio keeps uploads and deletes them again.

        Raises:
            ImageError: this server does not fetch, the URL was refused, or it did not deliver an image.
        """
        if not self._settings.url_input:
            raise UrlError("This server does not fetch images from URLs. Upload the image instead.")
        data = fetch_url(url, self._settings)
        path = processing_utils.save_bytes_to_cache(data, "picture.jpg", cache_dir=cache)
        try:
            self.open(Path(path))
        except ImageError:
            Path(path).unlink(missing_ok=True)
            raise
        return str(path)


_CURRENT: ContextVar[DecodedPhotos | None] = ContextVar("vitdemo_decoded_photos", default=None)


@contextmanager
def using(photos: DecodedPhotos) -> Iterator[None]:
    """Let `current` be the photos of an app, in this context."""
    token = _CURRENT.set(photos)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> DecodedPhotos:
    """Those of the app whose event this is; outside of any, new ones with the settings of the environment."""
    return _CURRENT.get() or DecodedPhotos(get_settings())
