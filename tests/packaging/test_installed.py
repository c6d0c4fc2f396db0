"""What an installed package does otherwise than a checkout: it has no repository, and is not written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitdemo.cli import common as cli
from vitdemo.cli import main
from vitdemo.evaluation import model_card
from vitdemo.images.open import open_image
from vitdemo.registry import get_spec
from vitdemo.settings import ASSETS, Settings
from vitdemo.ui import links

CUP = ASSETS / "examples" / "cup.jpg"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cli, links, model_card):
        monkeypatch.setattr(module, "ROOT", None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "photos.tar", "--model", "vit-mini", "--card"),
        ("evaluate", "photos.tar", "--model", "vit-mini", "--calibrate"),
        ("evaluate", "photos.tar", "--card"),
        ("probe", "photos.tar", "--model", "dino-mini", "--save"),
    ],
    ids=" ".join,
)
def test_embedded_models_are_not_written_to(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (ASSETS / "models").rglob("*")}
    assert main(arguments) == 2
    assert "part of the installed package" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (ASSETS / "models").rglob("*")} == before


def test_a_model_in_a_folder_may_be_written_to(tiny_spec) -> None:  # type: ignore[no-untyped-def]
    spec = tiny_spec("vit")
    assert cli.writable(spec) == spec


def test_in_a_checkout_embedded_models_may_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "ROOT", Path())
    assert cli.writable(get_spec("vit-mini")).name == "vit-mini"


def test_there_is_no_readme_to_write_the_table_into() -> None:
    model_card.write_models_table()


def test_an_example_is_called_by_the_path_that_a_command_on_this_machine_finds() -> None:
    typed = links.typed(open_image(CUP, Settings()), {})
    assert Path(typed) == CUP
    assert Path(typed).is_absolute()
