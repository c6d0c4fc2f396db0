"""The soak tells a right answer from a wrong one and from another user's, and names every bar that is not met."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from scripts.soak.page import AnsweredError, BrokenError, _output
from scripts.soak.photos import Known, Photos
from scripts.soak.report import Soaked, odd, table
from scripts.soak.users import Done
from tests import loops

IMAGE = Image.new("RGB", (64, 48), (90, 120, 200))
PHOTOS = Photos(
    [
        Known(IMAGE, {"a": {"cat": 0.7, "dog": 0.2}, "b": {"cat": 0.5, "dog": 0.4}}),
        Known(IMAGE, {"a": {"cat": 0.1, "dog": 0.8}, "b": {"dog": 0.6, "cat": 0.1}}),
    ],
    ["a", "b"],
)


def answer(**models: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {"model": model, "labels": [{"label": label, "score": score} for label, score in labels.items()]}
        for model, labels in models.items()
    ]


@pytest.mark.parametrize(
    ("found", "judged"),
    [
        (answer(a={"cat": 0.705, "dog": 0.195}, b={"dog": 0.41, "cat": 0.49}), "right"),
        (answer(a={"dog": 0.8, "cat": 0.1}, b={"dog": 0.6, "cat": 0.1}), "of another"),
        (answer(a={"cat": 0.7, "dog": 0.2}, b={"dog": 0.6, "cat": 0.1}), "wrong"),
        (answer(b={"cat": 0.5, "dog": 0.4}, a={"cat": 0.7, "dog": 0.2}), "wrong"),
        (answer(a={"cat": 0.7, "dog": 0.2}), "wrong"),
        ([{"model": "a"}, {"model": "b"}], "wrong"),
    ],
)
def test_an_answer_is_compared_with_the_one_computed_alone(found: list[dict[str, Any]], judged: str) -> None:
    assert PHOTOS.judge(0, found, ["a", "b"]) == judged


def test_a_fresh_photo_is_a_new_file_of_nearly_the_same_pixels() -> None:
    numbers = random.Random(0)
    assert len({PHOTOS.known[0].fresh(numbers) for _ in range(5)}) == 5


def test_an_error_without_words_is_no_answer() -> None:
    def failed(error: Any) -> dict[str, Any]:
        return {"success": False, "output": {"error": error}}

    with pytest.raises(AnsweredError, match="too large"):
        _output(failed("It is too large."))
    for error in (None, "", 'Traceback (most recent call last):\n  File "x.py"'):
        with pytest.raises(BrokenError, match="without words"):
            _output(failed(error))


def done(outcome: str, at: float = 0.0) -> Done:
    return Done("classify", at, 1.0, outcome)


GOOD = Soaked(
    users=2,
    start=0.0,
    stopped=100.0,
    done=[done("right", at) for at in range(50)] + [done("error", 99.5)],
    memory=[(at, 900.0 + min(at, 10)) for at in range(100)],
    ending=3.0,
    status=0,
    files_before=7,
    files_left=0,
    log="",
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"done": [done("broken")]}, "1 jobs without exactly one worded answer"),
        ({"done": [done("of another")] * 2}, "2 answers to another user's photo"),
        ({"done": [done("wrong")]}, "1 wrong answers"),
        ({"done": [done("error")]}, "1 errors"),
        ({"memory": [(at, 900.0 + 2 * at) for at in range(100)]}, "memory of the last tenth is 1.17 times"),
        ({"ending": 10.5}, "ended after 10.5 s"),
        ({"status": -9}, "with status -9"),
        ({"files_left": 3}, "3 files left"),
        ({"log": "Traceback"}, "tracebacks in the log"),
    ],
)
def test_every_bar_that_is_not_met_is_named(changes: dict[str, Any], words: str) -> None:
    assert GOOD.failures() == []
    (found,) = replace(GOOD, **changes).failures()
    assert words in found


def test_the_table_has_throughput_percentiles_memory_and_files() -> None:
    shown = table(GOOD)
    assert "| all | 51 | 0.51 | 1.00 s | 1.00 s | 1.00 s | 0 | 0 | 0 | 0 |" in shown
    assert "last over second: 1.000" in shown
    assert "of 1 actions under way 0 finished, 1 were refused in words, 0 cut off" in shown
    assert "Files: 7 before it, 0 after." in shown


@pytest.mark.thorough
def test_a_soak_of_a_few_seconds_meets_its_bars() -> None:
    from scripts.soak.__main__ import soak
    from scripts.soak.server import serving

    photos = Photos.computed(examples=2)
    with serving() as server:
        seen = loops.run(soak(server, photos, users=3, seconds=15))
    # Caches are still being filled.
    failures = [failure for failure in seen.failures() if "memory" not in failure]
    assert failures == [], "\n".join([*odd(seen.done), seen.log[-6000:]])
    assert seen.files_before
    assert sum(one.outcome == "right" for one in seen.done) > 5
    assert all(one > 0 for one in seen.tenths())
