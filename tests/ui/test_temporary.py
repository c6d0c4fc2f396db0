"""Files of uploads and results: by process, by age, within a quota; and those of a process that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from tests import loops
from vitdemo.settings import ROOT
from vitdemo.ui import temporary
from vitdemo.ui.temporary import TemporaryFiles, UploadRoom, temporary_files

HOLDER = """
import os, pathlib, sys
from vitdemo.ui.temporary import temporary_files
with temporary_files(10**6):
    folder = pathlib.Path(os.environ["GRADIO_TEMP_DIR"], "digest")
    folder.mkdir()
    (folder / "mine.png").write_bytes(b"x")
    print("READY", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gradio's folder, with a file of somebody else's."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "app.png").write_bytes(b"x")
    return tmp_path


def store(files: TemporaryFiles, name: str, size: int = 1000) -> Path:
    path = files.folder / name / "photo.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    time.sleep(0.01)  # clocks of file systems are coarse
    return path


def names(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.rglob("photo.png")}


def test_files_lie_in_a_folder_of_the_process_and_go_with_it(base: Path) -> None:
    with temporary_files(10**6) as files:
        assert os.environ["GRADIO_TEMP_DIR"] == str(files.folder)
        assert files.folder.is_relative_to(base)
        assert files.folder.parent.stat().st_mode & 0o077 == 0
        store(files, "a")
    assert os.environ["GRADIO_TEMP_DIR"] == str(base)
    assert [path.name for path in base.iterdir()] == ["other"]
    assert (base / "other" / "app.png").is_file()


@pytest.mark.thorough
def test_files_of_a_killed_process_go_at_the_next_start_and_those_of_a_running_one_stay(base: Path) -> None:
    def hold() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", HOLDER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    holders = [hold(), hold()]
    try:
        for holder in holders:
            assert holder.stdout
            assert holder.stdout.readline() == "READY\n"
        assert len(list(base.rglob("mine.png"))) == 2
        holders[0].kill()
        holders[0].wait()
        assert len(list(base.rglob("mine.png"))) == 2
        with temporary_files(10**6):
            assert len(list(base.rglob("mine.png"))) == 1
        holders[1].communicate("\n")
        assert not list(base.rglob("mine.png"))
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def test_what_a_job_wrote_after_its_server_was_gone_is_deleted_too(base: Path) -> None:
    late = base / "vitdemo-late" / "files" / "digest"
    late.mkdir(parents=True)
    (late / "overlay.png").write_bytes(b"x")
    with temporary_files(10**6):
        assert not late.exists()


def test_old_files_are_deleted_and_those_of_the_page_are_kept(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_files(10**6) as files:
        kept, old, noted = store(files, "kept"), store(files, "old"), {str(store(files, "old"))}
        files.kept, files.lists = {str(kept)}, [noted]
        time.sleep(0.1)
        new = store(files, "new")
        files.delete_old(0.08)
        assert (kept.exists(), old.exists(), new.exists(), noted) == (True, False, True, set())
        # An empty folder goes with its last file, unless somebody may have just made it.
        assert old.parent.exists()
        monkeypatch.setattr(temporary, "STALE", 0.0)
        files.delete_old(0.0)
        assert {path.name for path in files.folder.iterdir()} == {"kept", "old"}


def test_over_the_quota_the_oldest_files_are_deleted_first(base: Path) -> None:
    with temporary_files(5000) as files:
        for name in "abcde":
            assert files.make_room(1000)
            store(files, name)
        assert names(files.folder) == set("abcde")
        assert files.make_room(1000)
        # A tenth more than it takes.
        assert names(files.folder) == set("cde")
        os.utime(files.folder / "c" / "photo.png")  # used once more
        store(files, "f", 3000)
        files.delete_old()
        assert names(files.folder) == {"c", "f"}


def test_an_upload_under_way_is_not_deleted_but_one_that_was_given_up_is(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with temporary_files(5000) as files:
        store(files, "a")
        assert files.make_room(4500)
        (files.folder / "tmp123").write_bytes(b"x" * 4500)
        assert not files.make_room(1000)
        assert [path.name for path in files.folder.rglob("*") if path.is_file()] == ["tmp123"]
        monkeypatch.setattr(temporary, "STALE", 0.0)
        assert files.make_room(1000)
        assert not (files.folder / "tmp123").exists()


@pytest.mark.parametrize("room", [True, False])
def test_an_upload_for_which_there_is_no_room_is_refused_in_words(tmp_path: Path, room: bool) -> None:
    files = TemporaryFiles(tmp_path, 8_000_000)
    if not room:
        (tmp_path / "tmp123").write_bytes(b"x" * 7_999_999)
        files.delete_old()
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"stored"})

    parts = [{"type": "http.request", "body": b"x" * 2_000_000, "more_body": number < 3} for number in range(4)]

    async def receive() -> Message:
        return parts.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    loops.run(UploadRoom(app, files)({"type": "http", "path": "/gradio_api/upload"}, receive, send))
    assert sent[0]["status"] == (200 if room else 503)
    if not room:
        assert b"keeps at most 8 MB of files" in sent[1]["body"]
        assert parts  # what is refused is not read to its end
