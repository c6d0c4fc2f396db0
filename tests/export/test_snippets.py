"""The snippets that the page offers are run, and give the pipeline's results."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.cli.command import run
from tests.served import App
from tests.snippets import fill
from vitdemo.cli import build_parser
from vitdemo.export.snippets import HEAD, LAYER, POINT, READOUT, Texts, reproduce_compare, reproduce_explain
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.settings import ROOT
from vitdemo.types import Explanation

CUP = ROOT / "assets" / "examples" / "cup.jpg"
HOST = "http://127.0.0.1:1"

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "attention": (
        'it\'s a "cup" for $HOME; no `x`, ⟦layer⟧.jpg',
        "beit-mini",
        {"layer": 2, "head": 3, "readout": "class"},
    ),
    "a patch": ("cup.jpg", "vit-mini", {"layer": 5, "head": "max", "readout": "patch", "point": (301.25, 140.5)}),
    "gradients": ("-cup.jpg", "vit-mini", {"method": "legrad", "target": "top:2"}),
    "similarity": ("Tasse\nüber 杯.jpg", "dino-mini", {"method": "similarity", "point": (301.25, 140.5)}),
}
"""The file's name, the model, and what is shown."""

NAMES = [
    "cup.jpg",
    "a cup.jpg",
    "it's.jpg",
    'a "cup".jpg',
    "$HOME $(touch hacked) `touch hacked`.jpg",
    "a; touch hacked & # | > hacked",
    "back\\slash\\n.jpg",
    "two\nlines\n.jpg",
    "\x1b[2J\x07bell\t.jpg",
    "\u202egpj.exe",
    "Tasse über 杯 ☕.jpg",
    "not\udcffutf-8.jpg",
    "-",
    "--help",
    "-X=y.jpg",
    "~",
    "*?[a].jpg",
    "{0} %s {layer} @file.jpg",
    f"{LAYER}{HEAD}{READOUT}.jpg",
    "data:image",
    " .jpg",
    '", "model": "other',
]

URLS = [
    "https://example.com/a.jpg",
    'http://example.com/it\'s?a=$HOME&b="x"#`y` z',
    "HTTPS://example.com/⟦head⟧.jpg",
]

CURL = """curl() {
  case "$*" in
    */upload*) cat > uploaded; echo '["/tmp/gradio/a \\"b\\".jpg"]' ;;
    *-d*) printf '%s' "${@: -1}" > asked; echo '{"event_id":"7"}' ;;
    *-o*) printf '%s\\n' "$@" >> fetched ;;
    *) echo 'event: complete'; echo 'data: [{}, {"url": "http://h/o.png"}, {"url": "http://h/[m].npz"}]' ;;
  esac
}
"""
"""Keeps what it is given."""


def by_number(values: list[str]) -> dict[str, Any]:
    """Parameters with numbers as test ids."""
    return {"argvalues": values, "ids": [str(number) for number in range(len(values))]}


def bash(text: str, folder: Path) -> bytes:
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=folder,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def cli(text: str, folder: Path) -> str:
    """Run a command as a shell splits it, but in this process; returns what it prints."""
    assert text.startswith("python -m vitdemo ")
    words = bash(text.replace("python -m vitdemo", "printf '%s\\0'", 1), folder).split(b"\0")[:-1]
    done = run(*(os.fsdecode(word) for word in words))
    assert done.status == 0, done.error
    return done.out


def python(text: str) -> list[NDArray[np.float32]]:
    """Run a Python snippet; returns its maps."""
    names: dict[str, Any] = {}
    exec(compile(text, "snippet", "exec"), names)
    return [item.map.values for item in getattr(names["found"], "explanations", [names["found"]])]


def expected(pipeline: Pipeline, name: str) -> NDArray[np.float32]:
    _, model, options = CASES[name]
    found = pipeline.explain(pipeline.open(CUP), get_spec(model), ExplainRequest(**options)).map
    assert found is not None
    return found.values


def texts_of(name: str, host: str) -> Texts:
    file, model, options = CASES[name]
    # Of attention, the server knows no more than whether it is a patch's.
    chosen = {key: value for key, value in options.items() if "method" in options or value == "patch"}
    point = ",".join(map(str, options.get("point", ())))
    texts = reproduce_explain(file, model, ExplainRequest(**chosen), host)
    return fill(texts, options.get("layer", -1), options.get("head", "mean"), options.get("readout", ""), point)


PAIR = ["deit-mini", "beit-mini"]

READOUTS = ["", "distillation"]
"""Each model's own; and one that only the first has."""


def compared(readout: str, host: str) -> Texts:
    return fill(reproduce_compare("-cup.jpg", PAIR, ExplainRequest(), host), 2, 1, readout)


def expected_pair(pipeline: Pipeline, readout: str) -> tuple[Explanation, ...]:
    specs = [get_spec(name) for name in PAIR]
    found = pipeline.compare(pipeline.open(CUP), specs, ExplainRequest(layer=2, head=1, readout=readout)).explanations
    assert [item.map and item.map.readout for item in found] == [readout or "class", "mean"]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with these photos."""
    for file, *_ in CASES.values():
        shutil.copy(CUP, tmp_path / file)
    return tmp_path


@pytest.mark.thorough
def test_the_python_calls_give_the_pipelines_maps(
    folder: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name in CASES:
        (found,) = python(texts_of(name, HOST)["python"])
        np.testing.assert_allclose(found, expected(pipeline, name), rtol=0, atol=1e-6, err_msg=name)
    for readout in READOUTS:
        several = python(compared(readout, HOST)["python"])
        for values, item in zip(several, expected_pair(pipeline, readout), strict=True):
            assert item.map is not None
            np.testing.assert_allclose(values, item.map.values, rtol=0, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("name", CASES)
def test_the_command_line_gives_the_pipelines_map(
    folder: Path, pipeline: Pipeline, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    cli(texts_of(name, HOST)["cli"], folder)
    np.testing.assert_allclose(np.load(folder / "map.npz")["map"], expected(pipeline, name), rtol=0, atol=1e-6)
    with Image.open(folder / "overlay.png") as written:
        assert written.format == "PNG"


@pytest.mark.thorough
@pytest.mark.parametrize("name", CASES)
def test_curl_gives_the_pipelines_map(folder: Path, app: App, name: str) -> None:
    bash(texts_of(name, app.url)["curl"], folder)
    arrays = np.load(folder / "map.npz")
    np.testing.assert_array_equal(arrays["map"], expected(app.pipeline, name))
    assert json.loads(str(arrays["meta"]))["image"] == CASES[name][0]
    with Image.open(folder / "overlay.png") as written:
        assert written.format == "PNG"


def test_a_url_is_fetched_by_the_server(tmp_path: Path, app: App) -> None:
    url = f"{app.url}gradio_api/file={CUP}"
    texts = fill(reproduce_explain(url, "vit-mini", ExplainRequest(resolution=256), app.url), 1, "max", "class")
    bash(texts["curl"], tmp_path)
    wanted = app.pipeline.explain(
        app.pipeline.open(CUP), get_spec("vit-mini"), ExplainRequest(layer=1, head="max", resolution=256)
    ).map
    assert wanted is not None
    np.testing.assert_array_equal(np.load(tmp_path / "map.npz")["map"], wanted.values)


def test_what_the_server_refuses_is_said_and_the_call_fails(folder: Path, app: App) -> None:
    text = reproduce_explain("-cup.jpg", "vit-mini", ExplainRequest("legrad", target="a 'unicorn'"), app.url)["curl"]
    done = subprocess.run(["bash", "-c", text], cwd=folder, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"has no class" in done.stderr
    assert not (folder / "map.npz").exists()


@pytest.mark.parametrize("readout", READOUTS)
def test_curl_gives_the_pipelines_comparison(folder: Path, app: App, readout: str) -> None:
    bash(compared(readout, app.url)["curl"], folder)
    is_comparison(json.loads((folder / "comparison.json").read_text())[0], folder, expected_pair(app.pipeline, readout))


def test_the_command_line_gives_the_pipelines_comparison(
    folder: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    entry = json.loads(cli(compared("distillation", HOST)["cli"], folder))
    is_comparison(entry, folder, expected_pair(pipeline, "distillation"))


def is_comparison(entry: dict[str, Any], folder: Path, wanted: tuple[Explanation, ...]) -> None:
    for result, item in zip(entry["results"], wanted, strict=True):
        assert item.map is not None
        assert (result["layer"], result["head"], result["readout"]) == (2, 1, item.map.readout)
        assert result["max"] == pytest.approx(item.map.high, rel=1e-5)
        assert result["description"] == item.description
    with Image.open(folder / "comparison.png") as written:
        assert written.width > 600


@pytest.mark.thorough
@pytest.mark.parametrize("image", **by_number([*NAMES, *URLS]))
@pytest.mark.parametrize("call", ["explain", "compare"])
def test_no_name_breaks_out_of_its_quotes(tmp_path: Path, image: str, call: str) -> None:
    file = image not in URLS
    target = image.replace("\udcff", "")
    if file:
        (tmp_path / image).write_bytes(b"pixels")
    options: dict[str, Any] = {"target": target, "resolution": 320}
    texts = (
        reproduce_explain(image, "a/b", ExplainRequest(**options), HOST)
        if call == "explain"
        else reproduce_compare(image, ["a/b", "c"], ExplainRequest(**options), HOST)
    )
    texts = fill(texts, 3, 5, "class")

    def is_it(given: str) -> bool:
        return os.path.normpath(given) == image if file else given == image

    # Python
    statement = ast.parse(texts["python"]).body[1]
    assert isinstance(statement, ast.Assign)
    assert isinstance(statement.value, ast.Call)
    assert is_it(ast.literal_eval(statement.value.args[0]))
    keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in statement.value.keywords}
    assert keywords == {"layer": 3, "head": "5", "readout": "class", **options}

    # Command line
    given = bash("python() { printf '%s\\0' \"$@\"; }\n" + texts["cli"], tmp_path).split(b"\0")[2:-1]
    parsed = build_parser().parse_args([os.fsdecode(argument) for argument in given])
    assert is_it(parsed.image if call == "explain" else parsed.images[0])
    assert (parsed.run.__name__, parsed.model) == (f"run_{call}", ["a/b" if call == "explain" else "a/b,c"])
    assert (parsed.layer, parsed.head, parsed.readout, parsed.target) == ("3", "5", "class", target)

    # curl
    bash(CURL + texts["curl"], tmp_path)
    asked = json.loads((tmp_path / "asked").read_text())
    if file:
        assert (tmp_path / "uploaded").read_bytes() == b"pixels"
        assert asked["image"]["path"] == '/tmp/gradio/a "b".jpg'
        assert asked["image"]["orig_name"] == image.replace("\udcff", "\ufffd")
    else:
        assert asked["image"]["path"] == image
    models: dict[str, Any] = {"model": "a/b"} if call == "explain" else {"models": ["a/b", "c"]}
    del asked["image"]
    assert asked == {**models, **keywords}
    assert "http://h/o.png" in (tmp_path / "fetched").read_text().splitlines()

    made = {path.name for path in tmp_path.iterdir()}
    assert made - {image} <= {"asked", "uploaded", "fetched", "comparison.json"}


def test_only_attention_has_places_for_the_browser_to_fill_in() -> None:
    for make in (
        lambda options: reproduce_explain("cup.jpg", "vit-mini", ExplainRequest(**options), HOST),
        lambda options: reproduce_compare("cup.jpg", ["vit-mini"], ExplainRequest(**options), HOST),
    ):
        maker: Callable[[dict[str, Any]], Texts] = make
        for text in maker({}).values():
            assert [text.count(place) for place in (LAYER, HEAD, READOUT)] == [1, 1, 1]
        for text in maker({"readout": "patch"}).values():
            assert [text.count(place) for place in (LAYER, HEAD, READOUT, POINT)] == [1, 1, 0, 1]
        for text in maker({"method": "rollout", "head": "max", "discard": 0.5, "variant": "vit-explain"}).values():
            assert LAYER[0] not in text
            assert all(word in text for word in ("rollout", "max", "0.5", "vit-explain"))


def test_a_photo_without_a_name_is_called_something() -> None:
    texts = reproduce_explain("", "vit-mini", ExplainRequest(), HOST)
    assert all("photo.jpg" in text for text in texts.values())
