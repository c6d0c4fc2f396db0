"""Class folders, zips and tars hold the same photos; anything else is refused with a message."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.photos import files, in_folder, in_tar, in_zip
from vitdemo.errors import InputError
from vitdemo.images.class_folders import BACKGROUND, label_of, read_files

PHOTOS = files({"blue_sky": 3, "green": 2, BACKGROUND: 2})
UNREADABLE = "{} is missing, damaged, or neither a folder nor a zip or tar archive."


def _archives(root: Path, content: dict[str, bytes]) -> dict[str, Path]:
    """The same files in everything that can hold them."""
    return {
        "folder": in_folder(root / "photos", content),
        "zip": in_zip(root / "stored.zip", content),
        "deflated zip": in_zip(root / "deflated.zip", content, zipfile.ZIP_DEFLATED),
        "tar": in_tar(root / "photos.tar", content),
        "tar.gz": in_tar(root / "photos.tar.gz", content, "w:gz"),
        "tar.xz": in_tar(root / "photos.tar.xz", content, "w:xz"),
    }


def test_a_folder_a_zip_and_a_tar_give_the_same_names_and_bytes(tmp_path: Path) -> None:
    for kind, path in _archives(tmp_path, PHOTOS).items():
        assert dict(read_files(path)) == PHOTOS, kind


def test_a_folder_is_read_in_the_order_of_the_names_and_an_archive_in_its_own(tmp_path: Path) -> None:
    backwards = dict(reversed(PHOTOS.items()))
    for kind, path in _archives(tmp_path, backwards).items():
        names = [name for name, _ in read_files(path)]
        assert names == (sorted(PHOTOS) if kind == "folder" else list(backwards)), kind


@pytest.mark.parametrize("prefix", ["", "train/", "a/b/c/", "./"])
def test_the_label_is_the_last_folder_however_deep_it_lies(tmp_path: Path, prefix: str) -> None:
    for kind, path in _archives(tmp_path, {prefix + name: data for name, data in PHOTOS.items()}).items():
        labels = sorted(label_of(name) for name, _ in read_files(path))
        assert labels == sorted(["blue sky"] * 3 + ["green"] * 2 + [BACKGROUND] * 2), kind


def test_underscores_are_spaces_but_in_the_name_of_the_background() -> None:
    assert label_of("x/sea_horse_2/1.jpg") == "sea horse 2"
    assert label_of(f"x/{BACKGROUND}/1.jpg") == BACKGROUND


def test_what_systems_leave_behind_and_files_at_the_top_are_no_photos(tmp_path: Path) -> None:
    junk = {
        "README.md": b"at the top",
        "photo.png": PHOTOS["green/000.png"],
        "green/.DS_Store": b"x",
        "green/._000.png": b"x",
        "__MACOSX/green/000.png": b"x",
        "__MACOSX/green/._000.png": b"x",
        ".git/objects/000.png": b"x",
    }
    for kind, path in _archives(tmp_path, {**junk, **PHOTOS}).items():
        assert dict(read_files(path)) == PHOTOS, kind


def test_entries_for_folders_and_links_in_an_archive_are_no_photos(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "photos", PHOTOS)
    (folder / "green" / "link.png").symlink_to("/etc/hostname")
    (folder / "green" / "gone.png").symlink_to("nowhere.png")
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(folder, "photos")
    found = {name.removeprefix("photos/"): data for name, data in read_files(tmp_path / "photos.tar")}
    assert found == PHOTOS
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as zipped:
        for path in sorted(folder.glob("**")):
            zipped.write(path, path.relative_to(tmp_path))  # of folders, as `zip -r` does
    assert list(read_files(tmp_path / "photos.zip")) == []


def _flipped(data: bytes, start: int, stop: int) -> bytes:
    return data[:start] + bytes(value ^ 0x5A for value in data[start:stop]) + data[stop:]


def _locked(path: Path) -> None:
    """Mark every entry of a zip as encrypted, as one with a password is."""
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.find(signature)
        while place >= 0:
            data[place + at] |= 1
            place = data.find(signature, place + 4)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        "gone",
        "gone.zip",
        "empty.tar",
        "text.zip",
        "text.tar",
        "photo.png",
        "cut.zip",
        "cut.tar",
        "cut.tar.gz",
        "cut.tar.xz",
        "flipped.zip",
        "deflated.zip",
        "flipped.tar.xz",
        "locked.zip",
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    content = {f"green/{index}.bin": bytes(range(256)) * 40 + PHOTOS["green/000.png"] for index in range(3)}
    made = _archives(tmp_path, content)
    (tmp_path / "empty.tar").write_bytes(b"")
    for text in ("text.zip", "text.tar"):
        (tmp_path / text).write_text("This is no archive.\n" * 100)
    (tmp_path / "photo.png").write_bytes(PHOTOS["green/000.png"])
    for kind in ("zip", "tar", "tar.gz", "tar.xz"):
        data = made[kind].read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(data[: len(data) // 2])
    stored, deflated, packed = (made[kind].read_bytes() for kind in ("zip", "deflated zip", "tar.xz"))
    (tmp_path / "flipped.zip").write_bytes(_flipped(stored, 100, 200))
    (tmp_path / "deflated.zip").write_bytes(_flipped(deflated, 60, 400))
    (tmp_path / "flipped.tar.xz").write_bytes(_flipped(packed, len(packed) // 2, len(packed) // 2 + 50))
    (tmp_path / "locked.zip").write_bytes(stored)
    _locked(tmp_path / "locked.zip")
    with pytest.raises(InputError) as refusal:
        list(read_files(tmp_path / name))
    assert str(refusal.value) == UNREADABLE.format(name)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that can be opened and not read")
def test_a_file_in_a_folder_that_the_disk_does_not_give_is_refused_in_words(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "photos", PHOTOS)
    (folder / "green" / "bad.png").symlink_to("/proc/self/mem")  # reading its beginning is an input/output error
    with pytest.raises(InputError, match="photos is missing, damaged"):
        list(read_files(folder))


def test_a_folder_without_files_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "green").mkdir()
    assert list(read_files(tmp_path)) == []
