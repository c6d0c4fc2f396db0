"""Which replica runs a model: a pure function, without Ray."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from vitdemo.cluster.placement import Model, Placement, Report

TWO = ["one", "two"]
MODELS = [Model(f"m{number}", 1_000_000) for number in range(6)]


def report(replica: str, *loaded: str, holds: int = 10**9) -> Report:
    return Report(replica, 1, "1", "CPU", holds, dict.fromkeys(loaded, 4_000_000))


def settled(placement: Placement, models: list[Model], replicas: list[str]) -> list[str]:
    """Places of models that were run there, and are in memory now."""
    found = placement.place(models, replicas)
    for replica in {*found}:
        held = [model.key for model, place in zip(models, found, strict=True) if place == replica]
        known = next((one.loaded for one in placement.reports() if one.replica == replica), {})
        placement.learned(report(replica, *{*held, *known}))
    for model, replica in zip(models, found, strict=True):
        placement.ended(replica, [model])
    return found


def test_new_models_are_spread_and_then_stay_where_they_are() -> None:
    placement = Placement(hot=8)
    first = settled(placement, MODELS, TWO)
    assert sorted(first) == ["one"] * 3 + ["two"] * 3
    for _ in range(3):
        assert settled(placement, MODELS, TWO) == first


def test_two_callers_at_the_same_moment_load_a_new_model_once() -> None:
    placement = Placement(hot=100)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda _: placement.place([MODELS[0]], TWO)[0], range(64)))
    assert len({*found}) == 1


def test_two_pages_that_know_the_same_choose_the_same_replica() -> None:
    names = [f"replica{number}" for number in range(5)]
    for model in MODELS:
        assert Placement(8).place([model], names) == Placement(8).place([model], list(reversed(names)))


def test_a_hot_model_spreads_to_a_replica_that_has_less_to_do() -> None:
    placement = Placement(hot=4)
    settled(placement, [MODELS[0]], TWO)
    found = [placement.place([MODELS[0]], TWO)[0] for _ in range(8)]
    assert len({*found[:4]}) == 1
    assert {*found} == {*TWO}


def test_a_model_goes_only_where_it_fits_if_it_fits_anywhere() -> None:
    placement = Placement(hot=2)
    placement.learned(report("one", holds=10))
    placement.learned(report("two", "other", "another"))
    assert placement.place([MODELS[0]], TWO) == ["two"]
    assert placement.place([MODELS[0]] * 5, TWO) == ["two"] * 5


def test_what_a_lost_replica_had_is_loaded_elsewhere_and_what_it_did_still_counts() -> None:
    placement = Placement(hot=8)
    (home,) = settled(placement, [MODELS[0]], TWO)
    other = next(one for one in TWO if one != home)
    placement.lost(home)
    assert placement.place([MODELS[0]], [other]) == [other]
    assert {one.replica for one in placement.reports()} == {home}
    assert not placement.reports()[0].loaded


def test_without_replicas_a_job_waits_for_any() -> None:
    placement = Placement(hot=8)
    assert placement.place([MODELS[0]], []) == [""]
    placement.ended("", [MODELS[0]])
    assert placement.place([MODELS[0]], ["one"]) == ["one"]
