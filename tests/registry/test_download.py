"""A Hub model is downloaded, resumed, verified, or refused with a message before anything large is fetched."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
import transformers
from huggingface_hub import hf_hub_download, scan_cache_dir
from huggingface_hub.utils import close_session

from tests import fakehub, tiny
from tests.fakehub import INFO, FakeHub
from vitdemo.errors import CheckpointError, DownloadError, NotDownloadedError, OptionError, UnknownModelError
from vitdemo.models.loading import load_model
from vitdemo.registry import (
    OFFICIAL,
    Progress,
    available_models,
    download,
    get_spec,
    hub_cache,
    obtain,
    ready_models,
    remove,
    transfer,
)
from vitdemo.settings import ROOT
from vitdemo.types import ModelSpec

CUP = str(ROOT / "assets" / "examples" / "cup.jpg")
REPO, LISTED = "someone/flowers", "google/vit-base-patch16-224"
GATED = "facebook/dinov3-vits16-pretrain-lvd1689m"
WEIGHTS, PICKLE, INDEX = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
CARD = "---\ntags:\n- vision\nlicense: mit\n---\n# Flowers\nlicense: none of this line's\n"
TYPES_WITHOUT = ("swin", "levit", "cvt", "mobilevit", "convnext", "clip", "qwen2_vl", None)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of some hundred kB, read only."""
    folder = tiny.save(tmp_path_factory.mktemp("saved") / "vit", "vit", hidden_size=96, intermediate_size=192)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(saved, tmp_path / "changed"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Path) -> Iterator[FakeHub]:
    """The fake Hub with one repository, and an empty cache."""
    for name, value in (("HF_HOME", str(tmp_path / "hf")), ("NO_PROXY", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    close_session()
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add(REPO, saved)
        yield hub
    close_session()


def size(hub: FakeHub, file: str = WEIGHTS, repo: str = REPO) -> int:
    return len(hub.repos[repo].revisions["main"][1][file].data)


def partials(repo: str = REPO) -> list[int]:
    return [path.stat().st_size for path in (hub_cache.folder(repo) / "blobs").glob("*.incomplete")]


def ranges(hub: FakeHub, file: str = WEIGHTS) -> list[str | None]:
    """The Range headers of the requests that returned bytes."""
    return [asked.range for asked in hub.requests if asked.path.endswith(file) and asked.sent and asked.status != 302]


def refusal(name: str = REPO, error: type[Exception] = DownloadError) -> str:
    """The error message, which names neither a local folder nor a commit."""
    with pytest.raises(error) as refused:
        download(name)
    text = str(refused.value)
    assert str(hub_cache.root()) not in text
    assert not re.search("[0-9a-f]{40}", text)
    return text


def logits(spec: ModelSpec) -> torch.Tensor:
    with torch.no_grad():
        answer = load_model(spec, torch.device("cpu"), torch.float32)(_pixels())
    assert answer is not None
    return answer


def _pixels() -> torch.Tensor:
    return torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)


def expected(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        answer = transformers.ViTForImageClassification.from_pretrained(folder)(_pixels()).logits
    assert isinstance(answer, torch.Tensor)
    return answer


# What comes


def test_a_model_comes_whole_with_the_labels_processor_and_licence_of_its_own_files(hub: FakeHub, saved: Path) -> None:
    spec = download(REPO)
    assert (spec.name, spec.source, spec.ready, spec.revision) == (REPO, "hub", True, hub.commit(REPO))
    assert (spec.labels, spec.license, spec.family) == (tiny.LABELS, "mit", "ViT")
    assert (spec.processor.resize, spec.processor.mean) == ((32, 32), (0.5, 0.5, 0.5))
    assert (spec.bytes, spec.link) == (size(hub), f"https://huggingface.co/{REPO}")
    assert spec in ready_models()
    assert get_spec(REPO) == spec
    torch.testing.assert_close(logits(spec), expected(saved), atol=1e-5, rtol=0)


def test_the_second_time_nothing_is_asked(hub: FakeHub) -> None:
    spec = download(REPO)
    asked = len(hub.requests)
    assert download(REPO) == obtain(REPO) == spec
    assert len(hub.requests) == asked


@pytest.mark.thorough
def test_progress_rises_to_the_total_and_the_model_is_listed_only_after_it(hub: FakeHub) -> None:
    hub.fault(REPO, WEIGHTS, bytes_per_second=1_000_000)
    seen: list[Progress] = []

    def report(progress: Progress) -> None:
        assert not (hub_cache.folder(REPO) / "refs").exists()
        seen.append(progress)

    download(REPO, report)
    done = [progress.done for progress in seen]
    assert len(set(done)) > 2
    assert done == sorted(done)
    assert {progress.total for progress in seen} == {size(hub)} == {done[-1]}
    assert seen[-1].speed > 0
    assert seen[-1].remaining == 0
    assert all(progress.remaining is None for progress in seen if progress.speed == 0)


def test_of_a_listed_model_the_table_tells_family_and_licence(hub: FakeHub, saved: Path) -> None:
    hub.add(LISTED, saved)
    with pytest.raises(NotDownloadedError, match=rf"{LISTED} is not on this machine \(346 MB\)"):
        get_spec(LISTED)
    spec = obtain(LISTED)
    assert (spec.family, spec.license, spec.labels) == ("ViT", "apache-2.0", tiny.LABELS)
    assert spec.parameters < 1e6 < OFFICIAL[LISTED].parameters
    assert [known.ready for known in available_models() if known.name == LISTED] == [True]


def test_the_cache_is_that_of_every_hugging_face_library(hub: FakeHub) -> None:
    spec = download(REPO)
    asked = len(hub.requests)
    plain: Any = transformers.ViTForImageClassification
    network = plain.from_pretrained(REPO, local_files_only=True, cache_dir=hub_cache.root())
    processor = transformers.ViTImageProcessorPil.from_pretrained(
        REPO, local_files_only=True, cache_dir=hub_cache.root()
    )
    assert (network.config.hidden_size, tuple(processor.image_mean)) == (96, (0.5, 0.5, 0.5))
    scanned = scan_cache_dir(hub_cache.root())
    assert not scanned.warnings
    (repo,) = scanned.repos
    assert (repo.repo_id, set(repo.refs)) == (REPO, {"main"})
    assert repo.refs["main"].commit_hash == spec.revision
    assert len(hub.requests) == asked
    assert not [path for path in hub_cache.root().rglob("*") if path.suffix in (".lock", ".incomplete", ".tmp")]


def test_a_model_that_another_library_fetched_is_found(hub: FakeHub) -> None:
    for file in ("config.json", "preprocessor_config.json", WEIGHTS):
        hf_hub_download(REPO, file, endpoint=hub.endpoint, cache_dir=hub_cache.root())
    asked = len(hub.requests)
    assert download(REPO).labels == tiny.LABELS
    assert len(hub.requests) == asked


def test_a_revision_is_one_model_and_main_another(hub: FakeHub, folder: Path) -> None:
    first = hub.commit(REPO)
    tiny.edit_json(folder / "config.json", id2label={str(index): f"new {index}" for index in range(7)})
    second = hub.add(REPO, folder, revision_name="v2")
    old, new, exact = download(REPO), download(f"{REPO}@v2"), download(f"{REPO}@{first}")
    assert (old.revision, new.revision, exact.revision) == (first, second, first)
    assert (old.labels[0], new.labels[0], exact.labels[0]) == ("apple", "new 0", "apple")
    assert (get_spec(f"{REPO}@v2"), get_spec(REPO)) == (new, old)
    assert new.link == f"https://huggingface.co/{REPO}"
    assert hub.bytes_sent(WEIGHTS) == size(hub)  # equal files are one


def test_what_is_here_stays_as_it_is_when_the_repository_moves_on(hub: FakeHub, folder: Path) -> None:
    spec = download(REPO)
    tiny.edit_json(folder / "config.json", id2label={str(index): f"new {index}" for index in range(7)})
    hub.add(REPO, folder)
    assert download(REPO) == spec


@pytest.mark.thorough
@pytest.mark.parametrize("shard", ["100KB", "300KB"])
def test_weights_in_several_files_come_by_their_index(hub: FakeHub, folder: Path, saved: Path, shard: str) -> None:
    (folder / WEIGHTS).unlink()
    tiny.network("vit", hidden_size=96, intermediate_size=192).save_pretrained(folder, max_shard_size=shard)
    assert len(list(folder.glob("*.safetensors"))) > 2
    hub.add("someone/shards", folder)
    spec = download("someone/shards")
    assert (spec.bytes, spec.labels) == (sum(path.stat().st_size for path in folder.glob("*.safetensors")), tiny.LABELS)
    torch.testing.assert_close(logits(spec), expected(saved), atol=1e-5, rtol=0)


# Bad connections


@pytest.mark.thorough
@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_was_cut_is_resumed_where_it_broke_off(hub: FakeHub, reset: bool) -> None:
    cut = hub.fault(REPO, WEIGHTS, cut_after=200_000, times=2, reset=reset)
    done: list[int] = []
    download(REPO, lambda progress: done.append(progress.done))
    assert cut.hits == 2
    if not reset:  # which may overtake bytes on their way
        assert ranges(hub) == [None, "bytes=200000-", "bytes=400000-"]
        assert hub.bytes_sent(WEIGHTS) == size(hub)
    assert done == sorted(done)


@pytest.mark.thorough
def test_a_connection_that_brings_a_little_each_time_brings_all_in_the_end(hub: FakeHub) -> None:
    cut = hub.fault(REPO, WEIGHTS, cut_after=30_000)
    download(REPO)
    assert cut.hits > transfer.RETRIES + 2
    assert hub.bytes_sent(WEIGHTS) == size(hub)


def test_what_came_before_it_broke_off_for_good_is_not_fetched_again(hub: FakeHub) -> None:
    hub.fault(REPO, WEIGHTS, cut_after=150_000, times=1)
    hub.fault(REPO, WEIGHTS, silent=True)
    assert "breaks off (RemoteProtocolError). Try again later" in refusal()
    assert partials() == [150_000]
    assert REPO not in [spec.name for spec in available_models()]
    hub.faults.clear()
    seen: list[Progress] = []
    download(REPO, seen.append)
    assert seen[0].done >= 150_000
    assert ranges(hub) == [None, "bytes=150000-"]
    assert hub.bytes_sent(WEIGHTS) == size(hub)


def test_a_cancelled_download_stops_at_once_and_goes_on_the_next_time(hub: FakeHub) -> None:
    hub.fault(REPO, WEIGHTS, bytes_per_second=500_000, times=1)
    cancel, seen = threading.Event(), list[Progress]()

    def report(progress: Progress) -> None:
        seen.append(progress)
        if progress.done:
            cancel.set()

    with pytest.raises(DownloadError, match=r"stopped\. It will resume"):
        download(REPO, report, cancel)
    (kept,) = partials()
    assert 0 < seen[-1].done < kept <= seen[-1].done + (1 << 16) < size(hub)
    assert len([progress for progress in seen if progress.done]) == 1
    hub.faults.clear()
    download(REPO, cancel=threading.Event())
    assert ranges(hub) == [None, f"bytes={kept}-"]


def test_a_download_that_was_cancelled_before_it_began_fetches_nothing(hub: FakeHub) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(DownloadError, match="stopped"):
        download(REPO, cancel=cancel)
    assert hub.bytes_sent("config.json") == hub.bytes_sent(WEIGHTS) == 0


def test_a_download_of_which_nothing_comes_can_be_cancelled(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", httpx.Timeout(5, read=0.3))
    stall = hub.fault(REPO, WEIGHTS, stall_after=0)
    cancel = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(download, REPO, cancel=cancel)
        while not stall.hits:
            time.sleep(0.01)
        cancel.set()
        assert "stopped" in str(stopped.exception(timeout=5))
    assert stall.hits <= 2


def test_a_server_that_does_not_resume_sends_all_again(
    hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakehub, "RANGE", re.compile("never"))
    hub.fault(REPO, WEIGHTS, cut_after=200_000, times=1)
    seen: list[Progress] = []
    spec = download(REPO, seen.append)
    assert hub.bytes_sent(WEIGHTS) == size(hub) + 200_000
    assert (Path(spec.checkpoint) / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()
    assert (seen[-1].done, seen[-1].total) == (size(hub), size(hub))


def test_a_connection_on_which_nothing_more_comes_is_opened_anew(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", httpx.Timeout(5, read=0.2))
    hub.fault(REPO, WEIGHTS, stall_after=100_000, times=2)
    download(REPO)
    assert ranges(hub) == [None, "bytes=100000-", "bytes=200000-"]


@pytest.mark.thorough
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
@pytest.mark.parametrize("file", ["config.json", WEIGHTS])
def test_a_busy_hub_is_asked_again(hub: FakeHub, status: int, file: str) -> None:
    busy = hub.fault(REPO, file, status=status, times=transfer.RETRIES)
    assert download(REPO).ready
    assert busy.hits == transfer.RETRIES


def test_a_hub_that_stays_busy_is_given_up(hub: FakeHub) -> None:
    hub.fault(REPO, WEIGHTS, status=503)
    assert "breaks off (it answered 503)" in refusal()


def test_a_hub_that_cannot_say_what_it_holds_is_quoted(hub: FakeHub) -> None:
    hub.fault(REPO, INFO, status=500)
    assert "answered 500" in refusal()


def test_a_connection_that_is_too_slow_is_given_up_and_what_came_is_kept(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PATIENCE", 0.2)
    monkeypatch.setattr(transfer, "SLOWEST", 1_000_000)
    hub.fault(REPO, WEIGHTS, bytes_per_second=200_000)
    assert re.search(r"too slow: \d+ bytes in 0 seconds\. Try again later", refusal())
    assert partials()[0] > 0


def test_more_bytes_than_were_announced_are_not_kept(hub: FakeHub) -> None:
    sibling = hub.repos[REPO].revisions["main"][1][WEIGHTS].sibling
    for entry in (sibling, sibling["lfs"]):
        entry["size"] -= 70_000
    seen: list[Progress] = []
    with pytest.raises(DownloadError, match="more bytes than announced"):
        download(REPO, seen.append)
    assert all(progress.done <= progress.total for progress in seen)
    for entry in (sibling, sibling["lfs"]):
        entry["size"] += 70_000
    assert download(REPO).ready


def test_a_partial_file_that_is_too_long_is_begun_anew(hub: FakeHub) -> None:
    hub.fault(REPO, WEIGHTS, cut_after=100_000, times=1)
    hub.fault(REPO, WEIGHTS, silent=True)
    refusal()
    (partial,) = (hub_cache.folder(REPO) / "blobs").glob("*.incomplete")
    partial.write_bytes(bytes(size(hub) + 1))
    hub.faults.clear()
    assert download(REPO).ready


def test_no_network_is_worded_and_a_later_try_succeeds(hub: FakeHub) -> None:
    hub.down()
    assert "not on this machine and the Hub cannot be reached" in refusal()
    hub.up()
    assert download(REPO).ready


def test_a_network_that_goes_away_in_between_is_worded(hub: FakeHub) -> None:
    hub.fault(REPO, WEIGHTS, bytes_per_second=500_000, times=1)
    with pytest.raises(DownloadError, match=r"cannot be reached, or breaks off \(ConnectError\)"):
        download(REPO, lambda progress: hub.down() if progress.done else None)
    assert partials()[0] > 0


def test_an_answer_of_something_else_than_the_hub_is_worded(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def portal(self: fakehub.Handler, *_: object) -> None:
        self._send(200, b"<html>Accept our terms</html>", {"Content-Type": "text/html"})

    monkeypatch.setattr(fakehub.Handler, "_about", portal)
    assert "cannot be read. It may come from another server" in refusal()


# Damage


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", WEIGHTS])
def test_a_file_with_a_wrong_checksum_is_refused_and_removed(hub: FakeHub, file: str) -> None:
    hub.fault(REPO, file, wrong_bytes=True, times=1)
    assert f"{file} of {REPO} arrived damaged" in refusal()
    assert partials() == []
    assert download(REPO).ready


def test_weights_that_were_damaged_on_the_disk_are_removed_by_the_one_who_loads_them(hub: FakeHub) -> None:
    spec = download(REPO)
    blob = (Path(spec.checkpoint) / WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f"The checkpoint of {REPO} was damaged and is removed. Download it"):
        logits(spec)
    assert REPO not in [known.name for known in ready_models()]
    with pytest.raises(UnknownModelError):
        get_spec(REPO)
    again = download(REPO)
    assert hub.bytes_sent(WEIGHTS) == 2 * size(hub)
    assert hub.bytes_sent("config.json") == size(hub, "config.json")
    assert torch.isfinite(logits(again)).all()


@pytest.mark.thorough
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", WEIGHTS])
def test_a_download_repairs_what_was_damaged_on_the_disk(hub: FakeHub, file: str) -> None:
    fine = download(REPO)
    kept = hub_cache.folder(REPO)
    blob = (Path(fine.checkpoint) / file).resolve()
    blob.write_bytes(b"{" * 100)
    (Path(fine.checkpoint) / ("config.json" if file == WEIGHTS else WEIGHTS)).unlink()
    assert download(REPO) == fine
    assert all(hub_cache.checksum(path, path.name) == path.name for path in (kept / "blobs").iterdir())


def test_good_files_of_a_checkpoint_that_does_not_fit_are_left(hub: FakeHub, folder: Path) -> None:
    tiny.edit_json(folder / "config.json", num_hidden_layers=4)
    hub.add("someone/lacking", folder)
    spec = download("someone/lacking")
    with pytest.raises(CheckpointError, match=r"lacks \d+ of its weights"):
        logits(spec)
    assert get_spec("someone/lacking") == spec


# Access


def test_a_gated_model_of_the_table_says_how_to_get_it(
    hub: FakeHub, tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(GATED, tiny_folder("dinov3"), gated="manual")
    assert OFFICIAL[GATED].gated in refusal(GATED)
    assert "HF_TOKEN" in OFFICIAL[GATED].gated
    monkeypatch.setenv("HF_TOKEN", "hf_without_access")
    assert OFFICIAL[GATED].gated in refusal(GATED)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    spec = download(GATED)
    assert (spec.license, spec.family, spec.ready) == ("dinov3-license", "DINO", True)


def test_a_gated_model_that_nobody_knows_names_its_page(hub: FakeHub, saved: Path) -> None:
    hub.add("someone/gated", saved, gated=True)
    text = refusal("someone/gated")
    assert "gated" in text
    assert "https://huggingface.co/someone/gated" in text
    assert "HF_TOKEN" in text


def test_a_private_model_looks_like_none_without_its_token(
    hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("someone/private", saved, private=True)
    for name in ("someone/private", "someone/none"):
        assert f"There is no model {name} on the Hub, or it is private" in refusal(name)
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    assert "or it is private" in refusal("someone/private")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert download("someone/private").ready


def test_a_token_that_is_not_valid_any_more_is_called_that(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.expired.add("hf_old")
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert "rejects the token of HF_TOKEN" in refusal()


@pytest.mark.parametrize("revision", ["none", "0" * 40, "refs/pr/7"])
def test_a_revision_that_is_not_there_is_called_that(hub: FakeHub, revision: str) -> None:
    with pytest.raises(DownloadError, match="not this revision of it"):
        download(f"{REPO}@{revision}")


@pytest.mark.thorough
@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_offline_what_is_here_runs_and_what_is_not_is_refused_without_a_request(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    spec = download(REPO)
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert obtain(REPO) == spec
    assert "HF_HUB_OFFLINE forbids downloads" in refusal(LISTED)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE forbids downloads"):
        obtain("someone/else")
    assert len(hub.requests) == asked


# The disk


def test_without_room_nothing_large_is_fetched(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 100_000_000 + size(hub) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert f"{REPO} needs 101 MB on the disk, and 101 MB are free" in refusal()
    assert hub.bytes_sent(WEIGHTS) == 0
    free += 1
    assert download(REPO).ready


def test_what_came_before_needs_no_room_again(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fault(REPO, WEIGHTS, cut_after=400_000, times=1)
    hub.fault(REPO, WEIGHTS, silent=True)
    refusal()
    hub.faults.clear()
    free = 100_000_000 + size(hub) - 400_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert download(REPO).ready


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_becomes_full_is_worded(hub: FakeHub) -> None:
    blobs = hub_cache.folder(REPO) / "blobs"
    blobs.mkdir(parents=True)
    partial = blobs / f"{hub.repos[REPO].revisions['main'][1][WEIGHTS].etag}.incomplete"
    partial.symlink_to("/dev/full")
    assert "The disk is full" in refusal()
    partial.unlink()
    assert download(REPO).ready


def test_what_came_before_the_disk_was_full_is_kept(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Any = Path.open

    def opened(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        file = whole(path, mode, *rest, **more)
        return Filling(file, 300_000) if mode == "ab" and path.suffix == ".incomplete" else file

    class Filling:
        def __init__(self, file: Any, room: int) -> None:
            self.file, self.room, self.tell = file, room, file.tell

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[: self.room])
            self.room -= len(data)
            if self.room < 0:
                raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "open", opened)
        assert "The disk is full. Free some space" in refusal()
    assert partials() == [300_000]
    download(REPO)
    assert ranges(hub)[-1] == "bytes=300000-"


def test_a_cache_that_cannot_be_written_is_worded(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    assert "cannot be stored: Not a directory. Set HF_HOME" in refusal()


# Several at once


def test_two_that_want_the_same_model_fetch_it_once(hub: FakeHub) -> None:
    hub.fault(REPO, WEIGHTS, bytes_per_second=2_000_000)
    with ThreadPoolExecutor(4) as pool:
        specs = list(pool.map(download, [REPO] * 4))
    assert len(set(specs)) == 1
    assert hub.bytes_sent(WEIGHTS) == size(hub)
    assert hub.bytes_sent("config.json") == size(hub, "config.json")


@pytest.mark.thorough
def test_one_who_waits_for_anothers_download_can_be_cancelled(hub: FakeHub) -> None:
    hub.fault(REPO, WEIGHTS, bytes_per_second=100_000)
    stop_first, stop_second, begun = threading.Event(), threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(download, REPO, lambda progress: begun.set() if progress.done else None, stop_first)
        assert begun.wait(10)
        second = pool.submit(download, REPO, cancel=stop_second)
        time.sleep(0.2)
        stop_second.set()
        assert isinstance(second.exception(timeout=5), DownloadError)
        assert not first.done()
        stop_first.set()
        assert isinstance(first.exception(timeout=5), DownloadError)
    assert hub.bytes_sent(WEIGHTS) < size(hub)


# Weights that could run code


class Evil:
    """Leaves a mark when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def _pickled(folder: Path, saved: Path, content: Any = None) -> Path:
    (folder / WEIGHTS).unlink()
    torch.save(content or transformers.ViTForImageClassification.from_pretrained(saved).state_dict(), folder / PICKLE)
    return folder


def test_pickled_weights_of_a_listed_model_load(hub: FakeHub, folder: Path, saved: Path) -> None:
    hub.add(LISTED, _pickled(folder, saved))
    spec = download(LISTED)
    assert (spec.pickled, spec.bytes) == (True, size(hub, PICKLE, LISTED))
    assert get_spec(LISTED) == spec
    torch.testing.assert_close(logits(spec), expected(saved), atol=1e-5, rtol=0)


def test_safetensors_go_before_pickled_weights(hub: FakeHub, folder: Path) -> None:
    (folder / PICKLE).write_bytes(b"unread")
    hub.add(LISTED, folder)
    assert not download(LISTED).pickled
    assert hub.bytes_sent(PICKLE) == 0


@pytest.mark.parametrize("plain", [False, True])
def test_what_a_pickle_would_run_does_not_run(
    hub: FakeHub, folder: Path, saved: Path, tmp_path: Path, plain: bool
) -> None:
    mark = tmp_path / "mark"
    _pickled(folder, saved, {"vit.embeddings.cls_token": Evil(mark)})
    if plain:
        (folder / PICKLE).write_bytes(pickle.dumps(Evil(mark), protocol=2))
    hub.add(LISTED, folder)
    with pytest.raises(CheckpointError, match="damaged"):
        logits(download(LISTED))
    assert not mark.exists()
    (torch.load if not plain else _unpickle)(folder / PICKLE, **({} if plain else {"weights_only": False}))
    assert mark.exists(), "the file does nothing, and the test shows nothing"


def _unpickle(path: Path) -> None:
    pickle.loads(path.read_bytes())


def test_pickled_weights_of_a_stranger_are_refused_and_not_fetched(hub: FakeHub, folder: Path, saved: Path) -> None:
    hub.add("someone/pickled", _pickled(folder, saved))
    text = refusal("someone/pickled")
    assert "only pickled weights" in text
    assert "safetensors" in text
    assert hub.bytes_sent(PICKLE) == 0


def test_code_of_a_repository_is_neither_fetched_nor_run(hub: FakeHub, folder: Path, saved: Path) -> None:
    automatic = {"AutoModelForImageClassification": "modeling_evil.ViTForImageClassification"}
    tiny.edit_json(folder / "config.json", auto_map=automatic, custom_pipelines={"x": {"impl": "modeling_evil.X"}})
    (folder / "modeling_evil.py").write_text("raise SystemExit('run')")
    hub.add("someone/coded", folder)
    spec = download("someone/coded")
    torch.testing.assert_close(logits(spec), expected(saved), atol=1e-5, rtol=0)
    assert not [asked for asked in hub.requests if asked.path.endswith(".py")]
    assert not list(hub_cache.folder("someone/coded").rglob("*.py"))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "part", ["../../x.safetensors", "/etc/passwd", "..", "", "x.bin", "a/b.safetensors", "..safetensors", 3]
)
def test_an_index_that_reaches_out_of_its_folder_is_refused(hub: FakeHub, folder: Path, part: object) -> None:
    (folder / WEIGHTS).rename(folder / "x.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": part, "b": "x.safetensors"}}))
    hub.add("someone/reaching", folder)
    assert f"{INDEX} of someone/reaching is damaged" in refusal("someone/reaching", CheckpointError)
    assert hub.bytes_sent("x.safetensors") == 0


def test_an_index_of_a_file_that_is_not_there_is_refused(hub: FakeHub, folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    hub.add("someone/gone", folder)
    assert "has no gone.safetensors" in refusal("someone/gone")


# What cannot be loaded


@pytest.mark.thorough
@pytest.mark.parametrize("model_type", TYPES_WITHOUT)
def test_a_type_that_cannot_be_loaded_is_refused_before_its_weights_are_fetched(
    hub: FakeHub, folder: Path, model_type: str | None
) -> None:
    tiny.edit_json(folder / "config.json", model_type=model_type)
    hub.add("someone/other", folder)
    text = refusal("someone/other", CheckpointError)
    assert f"someone/other is of type '{model_type}', which cannot be loaded: " in text
    assert "Types that can: vit, deit, beit" in text
    assert hub.bytes_sent(WEIGHTS) == 0
    assert sum(asked.sent for asked in hub.requests) < 20_000


def test_why_a_type_cannot_be_loaded_is_said(hub: FakeHub, folder: Path) -> None:
    for model_type, why in (("swin", "within windows"), ("clip", "with texts"), ("levit", "attention interface")):
        tiny.edit_json(folder / "config.json", model_type=model_type)
        hub.add(f"someone/{model_type}", folder)
        assert why in refusal(f"someone/{model_type}", CheckpointError)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["ViTForMaskedImageModeling"]}, "is a ViTForMaskedImageModeling, which cannot be loaded"),
        ({"architectures": None}, "is a model without an architecture, which cannot be loaded"),
        ({"architectures": 3}, "config.json of someone/odd is damaged, or lacks"),
        ({"num_channels": 1}, "does not read colour images"),
        ({"patch_size": [8, 16]}, "config.json of someone/odd is damaged, or lacks"),
        ({"id2label": {"1": "one"}}, "config.json of someone/odd is damaged, or lacks"),
    ],
    ids=str,
)
def test_a_config_of_what_cannot_be_loaded_is_refused_before_the_weights_are_fetched(
    hub: FakeHub, folder: Path, changes: dict[str, Any], words: str
) -> None:
    tiny.edit_json(folder / "config.json", **changes)
    hub.add("someone/odd", folder)
    assert words in refusal("someone/odd", CheckpointError)
    assert hub.bytes_sent(WEIGHTS) == 0


@pytest.mark.thorough
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 200_000, b'{"model_type": '])
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_a_damaged_config_is_named_with_its_model_before_the_weights_are_fetched(
    hub: FakeHub, folder: Path, file: str, content: bytes
) -> None:
    (folder / file).write_bytes(content)
    hub.add("someone/odd", folder)
    for _ in range(2):
        assert f"{file} of someone/odd is" in refusal("someone/odd", CheckpointError)
    assert hub.bytes_sent(WEIGHTS) == 0
    assert "someone/odd" not in [spec.name for spec in available_models()]


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", WEIGHTS])
def test_a_model_without_a_file_that_it_needs_is_refused(hub: FakeHub, folder: Path, file: str) -> None:
    (folder / file).unlink()
    hub.add("someone/lacking", folder)
    lacks = "no safetensors weights" if file == WEIGHTS else f"no {file}, which is needed"
    assert lacks in refusal("someone/lacking")
    assert hub.bytes_sent(WEIGHTS) == 0


def test_a_config_of_many_megabytes_is_not_fetched(hub: FakeHub, folder: Path) -> None:
    (folder / "config.json").write_bytes(bytes(10_000_001))
    hub.add("someone/large", folder)
    assert "config.json of someone/large is larger than 10 MB, the limit" in refusal("someone/large")
    assert hub.bytes_sent("config.json") == 0


def test_weights_that_are_no_safetensors_are_refused_and_not_listed(hub: FakeHub, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    hub.add("someone/pointer", folder)
    assert "The weights of someone/pointer are missing or damaged" in refusal("someone/pointer", CheckpointError)
    assert "someone/pointer" not in [spec.name for spec in available_models()]


@pytest.mark.parametrize("digest", ["../../../../escaped", "", "x" * 64])
def test_a_checksum_that_is_none_is_refused_as_it_would_name_a_file(hub: FakeHub, digest: str, tmp_path: Path) -> None:
    hub.repos[REPO].revisions["main"][1]["config.json"].sibling["blobId"] = digest
    assert "a checksum is missing" in refusal()
    assert not list(tmp_path.rglob("escaped*"))


# Names


NO_NAMES = ["../x", "..", "a/..", "a/b/c", "a", "a b/c", "a/b c", "/a", "a/", "a/b@", "a/b@../../x", "a--b/c", "a/b--c"]
NO_NAMES += ["", "\0/b", "a/b\n", "~/a", "~nobody/a", "x" * 5000, "a/" + "x" * 5000, "a\\b", "http://a/b", "a/b?c"]


def test_what_is_no_name_reaches_neither_the_disk_nor_the_network(hub: FakeHub, tmp_path: Path) -> None:
    for name in NO_NAMES:
        with pytest.raises(OptionError, match="not the name of a model on the Hub"):
            download(name)
        with pytest.raises(UnknownModelError):
            get_spec(name)
        with pytest.raises(UnknownModelError):
            obtain(name)
        with pytest.raises(OptionError):
            remove(name)
        assert hub.requests == []
        assert not (tmp_path / "hf").exists()


def test_a_name_that_the_hub_does_not_allow_is_worded(hub: FakeHub) -> None:
    for name in ["a/b.", "a./b", "ä/ö", f"{'x' * 96}/{'y' * 96}"]:
        assert "There is no model" in refusal(name)
