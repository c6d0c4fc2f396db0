"""What is refused before any cluster is joined: in one sentence, and without loading Ray."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vitdemo.cli import main
from vitdemo.cluster import addresses
from vitdemo.cluster.addresses import Cluster, forget, is_reachable, parts_of, remember, remembered
from vitdemo.engine import LocalBackend, backend_of
from vitdemo.engine.counts import Counts, added
from vitdemo.engine.ray_service import app
from vitdemo.errors import OptionError, ServiceError, SettingsError
from vitdemo.settings import ROOT, Settings

RAY = Settings(device="cpu", backend="ray")


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.fixture(autouse=True)
def _own_memo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses.tempfile, "tempdir", str(tmp_path))


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.usefixtures("without_ray")
def test_without_ray_the_backend_and_the_service_say_how_to_install_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ServiceError, match=r"pip install 'ray\[serve\]'"):
        backend_of(RAY)
    assert main(["serve"]) == 1
    shown = capsys.readouterr()
    assert "Ray is not installed" in shown.err
    assert shown.out == ""


@pytest.mark.usefixtures("without_ray")
def test_without_ray_the_local_backend_is_as_ever() -> None:
    assert isinstance(backend_of(replace(RAY, backend="local")), LocalBackend)


def test_an_unknown_backend_is_named_with_the_choices() -> None:
    with pytest.raises(SettingsError, match=r"VITDEMO_BACKEND='cloud' cannot be used\. Choose local or ray"):
        backend_of(replace(RAY, backend="cloud"))


@pytest.mark.parametrize("address", ["10.0.0.1", "host:", ":6379", "host:port", "ray://host:10001", "host:70000"])
def test_an_address_of_another_form_is_refused_with_the_form(address: str) -> None:
    with pytest.raises(SettingsError, match="host:port is expected"):
        parts_of(address)
    with pytest.raises(SettingsError, match="host:port is expected"):
        backend_of(replace(RAY, ray_address=address))


def test_an_address_where_nothing_answers_is_named_at_once() -> None:
    address = free_address()
    with pytest.raises(ServiceError, match=f"No Ray cluster answers at {address}"):
        backend_of(replace(RAY, ray_address=address))


def test_serving_on_a_cluster_that_is_not_there_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    address = free_address()
    assert main(["serve", "--address", address]) == 1
    assert f"No Ray cluster answers at {address}" in capsys.readouterr().err


def test_a_service_can_only_be_left_on_a_cluster_that_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--detach"]) == 2
    assert "--detach needs --address" in capsys.readouterr().err


def test_an_unknown_setting_in_a_serve_config_is_named() -> None:
    with pytest.raises(OptionError, match="no setting 'replicas'"):
        app({"replicas": 2})


def test_a_service_of_this_machine_is_found_while_it_runs_and_only_if_it_is_ours(tmp_path: Path) -> None:
    assert remembered() is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster = Cluster(f"127.0.0.1:{server.getsockname()[1]}", "token", os.getpid())
        remember(cluster)
        assert remembered() == cluster
        (memo,) = tmp_path.iterdir()
        memo.chmod(0o644)
        assert remembered() is None, "anyone could have written it"
        memo.chmod(0o600)
        memo.write_text(json.dumps({"address": cluster.address, "pid": 2**22 + 1}), encoding="utf-8")
        assert remembered() is None, "its process has ended"
        memo.write_text("[", encoding="utf-8")
        assert remembered() is None
        remember(cluster)
        forget(cluster)
        assert not memo.exists()
        remember(cluster)
    assert not is_reachable(cluster.address)
    assert remembered() is None


@pytest.mark.thorough
def test_neither_the_engine_nor_the_page_loads_ray() -> None:
    code = "import sys, vitdemo.engine, vitdemo.engine.ray_backend, vitdemo.cli.serving; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_counts_of_several_replicas_are_summed() -> None:
    counts = [Counts(), Counts()]
    for one in counts:
        with one.job("vit-mini"):
            assert one.shown()["under_way"] == {"vit-mini": 1}
            one.forward("vit-mini", 4, 10.0)
    told = added(one.shown() for one in counts)
    assert told["jobs"] == {"vit-mini": 2}
    assert told["under_way"] == {"vit-mini": 0}
    assert told["batches"] == {"4": 2}
    assert told["milliseconds"] == {"vit-mini": 20.0}
