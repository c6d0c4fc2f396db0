"""Stored answers, and how far a new one may differ: floats a little, everything else not at all.

`VITDEMO_UPDATE_SNAPSHOTS=1` writes what comes out instead of comparing it.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent / "data"
UPDATE = "VITDEMO_UPDATE_SNAPSHOTS"

PERCENT = re.compile(r"(\d+)(?=%)")
"""Descriptions round what was computed: another processor may just round it the other way."""


def check(name: str, found: Any) -> None:
    """Compare with the file of that name: of a `.json` every value, of any other the text."""
    path = DATA / name
    if path.suffix == ".json":
        found = json.loads(json.dumps(found))
        text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    else:
        text = found
    if updating():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    if not path.exists():
        pytest.fail(f"{name} is not stored: run this test with {UPDATE}=1, and look at what it writes.", pytrace=False)
    before = path.read_text(encoding="utf-8")
    differences = differing(json.loads(before), found) if path.suffix == ".json" else _differing_lines(before, text)
    if lines := [*differences]:
        pytest.fail("\n".join([name, *lines]), pytrace=False)


def updating() -> bool:
    """Whether answers are to be stored."""
    return os.environ.get(UPDATE) == "1"


def stored(name: str) -> Any:
    """What a `.json` holds."""
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def differing(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """What differs, one line each.

    >>> list(differing({"a": 1.0, "b": "12% of it"}, {"a": 1.00001, "b": "13% of it"}))
    []
    >>> list(differing({"a": [1.0, 2]}, {"a": [1.1, 3]}))
    ['.a[0]: 1.0 became 1.1', '.a[1]: 2 became 3']
    >>> list(differing({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    [": ['a', 'b'] became ['b', 'a']"]
    """
    if isinstance(before, dict) and isinstance(now, dict) and list(before) == list(now):
        for key in before:
            yield from differing(before[key], now[key], f"{where}.{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from differing(one, other, f"{where}[{index}]")
    elif not _same(before, now):
        left, right = (list(value) if isinstance(value, dict) else value for value in (before, now))
        yield f"{where}: {left!r} became {right!r}"


def _differing_lines(before: str, now: str) -> Iterator[str]:
    return difflib.unified_diff(before.splitlines(), now.splitlines(), "stored", "now", lineterm="")


def _same(before: Any, now: Any) -> bool:
    if type(before) is not type(now) or isinstance(before, dict | list):
        return False
    if isinstance(before, float):
        return math.isclose(before, now, rel_tol=1e-3, abs_tol=1e-4)
    return _alike(before, now) if isinstance(before, str) else bool(before == now)


def _alike(before: str, now: str) -> bool:
    """The same words, with shares that differ by one percent at most."""
    left, right = PERCENT.split(before), PERCENT.split(now)
    shares = zip(left[1::2], right[1::2], strict=False)
    return left[::2] == right[::2] and all(abs(int(one) - int(other)) <= 1 for one, other in shares)
