"""The fake Hub through plain `huggingface_hub`: responses, retries and exceptions."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi, constants, errors, file_download, hf_hub_download
from huggingface_hub.utils import _http, close_session

from tests.fakehub import INFO, FakeHub

REPO, CONFIG, WEIGHTS = "google/vit-base-patch16-224", "config.json", "model.safetensors"
LABELS, SIZE, CHUNK = "extra/labels of all.txt", 200_000, 10_000


@dataclass
class Client:
    """`huggingface_hub` with an empty cache, its fake Hub, and the recorded sleeps."""

    hub: FakeHub
    folder: Path
    cache: Path
    waits: list[float]

    def info(self, repo: str = REPO, token: str | bool = False, **rest: Any) -> Any:
        return HfApi(endpoint=self.hub.endpoint, token=token).model_info(repo, files_metadata=True, **rest)

    def fetch(self, file: str = WEIGHTS, repo: str = REPO, token: str | bool = False, **rest: Any) -> Path:
        at = self.hub.endpoint
        return Path(hf_hub_download(repo, file, endpoint=at, cache_dir=self.cache, token=token, **rest))

    @property
    def bodies(self) -> list[tuple[str | None, int, int]]:
        """Range, status and bytes of every response to GET."""
        return [(asked.range, asked.status, asked.sent) for asked in self.hub.requests if asked.method == "GET"]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    folder, waits = tmp_path / "repo", list[float]()
    (folder / "extra").mkdir(parents=True)
    (folder / CONFIG).write_text('{"model_type": "vit"}\n')
    (folder / LABELS).write_text("cat\ndog\n")
    (folder / WEIGHTS).write_bytes(hashlib.shake_128(b"weights").digest(SIZE))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waits.append))
    close_session()
    with FakeHub() as hub:
        hub.add(REPO, folder)
        yield Client(hub, folder, tmp_path / "cache", waits)
    close_session()


def test_model_info_tells_the_commit_and_every_file_with_its_hash(client: Client) -> None:
    info = client.info()
    assert (info.id, info.sha, info.private, info.gated) == (REPO, client.hub.commit(REPO), False, False)
    files = {sibling.rfilename: sibling for sibling in info.siblings}
    assert set(files) == {CONFIG, WEIGHTS, LABELS}
    text = (client.folder / CONFIG).read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()
    assert (files[CONFIG].size, files[CONFIG].blob_id, files[CONFIG].lfs) == (len(text), blob, None)
    assert files[WEIGHTS].lfs["sha256"] == hashlib.sha256((client.folder / WEIGHTS).read_bytes()).hexdigest()
    assert files[WEIGHTS].lfs["size"] == SIZE


def test_files_arrive_whole_and_large_ones_by_the_cdn_without_the_token(client: Client) -> None:
    for file in (CONFIG, WEIGHTS, LABELS):
        assert client.fetch(file, token="hf_good").read_bytes() == (client.folder / file).read_bytes()
        assert client.hub.bytes_sent(file) == (client.folder / file).stat().st_size
    asked = [(r.method, r.path.split("/")[1], r.status) for r in client.hub.requests if WEIGHTS in r.path]
    assert asked == [("HEAD", "google", 302), ("GET", "cdn", 200)]


def test_what_is_in_the_cache_is_not_sent_again(client: Client) -> None:
    first = client.fetch()
    client.hub.requests.clear()
    assert client.fetch() == first
    assert [request.method for request in client.hub.requests] == ["HEAD"]
    client.hub.requests.clear()
    assert client.fetch(revision=client.hub.commit(REPO)) == first
    assert client.hub.requests == []


def test_adding_again_makes_a_new_commit_and_keeps_the_old_one(client: Client) -> None:
    old, before = client.hub.commit(REPO), (client.folder / CONFIG).read_text()
    (client.folder / CONFIG).write_text("{}")
    client.hub.add(REPO, client.folder, revision_name="next")
    assert client.fetch(CONFIG).read_text() == before
    assert client.fetch(CONFIG, revision="next").read_text() == "{}"
    assert client.fetch(CONFIG, revision=old).read_text() == before
    new = client.hub.add(REPO, client.folder)
    assert len({old, new, client.info(revision="next").sha}) == 3
    assert (client.info().sha, client.info(revision=old).sha) == (new, old)
    assert client.fetch(CONFIG).read_text() == "{}"


def test_a_part_of_a_file_can_be_asked_for(client: Client) -> None:
    whole, url = (client.folder / WEIGHTS).read_bytes(), f"{client.hub.endpoint}/{REPO}/resolve/main/{WEIGHTS}"
    for asked, part in (("0-9", whole[:10]), ("199990-", whole[-10:]), ("-5", whole[-5:]), ("5-999999", whole[5:])):
        answer = httpx2.get(url, headers={"Range": f"bytes={asked}"}, follow_redirects=True)
        assert (answer.status_code, answer.content) == (206, part)
    assert httpx2.get(url, headers={"Range": f"bytes={SIZE}-"}, follow_redirects=True).status_code == 416


def test_what_is_not_there_raises_its_own_error(client: Client) -> None:
    for call in (client.info, client.fetch):
        for token in (False, "hf_good"):
            with pytest.raises(errors.RepositoryNotFoundError) as caught:
                call(repo="google/none", token=token)
            assert not isinstance(caught.value, errors.GatedRepoError)
            with pytest.raises(errors.RevisionNotFoundError):
                call(revision="none", token=token)
    with pytest.raises(errors.EntryNotFoundError):
        client.fetch("none.json")


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("hf_other", 403)])
def test_gated_files_are_refused_without_access_but_described(client: Client, token: str | bool, status: int) -> None:
    client.hub.add(REPO, client.folder, gated=True)
    assert client.info(token=token).gated == "auto"
    for file in (CONFIG, WEIGHTS):
        with pytest.raises(errors.GatedRepoError, match="is restricted") as caught:
            client.fetch(file, token=token)
        assert caught.value.response.status_code == status
        assert client.fetch(file, token="hf_good").is_file()


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("hf_other", 404)])
def test_a_private_repository_looks_like_none_without_access(client: Client, token: str | bool, status: int) -> None:
    client.hub.add(REPO, client.folder, private=True)
    for call in (lambda token: client.info(token=token), lambda token: client.fetch(token=token)):
        with pytest.raises(errors.RepositoryNotFoundError) as caught:
            call(token)
        assert caught.value.response.status_code == status
        assert call("hf_good")


def test_an_expired_token_is_refused_even_for_public_files(client: Client) -> None:
    client.hub.expired.add("hf_old")
    for call in (lambda: client.info(token="hf_old"), lambda: client.fetch(token="hf_old")):
        with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials") as caught:
            call()
        assert not isinstance(caught.value, errors.RepositoryNotFoundError)


def test_a_cut_download_goes_on_where_it_was_cut(client: Client) -> None:
    cut = client.hub.fault(REPO, WEIGHTS, cut_after=55_000, times=2)
    assert client.fetch().read_bytes() == (client.folder / WEIGHTS).read_bytes()
    # Of a started chunk the library keeps nothing.
    assert client.bodies == [(None, 200, 55_000), ("bytes=50000-", 206, 55_000), ("bytes=100000-", 206, 100_000)]
    assert (cut.hits, client.waits) == (2, [1, 1])


def test_a_cut_within_the_first_chunk_starts_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", SIZE)
    client.hub.fault(None, None, cut_after=SIZE - 1, times=1)
    client.fetch()
    assert client.bodies == [(None, 200, SIZE - 1), (None, 200, SIZE)]


@pytest.mark.parametrize(("reset", "tries"), [(False, 6), (True, 1)])
def test_cuts_without_progress_are_retried_but_resets_are_not(client: Client, reset: bool, tries: int) -> None:
    cut = client.hub.fault(None, WEIGHTS, cut_after=100, reset=reset)
    with pytest.raises(httpx2.ReadError if reset else httpx2.RemoteProtocolError):
        client.fetch()
    assert (cut.hits, client.waits, list(client.cache.rglob("*.incomplete"))) == (tries, [1] * (tries - 1), [])


def test_no_answer_about_a_file_is_an_error_even_if_the_cache_has_it(client: Client) -> None:
    client.fetch(CONFIG)
    client.hub.fault(None, CONFIG, silent=True)
    with pytest.raises(httpx2.RemoteProtocolError):
        client.fetch(CONFIG)
    assert client.waits == []


def test_wrong_bytes_of_the_right_length_pass_unnoticed(client: Client) -> None:
    client.hub.fault(None, WEIGHTS, wrong_bytes=True, times=1)
    got, meant = client.fetch().read_bytes(), (client.folder / WEIGHTS).read_bytes()
    assert got != meant
    assert got[:-1] == meant[:-1]
    assert client.fetch().read_bytes() == got  # the cache believes them from now on
    assert client.fetch(force_download=True).read_bytes() == meant


def test_a_slow_download_takes_its_time(client: Client) -> None:
    client.hub.fault(None, WEIGHTS, bytes_per_second=SIZE * 2)
    start = time.monotonic()
    client.fetch()
    assert time.monotonic() - start > 0.4
    assert client.hub.bytes_sent(WEIGHTS) == SIZE


def test_a_stalled_download_times_out_and_goes_on(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    client.hub.fault(None, WEIGHTS, stall_after=55_000, times=1)
    client.fetch()
    assert client.bodies == [(None, 200, 55_000), ("bytes=50000-", 206, 150_000)]
    assert client.waits == [1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failing_hub_is_asked_again_for_what_the_cache_lacks(client: Client, status: int) -> None:
    fault = client.hub.fault(None, CONFIG, status=status, times=3, method="HEAD")
    client.fetch(CONFIG)
    assert (fault.hits, client.waits) == (3, [1, 2])
    fault.times = None
    assert client.fetch(CONFIG).is_file()
    assert fault.hits == 4
    client.hub.fault(None, WEIGHTS, status=status)
    with pytest.raises(errors.LocalEntryNotFoundError) as caught:
        client.fetch(WEIGHTS)
    assert isinstance(caught.value.__cause__, errors.HfHubHTTPError)
    assert client.waits[2:] == [1, 2, 4, 8, 8]


def test_descriptions_are_not_retried_and_bodies_only_after_429(client: Client) -> None:
    client.hub.fault(REPO, INFO, status=503, times=1)
    with pytest.raises(errors.HfHubHTTPError, match="503"):
        client.info()
    assert client.info().sha == client.hub.commit(REPO)
    client.hub.fault(None, WEIGHTS, status=429, method="GET", times=1, headers={"Retry-After": "7"})
    client.fetch()
    assert client.waits == [8]
    client.hub.fault(None, CONFIG, status=503, method="GET")
    with pytest.raises(errors.HfHubHTTPError, match="503"):
        client.fetch(CONFIG)
    assert client.waits == [8]


def test_a_hub_that_is_down_refuses_and_comes_back_at_the_same_address(client: Client) -> None:
    client.fetch(CONFIG)
    client.hub.down()
    assert client.fetch(CONFIG).is_file()
    with pytest.raises(httpx2.ConnectError):
        client.info()
    with pytest.raises(errors.LocalEntryNotFoundError) as caught:
        client.fetch(WEIGHTS)
    assert isinstance(caught.value.__cause__, httpx2.ConnectError)
    assert client.waits == [1, 2, 4, 8, 8]
    client.hub.up()
    assert client.fetch(WEIGHTS).stat().st_size == SIZE


def test_a_hub_that_goes_down_ends_downloads_under_way(client: Client) -> None:
    client.hub.fault(None, WEIGHTS, bytes_per_second=SIZE / 10)
    threading.Timer(0.3, client.hub.down).start()
    with pytest.raises(httpx2.ConnectError):
        client.fetch()
    assert client.waits == [1] * 5


def test_an_error_from_the_progress_bar_ends_the_download_and_leaves_nothing(client: Client) -> None:
    class Stop(file_download.base_tqdm):  # type: ignore[misc]
        def update(self, n: float | None = 1) -> None:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError):
        client.fetch(tqdm_class=Stop)
    assert list(client.cache.rglob("*.incomplete")) == []
    client.hub.requests.clear()
    client.fetch()
    assert client.bodies == [(None, 200, SIZE)]


def test_http_get_goes_on_with_a_file_of_ours(client: Client) -> None:
    whole, part = (client.folder / WEIGHTS).read_bytes(), client.folder / "part"
    part.write_bytes(whole[:70_001])
    with part.open("ab") as file:
        url = f"{client.hub.endpoint}/{REPO}/resolve/main/{WEIGHTS}"
        file_download.http_get(url, file, resume_size=70_001, expected_size=SIZE)
    assert part.read_bytes() == whole
    assert client.bodies == [("bytes=70001-", 302, 18), ("bytes=70001-", 206, SIZE - 70_001)]


def test_closing_ends_stalled_and_slow_answers_at_once(client: Client) -> None:
    client.hub.fault(None, CONFIG, stall_after=3)
    client.hub.fault(None, LABELS, bytes_per_second=1)
    with ExitStack() as opened:
        for file in (CONFIG, LABELS):
            url = f"{client.hub.endpoint}/{REPO}/resolve/main/{file}"
            opened.enter_context(httpx2.stream("GET", url, timeout=5))
        client.hub.close()
    assert not client.hub.connections
