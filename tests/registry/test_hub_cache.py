"""Models in the Hub cache are found offline, whatever else is in it; folders are found by path."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from vitdemo.errors import CheckpointError, NotDownloadedError, OptionError, UnknownModelError
from vitdemo.registry import (
    OFFICIAL,
    add_folder,
    available_models,
    find_spec,
    forget_folder,
    get_spec,
    hub_cache,
    obtain,
    ready_models,
    remove,
    remove_damaged,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "model.safetensors"

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[[str], Path]) -> Put:
    """`put(repo, files)`: a repository in an empty cache, as Hugging Face lays it out; returns its snapshot."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    def put(repo: str, files: dict[str, bytes] | None = None, kind: str = "models", commit: str = COMMIT) -> Path:
        files = files_of(tiny_folder("vit")) if files is None else files
        folder = hub_cache.root() / f"{kind}--{repo.replace('/', '--')}"
        snapshot = folder / "snapshots" / commit
        for place in (snapshot, folder / "blobs", folder / "refs"):
            place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
        (folder / "refs" / "main").write_text(commit)
        return snapshot

    return put


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    """The same with other entries of `config.json`."""
    return {**files, "config.json": json.dumps({**json.loads(files["config.json"]), **changes}).encode()}


def from_hub() -> list[str]:
    return [spec.name for spec in ready_models() if spec.source == "hub"]


def test_any_model_in_the_cache_that_can_be_loaded_is_listed(put: Put) -> None:
    snapshot = put("someone/flowers")
    assert from_hub() == ["someone/flowers"]
    spec = get_spec("someone/flowers")
    assert (spec.checkpoint, spec.revision, spec.license) == (str(snapshot), COMMIT, "unknown")
    assert find_spec("someone/flowers") == obtain("someone/flowers") == spec
    assert get_spec(f"someone/flowers@{COMMIT}").checkpoint == str(snapshot)


@pytest.mark.parametrize("lacking", ["config.json", "preprocessor_config.json", WEIGHTS])
def test_what_came_only_in_part_is_not_listed(put: Put, tiny_folder: Callable[[str], Path], lacking: str) -> None:
    files = files_of(tiny_folder("vit"))
    del files[lacking]
    put("someone/flowers", files)
    put("google/vit-base-patch16-224", files)
    assert from_hub() == []
    with pytest.raises(UnknownModelError):
        get_spec("someone/flowers")
    with pytest.raises(NotDownloadedError):
        get_spec("google/vit-base-patch16-224")


def test_a_link_to_nothing_is_not_listed(put: Put) -> None:
    (put("someone/flowers") / WEIGHTS).resolve().unlink()
    assert from_hub() == []


def test_pickled_weights_in_the_cache_are_listed_for_official_models_alone(
    put: Put, tiny_folder: Callable[[str], Path]
) -> None:
    files = files_of(tiny_folder("vit"))
    files["pytorch_model.bin"] = files.pop(WEIGHTS)
    put("someone/pickled", files)
    put("google/vit-base-patch16-224", files)
    assert from_hub() == ["google/vit-base-patch16-224"]
    assert get_spec("google/vit-base-patch16-224").pickled


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"[" * 100_000,
        b"null",
        b"\xff\xfe",
        b'{"model_type": "vit"}',
        b'{"model_type": "vit", "architectures": ["ViTModel"], "num_hidden_layers": Infinity}',
        b'{"model_type": "vit", "architectures": ["ViTModel"], "patch_size": NaN}',
        b'{"model_type": ["vit"], "architectures": {}}',
    ],
)
def test_a_broken_repository_does_not_hide_the_others(
    put: Put, tiny_folder: Callable[[str], Path], config: bytes
) -> None:
    put("broken/one", {**files_of(tiny_folder("vit")), "config.json": config})
    put("someone/flowers")
    assert from_hub() == ["someone/flowers"]


@pytest.mark.parametrize(
    "processor", [b"[]", b'{"size": {"longest_edge": 3}}', b'{"feature_extractor_type": "ConvNextX", "crop_pct": 0}']
)
def test_a_broken_processor_does_not_hide_the_others(
    put: Put, tiny_folder: Callable[[str], Path], processor: bytes
) -> None:
    put("broken/one", {**files_of(tiny_folder("vit")), "preprocessor_config.json": processor})
    put("someone/flowers")
    assert from_hub() == ["someone/flowers"]


@pytest.mark.parametrize("header", [b"[]", b"[" * 100_000, b"{}", b'{"a": 3}', b'{"a": {"shape": ["x"]}}', b'"x"'])
def test_broken_weights_do_not_hide_the_others(put: Put, tiny_folder: Callable[[str], Path], header: bytes) -> None:
    weights = len(header).to_bytes(8, "little") + header
    put("broken/one", {**files_of(tiny_folder("vit")), WEIGHTS: weights})
    put("someone/flowers")
    assert "someone/flowers" in from_hub()


def test_two_hundred_foreign_repositories_cost_little(put: Put, tiny_folder: Callable[[str], Path]) -> None:
    files = files_of(tiny_folder("vit"))
    llm = {"config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}', WEIGHTS: b"0" * 100}
    seeing = {**changed(files, model_type="qwen2_vl"), "model.safetensors.index.json": b'{"weight_map": {"a": "b"}}'}
    for index in range(50):
        put(f"someone/data{index}", kind="datasets")
        put(f"someone/space{index}", kind="spaces")
        put(f"someone/llm{index}", llm)
        put(f"someone/seeing{index}", seeing)
    (hub_cache.root() / "models--no-second-part").mkdir()
    (hub_cache.root() / "models--a--b--c").mkdir()
    (hub_cache.root() / "models----").mkdir()
    (hub_cache.root() / "models--some--file").write_text("no folder")
    (hub_cache.root() / "version.txt").write_text("1")
    (hub_cache.root() / ".locks" / "models--someone--flowers").mkdir(parents=True)
    put("someone/flowers")
    start = time.process_time()
    assert from_hub() == ["someone/flowers"]
    first = time.process_time()
    assert len(available_models()) == len(OFFICIAL) + 1 + len([s for s in ready_models() if s.source == "embedded"])
    assert first - start < 1.0
    assert time.process_time() - first < 1.0


def test_models_that_are_here_go_before_those_that_are_not_and_families_stay_together(put: Put) -> None:
    put("someone/flowers")
    put("facebook/vit-mae-base")
    shown = available_models()
    ready = [spec.ready for spec in shown]
    assert ready == sorted(ready, reverse=True)
    sources = [spec.source for spec in shown]
    assert sources == sorted(sources, key=("embedded", "local", "hub").index)
    assert len({spec.name for spec in shown}) == len(shown)


def test_listing_does_not_make_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "none"))
    available_models()
    with pytest.raises(UnknownModelError):
        get_spec("someone/flowers")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"])
def test_the_cache_is_where_hugging_face_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    below = {"HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub", "HOME": ".cache/huggingface/hub"}
    assert hub_cache.root() == tmp_path / below.get(variable, "")


def test_a_removed_model_is_gone_and_the_room_is_told(put: Put) -> None:
    snapshot = put("someone/flowers")
    put("someone/others")
    size = sum(path.stat().st_size for path in snapshot.iterdir())
    assert remove("someone/flowers") in range(size, size + 100)
    assert from_hub() == ["someone/others"]
    assert not hub_cache.folder("someone/flowers").exists()
    assert remove("someone/flowers") == 0


def test_only_files_whose_contents_are_wrong_are_removed_as_damaged(put: Put) -> None:
    snapshot = put("someone/flowers")
    assert remove_damaged(snapshot) == []
    blob = (snapshot / WEIGHTS).resolve()
    blob.write_bytes(b"damaged")
    assert remove_damaged(snapshot) == [WEIGHTS]
    assert not blob.exists()
    assert sorted(path.name for path in snapshot.iterdir()) == ["config.json", "preprocessor_config.json"]


def test_files_that_are_not_named_by_their_contents_are_never_removed_as_damaged(put: Put, tmp_path: Path) -> None:
    snapshot = put("someone/flowers")
    # Some keep the contents elsewhere, and link to them from the cache.
    blob = (snapshot / WEIGHTS).resolve()
    blob.rename(tmp_path / "store.bin")
    blob.symlink_to(tmp_path / "store.bin")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "store.bin")
    (snapshot / "plain.txt").write_text("no link")
    assert remove_damaged(snapshot) == []
    assert (tmp_path / "store.bin").exists()


# Folders


@pytest.fixture
def mine(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A folder with a model."""
    return Path(shutil.copytree(tiny_folder("dino"), tmp_path / "mine"))


def test_a_folder_is_among_the_models_from_when_it_is_added_until_it_is_forgotten(mine: Path) -> None:
    spec = add_folder(str(mine))
    try:
        assert (spec.name, spec.source, spec.link) == ("mine", "local", "")
        assert get_spec("mine") == spec == add_folder(str(mine))
        assert [known for known in ready_models() if known.source == "local"] == [spec]
    finally:
        forget_folder("mine")
    forget_folder("mine")
    with pytest.raises(UnknownModelError):
        get_spec("mine")
    assert (mine / WEIGHTS).exists()


def test_a_second_folder_of_the_same_name_is_refused(mine: Path, tmp_path: Path) -> None:
    other = shutil.copytree(mine, tmp_path / "other" / "mine")
    embedded = shutil.copytree(mine, tmp_path / "vit-mini")
    add_folder(str(mine))
    try:
        for folder in (other, embedded):
            with pytest.raises(OptionError, match=r"There is a model .* already"):
                add_folder(str(folder))
    finally:
        forget_folder("mine")


@pytest.mark.parametrize("path", ["none", "", "~nobody-has-this-name/x", "x" * 5000, "a\0b", "a/b"])
def test_what_is_no_folder_with_a_model_is_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="neither organisation/model on the Hub nor a folder"):
        add_folder(path)
    with pytest.raises(UnknownModelError):
        find_spec(path)


def test_a_folder_that_cannot_be_loaded_is_refused_and_not_added(mine: Path) -> None:
    tiny.edit_json(mine / "config.json", model_type="swin")
    for take in (add_folder, find_spec, obtain):
        with pytest.raises(CheckpointError, match="mine is of type 'swin'"):
            take(str(mine))
    with pytest.raises(UnknownModelError):
        get_spec("mine")


def test_the_path_of_a_folder_names_its_model_without_adding_it(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec(str(mine))
    assert (spec.name, spec.source) == ("mine", "local")
    assert obtain(str(mine)) == spec
    monkeypatch.setenv("HOME", str(mine.parent))
    assert find_spec("~/mine") == spec
    monkeypatch.chdir(mine.parent)
    assert find_spec("mine").parameters == spec.parameters
    with pytest.raises(UnknownModelError):
        get_spec("mine")


def test_a_name_that_strangers_give_never_reaches_a_folder(mine: Path) -> None:
    for name in (str(mine), f"../{mine.name}", "mine/../mine"):
        with pytest.raises(UnknownModelError):
            get_spec(name)
