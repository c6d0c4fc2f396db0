"""Photos of the page: decoded once a file, with the app's own limits, and forgotten with their files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import loops
from vitdemo.errors import ImageError, UrlError
from vitdemo.pipeline.batch import compare_many
from vitdemo.settings import ASSETS, Settings
from vitdemo.ui import photos as photos_module
from vitdemo.ui.components.photo_files import PhotoFiles
from vitdemo.ui.photos import DecodedPhotos, current, using

if TYPE_CHECKING:
    from vitdemo.pipeline import Pipeline
    from vitdemo.types import ModelSpec

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


def test_of_several_photos_one_that_was_deleted_meanwhile_is_named_and_the_others_are_compared(
    tmp_path: Path, pipeline: Pipeline, vit: ModelSpec
) -> None:
    gone = str(tmp_path / "gone.jpg")
    assert loops.run(PhotoFiles(render=False).async_move_resource_to_block_cache(gone)) == gone
    lost, found = compare_many(pipeline, [("gone.jpg", Path(gone)), ("cup.jpg", CUP)], [vit])
    assert lost.row.error == 'There is no file "gone.jpg". Check its name.'
    assert found.comparison
