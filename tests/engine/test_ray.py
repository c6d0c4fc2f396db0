"""The model service on a real cluster of this machine: answers as of the local backend, and what happens when parts fail."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from tests.engine.ray_cluster import Service, service, stopped, until
from vitdemo.cluster import addresses, link
from vitdemo.engine import LocalBackend, ModelRun, ray_backend
from vitdemo.engine.left import working_for
from vitdemo.engine.ray_backend import RayBackend
from vitdemo.errors import BusyError, ClientLeftError, OptionError, ServiceError, TooLargeError, VitDemoError
from vitdemo.models.parts import feature_maps, first_filters, position_table, sizes_of
from vitdemo.registry import default_models, get_spec
from vitdemo.settings import Settings
from vitdemo.types import Attribution, Capture, Knockout, Lens, ModelSpec, Reconstruct, Shuffle

pytestmark = [pytest.mark.ray, pytest.mark.thorough, pytest.mark.timeout(300)]

SETTINGS = {"VITDEMO_RAY_REPLICAS": "2", "VITDEMO_RAY_CPUS": "1", "VITDEMO_MAX_BATCH": "2", "VITDEMO_MAX_QUEUE": "8"}
LOCAL = Settings(device="cpu", max_batch=2)
USERS = 6
OTHER_RAY = """
from vitdemo.cluster import bridge
prepare = bridge.prepare_ray
def prepared(*arguments):
    prepare(*arguments)
    import ray
    ray.__version__ = "2.0.0"
bridge.prepare_ray = prepared
bridge.main()
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("serve"), SETTINGS) as found:
        yield found


@pytest.fixture(scope="module")
def backend(running: Service) -> Iterator[RayBackend]:
    made = RayBackend(joining(running))
    yield made
    made.close()


@pytest.fixture(scope="module")
def local() -> Iterator[LocalBackend]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield LocalBackend(LOCAL)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _token(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever joins by an address has Ray's token by other means.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", running.cluster.token)


def joining(found: Service, **options: Any) -> Settings:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ["RAY_AUTH_TOKEN_PATH"] = found.cluster.token
    return replace(LOCAL, backend="ray", ray_address=found.cluster.address, **options)


def pixels(spec: ModelSpec, count: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, *spec.image_size, generator=torch.Generator().manual_seed(seed))


def same(one: Any, other: Any, skip: tuple[str, ...] = ("milliseconds",)) -> bool:
    """To the bit, but for the time that it took."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if is_dataclass(one):
        names = [field.name for field in fields(one) if field.name not in skip]
        return type(one) is type(other) and all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def pids(backend: RayBackend) -> dict[str, int]:
    return {report.replica: report.pid for report in backend._told()}


def home(backend: RayBackend, spec: ModelSpec) -> int:
    """The process that has a model."""
    backend.run(spec, pixels(spec), Capture())
    return next(report.pid for report in backend._told() if spec.checkpoint in report.loaded)


REQUESTS = {
    "scores": Capture(),
    "rows": Capture(tokens=(0,), mean=True),
    "queries, keys, values and features": Capture(queries=True, values=True, features=True),
    "a shuffle": Capture(shuffle=Shuffle(tuple(reversed(range(196))))),
    "knock-outs": Capture(knockouts=tuple(Knockout(heads=((layer, 0),)) for layer in range(5))),
    "hidden patches": Capture(knockouts=(Knockout(patches=(3, 4, 5)),)),
    "a lens": Lens(),
    **{method: Attribution(method) for method in ("rollout", "grad-rollout", "relevance", "legrad", "grad-cam")},
    "similarity": Attribution("similarity", query=7),
    "a class": Attribution("relevance", target=3, knockouts=(Knockout(mlp=(2,)),)),
}


@pytest.mark.parametrize("name", ["vit-mini", "deit-mini", "beit-mini", "dino-mini", "hybrid-mini", "cnn-mini"])
def test_every_answer_equals_the_local_one_to_the_bit(backend: RayBackend, local: LocalBackend, name: str) -> None:
    spec, compared = get_spec(name), 0
    for request in REQUESTS.values():
        try:
            expected: Any = local.run(spec, pixels(spec), request)
        except Exception as error:
            expected = error
        if isinstance(expected, VitDemoError):
            with pytest.raises(type(expected)) as told:
                backend.run(spec, pixels(spec), request)
            assert str(told.value) == str(expected)
        elif not isinstance(expected, Exception):
            assert same(backend.run(spec, pixels(spec), request), expected), request
            compared += 1
    assert compared >= (4 if name == "cnn-mini" else 10)


def test_a_batch_and_several_models_in_one_call_equal_the_local_ones(backend: RayBackend, local: LocalBackend) -> None:
    runs = [ModelRun(spec, pixels(spec, 2), Capture(tokens=(0,))) for spec in default_models(LOCAL)]
    assert same(backend.run_many(runs), local.run_many(runs))


def test_a_reconstruction_equals_the_local_one(backend: RayBackend, local: LocalBackend) -> None:
    spec = get_spec("mae-mini")
    request = Reconstruct(torch.rand(1, *spec.patch_grid, generator=torch.Generator().manual_seed(0)) < 0.75)
    assert same(backend.run(spec, pixels(spec), request), local.run(spec, pixels(spec), request))


def test_what_is_read_off_weights_equals_what_the_local_backend_reads(backend: RayBackend, local: LocalBackend) -> None:
    vit, hybrid = get_spec("vit-mini"), get_spec("hybrid-mini")
    for at in (position_table, first_filters, sizes_of):
        assert same(backend.look(vit, at), local.look(vit, at))
    maps = partial(feature_maps, pixels=pixels(hybrid))
    assert same(backend.look(hybrid, maps), local.look(hybrid, maps))
    with pytest.raises(OptionError, match="position embeddings"):
        backend.look(get_spec("beit-mini"), position_table)


def test_it_says_where_models_run_and_what_is_loaded_and_unloads(backend: RayBackend) -> None:
    spec = get_spec("vit-mini")
    before = backend.forwards
    backend.run(spec, pixels(spec), Capture())
    assert backend.forwards == before + 1
    assert backend.where == "Ray (2 replicas, CPU)"
    assert not backend.borrowed
    assert backend.loaded()[spec.checkpoint] == 4 * spec.parameters
    backend.unload(spec)
    assert spec.checkpoint not in backend.loaded()


def test_a_new_model_that_many_ask_for_at_once_is_loaded_once(backend: RayBackend) -> None:
    spec = get_spec("deit-mini")
    backend.unload(spec)
    before = backend.counts.shown()["loads"].get(spec.name, 0)
    at_once = threading.Barrier(2)

    def ask(seed: int) -> None:
        at_once.wait()
        backend.run(spec, pixels(spec, seed=seed), Capture())

    with ThreadPoolExecutor(2) as users:
        list(users.map(ask, range(2)))
    assert backend.counts.shown()["loads"][spec.name] == before + 1


def test_a_hot_model_spreads_to_the_other_replica(backend: RayBackend) -> None:
    spec = get_spec("dino-mini")
    backend.unload(spec)
    load(backend, spec, seconds=4)
    assert sum(spec.checkpoint in report.loaded for report in backend._told()) == 2


def load(backend: RayBackend, spec: ModelSpec, seconds: float, users: int = USERS) -> list[Any]:
    """What so many users get who ask one after the other: outputs, or errors."""
    end = time.monotonic() + seconds

    def ask(seed: int) -> list[Any]:
        found: list[Any] = []
        while time.monotonic() < end:
            try:
                found += backend.run(spec, pixels(spec, seed=seed), Capture())
            except VitDemoError as error:
                found.append(error)
        return found

    with ThreadPoolExecutor(users) as threads:
        return [one for found in threads.map(ask, range(users)) for one in found]


def test_a_queue_that_is_full_refuses_in_the_words_of_the_page(backend: RayBackend) -> None:
    spec = get_spec("vit-mini")
    home(backend, spec)
    with ThreadPoolExecutor(40) as users, stopped([*pids(backend).values()]):
        asked = [users.submit(backend.run, spec, pixels(spec), Capture()) for _ in range(40)]
        until(lambda: sum(one.done() for one in asked) >= 10)
        refused = [one.exception() for one in asked if one.done()]
    assert refused
    assert all(isinstance(error, BusyError) for error in refused), refused
    assert str(refused[0]).startswith("The server is busy: ")
    assert str(refused[0]).endswith(" Try again in a moment.")
    # Nobody who was accepted was forgotten.
    answered = [one for one in asked if one.exception() is None]
    assert len(answered) + sum(isinstance(one.exception(), BusyError) for one in asked) == 40
    assert answered


def test_a_replica_that_is_killed_under_load_loses_no_job(backend: RayBackend) -> None:
    spec = get_spec("vit-mini")
    expected = {seed: backend.run(spec, pixels(spec, seed=seed), Capture())[0].logits for seed in range(USERS)}
    victim = home(backend, spec)
    killer = threading.Timer(1.5, os.kill, (victim, signal.SIGKILL))
    killer.start()
    found = load(backend, spec, seconds=6)
    killer.join()
    assert not psutil.pid_exists(victim)
    assert not [one for one in found if isinstance(one, Exception)]
    assert len(found) > 50
    for one in found:
        assert any(torch.allclose(one.logits, logits, atol=1e-4) for logits in expected.values() if logits is not None)
    until(lambda: len(backend._told()) == 2)


def test_a_slow_replica_has_a_deadline_and_whoever_leaves_is_not_kept(running: Service, backend: RayBackend) -> None:
    spec = get_spec("vit-mini")
    hurried = RayBackend(joining(running, ray_timeout=2.0))
    try:
        home(hurried, spec)
        with stopped([*pids(hurried).values()]):
            start = time.monotonic()
            with pytest.raises(ServiceError, match="did not answer within 2 seconds"):
                hurried.run(spec, pixels(spec), Capture())
            assert time.monotonic() - start < 5
            left = threading.Event()
            threading.Timer(0.5, left.set).start()
            start = time.monotonic()
            with working_for(left.is_set), pytest.raises(ClientLeftError):
                backend.run(spec, pixels(spec), Capture())
            assert time.monotonic() - start < 2
        assert len(hurried.run(spec, pixels(spec), Capture())) == 1
    finally:
        hurried.close()


def test_a_replica_that_is_out_of_memory_says_so_and_goes_on(backend: RayBackend) -> None:
    spec = get_spec("dino-mini")
    large = torch.zeros(1, 3, 1792, 1792)
    backend.run(spec, pixels(spec), Capture())
    limited = [*pids(backend).values()]
    for pid in limited:
        used = psutil.Process(pid).memory_info().vms
        resource.prlimit(pid, resource.RLIMIT_AS, (used + 150_000_000, resource.RLIM_INFINITY))
    try:
        with pytest.raises(TooLargeError, match="not enough free memory to run dino-mini"):
            backend.run(spec, large, Capture(gradients=True))
    finally:
        for pid in limited:
            resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    # The process is the same.
    assert {*limited} <= {*pids(backend).values()}
    assert len(backend.run(spec, pixels(spec), Capture())) == 1


def test_a_model_that_no_replica_has_memory_for_is_refused_in_a_sentence(backend: RayBackend) -> None:
    spec = replace(get_spec("vit-mini"), checkpoint=get_spec("cnn-mini").checkpoint, parameters=10**12)
    with pytest.raises(TooLargeError, match=r"vit-mini takes 4000\.00 GB of memory"):
        backend.run(spec, pixels(spec), Capture())


def test_another_version_is_refused_at_the_start_and_at_each_job(
    running: Service, backend: RayBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = get_spec("vit-mini")
    monkeypatch.setattr(ray_backend, "VERSION", "0.0.1")
    words = r"runs vitdemo \d\S+, and this is 0\.0\.1\. Use one version\."
    with pytest.raises(ServiceError, match=words):
        backend.run(spec, pixels(spec), Capture())
    with pytest.raises(ServiceError, match=words):
        RayBackend(joining(running))


def test_another_version_of_ray_is_refused_in_a_sentence(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "BRIDGE", ("-c", OTHER_RAY))
    with pytest.raises(ServiceError, match="another version of Ray or Python"):
        RayBackend(joining(running))


def test_an_address_where_something_else_answers_is_named(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "JOIN", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ServiceError, match=f"cluster at {address} could not be joined"):
            RayBackend(replace(LOCAL, backend="ray", ray_address=address))


def test_a_cluster_that_is_gone_is_told_in_words_and_used_again_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = get_spec("vit-mini")
    one = {**SETTINGS, "VITDEMO_RAY_REPLICAS": "1"}
    monkeypatch.setattr(addresses.tempfile, "tempdir", str(tmp_path))
    with service(tmp_path, one) as first:
        found = RayBackend(replace(LOCAL, backend="ray"))
        try:
            assert len(found.run(spec, pixels(spec), Capture())) == 1
            # From now on it must not start one of its own.
            found._settings = replace(found._settings, ray_address=first.cluster.address)
            under_way = ThreadPoolExecutor(1).submit(load, found, spec, 12.0, 1)
            time.sleep(1)
            first.kill()
            told = [one for one in under_way.result(60) if isinstance(one, Exception)]
            assert told
            assert all(isinstance(error, ServiceError) and "cluster" in str(error) for error in told), told
            found._settings = replace(found._settings, ray_address="")
            with service(tmp_path, one):
                assert len(found.run(spec, pixels(spec), Capture())) == 1
        finally:
            found.close()
