"""Photos of the page: decoded once a file, with the app's own limits, and forgotten with their files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vitdemo.errors import ImageError, UrlError
from vitdemo.settings import ASSETS, Settings
from vitdemo.ui import photos as photos_module
from vitdemo.ui.photos import DecodedPhotos, current, using

CUP = ASSETS / "examples" / "cup.jpg"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was decoded since."""
    seen: list[object] = []
    opened = photos_module.open_image
    monkeypatch.setattr(
        photos_module, "open_image", lambda source, settings: seen.append(source) or opened(source, settings)
    )
    return seen


def test_a_file_is_decoded_once_until_it_changes_or_goes(tmp_path: Path, decoded: list[object]) -> None:
    photos, file = DecodedPhotos(Settings()), tmp_path / "a.jpg"
    shutil.copy(CUP, file)
    assert photos.open(file) is photos.open(file)
    assert len(decoded) == 1
    shutil.copy(ASSETS / "examples" / "crab.jpg", file)
    assert photos.open(file).size == photos.open(ASSETS / "examples" / "crab.jpg").size
    file.unlink()
    photos.open(CUP)
    assert str(file) not in {key[0] for key in photos._cache._values}


def test_limits_are_those_of_the_app_and_not_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITDEMO_MAX_MEGAPIXELS", "25")
    strict = DecodedPhotos(Settings(max_megapixels=0.01))
    with using(strict), pytest.raises(ImageError, match="the limit is"):
        current().open(CUP)
    assert current().open(CUP).size[0] > 0


def test_where_urls_are_off_none_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(UrlError, match="does not fetch"):
        DecodedPhotos(Settings(url_input=False)).download("http://127.0.0.1:9/a.jpg", str(tmp_path))
