"""The folder that is pushed to a Hugging Face Space, and how it is pushed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from scripts import space
from tests.fakehub import FakeHub
from vitdemo.registry import embedded_models

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "space"
    space.build(folder)
    return folder


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """Its small files, to be spoiled."""
    for name in ("README.md", "requirements.txt", "app.py"):
        shutil.copy(built / name, tmp_path)
    return tmp_path


def test_the_folder_has_what_the_app_needs_and_what_the_readme_links_to(built: Path) -> None:
    names = {path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()}
    assert {"app.py", "README.md", "LICENSE", "requirements.txt", "docs/page.md", "vitdemo/py.typed"} <= names
    assert {f"assets/models/{spec.name}/model.safetensors" for spec in embedded_models()} <= names
    assert "assets/screenshots/compare.png" in names
    assert not [
        name for name in names if name.startswith(("tests/", "scripts/", ".")) or name.endswith((".pyi", ".pyc"))
    ]
    assert "constraints.txt" not in names


def test_the_requirements_leave_to_the_space_what_it_installs(built: Path) -> None:
    lines = (built / "requirements.txt").read_text(encoding="utf-8").splitlines()
    own = [line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if line[:1] not in "#"]
    assert len(lines) == len(own) - 1
    assert not [line for line in lines if line.startswith(("gradio", "spaces", "huggingface"))]
    assert "torch<2.12,>=2.8" in lines


def test_building_again_replaces_an_earlier_build_and_nothing_else(built: Path, tmp_path: Path) -> None:
    (built / "left.txt").write_text("from another time", encoding="utf-8")
    space.build(built)
    assert not (built / "left.txt").exists()
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    for folder in (tmp_path, ROOT):
        with pytest.raises(space.SpaceError, match="something else than an earlier build"):
            space.build(folder)
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("colorFrom: indigo", "colorFrom: mauve", "colorFrom must be one of red"),
        ("sdk: gradio", "sdk: docker", "sdk must be gradio"),
        ("license: apache-2.0\n", "", "license is missing"),
        ("app_file: app.py", "app_file: main.py", "app_file main.py does not exist"),
        ('python_version: "3.12"', "python_version: 3.9", "python_version must be one of 3.10, 3.12"),
        ("sdk_version: 6.31.0", "sdk_version: 5.0.0", "sdk_version must be 6.31.0"),
        ("short_description: See", f"short_description: {'Very ' * 9}See", "the limit is 60"),
        ("license: apache-2.0", "license: apache-2.0\nhardware: zero-a10g", "hardware is ignored"),
        ("  - facebook/dino-vits16\n", "  - nobody/nothing\n", "nobody/nothing, of which vitdemo knows nothing"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_head_that_a_space_would_not_take_is_named(copy: Path, old: str, new: str, said: str) -> None:
    assert not list(space.front_matter_faults(copy))
    readme = copy / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert old in text
    readme.write_text(text.replace(old, new), encoding="utf-8")
    assert any(said in fault for fault in space.front_matter_faults(copy))


def test_a_readme_without_a_head_is_named(copy: Path) -> None:
    (copy / "README.md").write_text("# vitdemo\n", encoding="utf-8")
    with pytest.raises(space.SpaceError, match="no block of YAML"):
        space.front_matter(copy)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("torch<2.12,>=2.8", "torch>=2.8,<3", "no torch 2.12"),
        ("torch<2.12,>=2.8", "torch>=2.10,<2.12", "torch 2.8 to 2.11 must be allowed"),
        ("torch<2.12,>=2.8", "gradio>=6", "gradio is installed by the Space itself"),
    ],
)
def test_requirements_that_do_not_suit_a_space_are_named(copy: Path, old: str, new: str, said: str) -> None:
    assert not list(space.requirement_faults(copy))
    file = copy / "requirements.txt"
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    assert any(said in fault for fault in space.requirement_faults(copy))


def test_files_over_the_limits_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(space.LARGEST + 1)
    assert "large.bin has 10.0 MB" in next(space.size_faults(tmp_path, [path]))
    monkeypatch.setattr(space, "MOST", 10)
    assert any("All files together" in fault for fault in space.size_faults(tmp_path, [path]))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        # The stand-in has no Xet: uploads go by LFS.
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield hub


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project of few files."""
    wanted = ("app.py", "README.md", "LICENSE", "vitdemo/__init__.py", "assets/models/cnn-mini/model.safetensors")
    monkeypatch.setattr(space, "files", lambda: iter([ROOT / name for name in wanted]))


def test_publishing_creates_the_space_and_uploads_the_folder(hub: FakeHub, small: None) -> None:
    address = space.publish("me/vitdemo", hardware="zero-a10g")
    assert address.startswith(f"{hub.endpoint}/spaces/me/vitdemo/commit/")
    (asked,) = hub.created
    assert (asked["type"], asked["sdk"], asked["hardware"]) == ("space", "gradio", "zero-a10g")
    stored = hub.files("me/vitdemo")
    weights = "assets/models/cnn-mini/model.safetensors"
    assert stored[weights] == (ROOT / weights).read_bytes()
    assert stored["app.py"] == (ROOT / "app.py").read_bytes()
    assert b"torch<2.12,>=2.8" in stored["requirements.txt"]


def test_publishing_again_deletes_what_is_no_longer_there(hub: FakeHub, small: None) -> None:
    space.publish("me/vitdemo")
    hub.put("me/vitdemo", "old.py", b"print()")
    space.publish("me/vitdemo")
    assert "old.py" not in hub.files("me/vitdemo")
    assert "app.py" in hub.files("me/vitdemo")


@pytest.mark.parametrize(
    ("token", "repo", "said"),
    [
        ("hf_expired", "me/vitdemo", r"does not know your token, or it has expired.*hf auth login"),
        ("hf_good", "others/vitdemo", "may not write to others/vitdemo"),
        ("hf_good", "no--such//name", "is not the name of a Space"),
    ],
)
def test_what_the_hub_refuses_is_worded(
    hub: FakeHub,
    small: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str,
    repo: str,
    said: str,
) -> None:
    hub.expired.add("hf_expired")
    monkeypatch.setenv("HF_TOKEN", token)
    assert space.main(["publish", repo]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_a_hub_that_cannot_be_reached_is_worded(hub: FakeHub, small: None, capsys: pytest.CaptureFixture[str]) -> None:
    hub.down()
    assert space.main(["publish", "me/vitdemo"]) == 2
    assert "could not be reached" in capsys.readouterr().err
