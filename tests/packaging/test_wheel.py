"""The wheel: what is in it, what it asks for, and that it works where there is no repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vitdemo import __version__

if TYPE_CHECKING:
    from hatchling.builders.wheel import WheelBuilder

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def builder() -> WheelBuilder:
    """What would be built: to compress the weights takes many times as long."""
    return pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(REPOSITORY))


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(REPOSITORY).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyi"
    }


def test_the_wheel_holds_the_package_with_models_examples_and_the_page_and_nothing_else(builder: WheelBuilder) -> None:
    found = {Path(file.distribution_path).as_posix() for file in builder.recurse_included_files()}
    assets = _files(REPOSITORY / "assets") - _files(REPOSITORY / "assets" / "screenshots")
    assert found == _files(REPOSITORY / "vitdemo") | {f"vitdemo/{name}" for name in assets}
    assert {"vitdemo/py.typed", "vitdemo/assets/models/vit-mini/model.safetensors"} <= found


def test_the_wheel_has_the_version_of_the_code(builder: WheelBuilder) -> None:
    assert builder.metadata.version == __version__


def test_the_wheel_asks_for_what_a_space_is_given() -> None:
    assert {_normal(line) for line in _project()["dependencies"]} == _listed("requirements.txt")


@pytest.mark.parametrize("extra", ["train", "scale", "dev"])
def test_an_extra_asks_for_what_its_list_has(extra: str) -> None:
    extras = _project()["optional-dependencies"]
    own = {_normal(line) for line in extras[extra] if not line.startswith("vitdemo[")}
    assert own == _listed(f"requirements-{extra}.txt")


def test_each_package_that_is_asked_for_has_an_exact_version() -> None:
    pinned = {_name(line) for line in _listed("constraints.txt") if "==" in line}
    for name in ("requirements.txt", "requirements-train.txt", "requirements-scale.txt", "requirements-dev.txt"):
        assert {_name(line) for line in _listed(name)} <= pinned


def _project() -> dict[str, Any]:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    return project


def _listed(name: str) -> set[str]:
    """The requirements of a list itself, without those of the lists that it includes."""
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    return {_normal(line) for line in lines if line and not line.startswith(("#", "-r"))}


def _normal(requirement: str) -> str:
    """With the parts of the range in one order.

    >>> _normal("hf_xet<2, >=1")
    'hf-xet<2,>=1'
    """
    name = _name(requirement)
    rest = requirement.replace(" ", "")[len(name) :]
    return name + ",".join(sorted(rest.split(",")))


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


OFFLINE_APP = """
import os, signal, threading, urllib.request
from pathlib import Path
import gradio as gr, vitdemo
from gradio_client import Client, handle_file
from vitdemo.cli import main
from vitdemo.settings import ASSETS, ROOT

# Where the tests run in the background, their children are born deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
assert ROOT is None
assert ASSETS == Path(vitdemo.__file__).parent / "assets"
launch, url = gr.Blocks.launch, []

def launched(page, **options):
    # As the command starts it; the test then asks it, and ends it.
    url.append(launch(page, **options)[1])
    threading.Thread(target=ask, daemon=True).start()

def ask():
    try:
        for path in ("", "config", f"gradio_api/file={ASSETS / 'examples' / 'cup.jpg'}"):
            assert urllib.request.urlopen(url[0] + path).status == 200
        entry = Client(url[0], verbose=False).predict(handle_file("photo.jpg"), models=["vit-mini"], api_name="/classify")
        print("SEEN", entry, flush=True)
    finally:
        os.kill(os.getpid(), 2)

gr.Blocks.launch = launched
raise SystemExit(main(["app"]))
"""


@pytest.mark.thorough
@pytest.mark.timeout(400)
def test_an_installed_wheel_works_from_any_folder(tmp_path: Path) -> None:
    """In an environment of its own, which borrows the packages that vitdemo needs from this one."""
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True)
    (wheel,) = tmp_path.glob(f"vitdemo-{__version__}-*.whl")
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True)
    site = next(home.rglob("site-packages"))
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    before = {path.relative_to(site) for path in site.rglob("*")}

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes((REPOSITORY / "assets" / "examples" / "cup.jpg").read_bytes())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"GRADIO_TEMP_DIR": str(tmp_path / "gradio"), "GRADIO_SERVER_NAME": "127.0.0.1"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "GRADIO_ANALYTICS_ENABLED": "0"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
        )

    vitdemo = str(python.with_name("vitdemo"))
    shown = run(vitdemo, "models")
    assert "vit-mini" in shown.stdout, shown.stderr
    shown = run(vitdemo, "explain", "photo.jpg", "--model", "dino-mini", "--out", "map.png")
    assert shown.returncode == 0, shown.stderr
    assert (folder / "map.png").is_file()
    refused = run(vitdemo, "evaluate", str(folder), "--model", "vit-mini", "--card")
    assert refused.returncode == 2
    assert "part of the installed package" in refused.stderr
    served = run(str(python), "-c", OFFLINE_APP)
    assert served.returncode == 0, served.stderr
    assert "SEEN" in served.stdout
    assert "vit-mini" in served.stdout
    # Gradio writes stubs beside its subclasses.
    assert {path.relative_to(site) for path in site.rglob("*") if path.suffix != ".pyi"} <= before
