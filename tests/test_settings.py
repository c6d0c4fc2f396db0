"""Settings from the environment."""

from __future__ import annotations

import runpy
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

import vitdemo.settings
from vitdemo.errors import SettingsError
from vitdemo.settings import ASSETS, ROOT, Settings, get_settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert get_settings({}) == Settings()


def test_blank_variables_and_those_of_others_are_ignored() -> None:
    environment = {"VITDEMO_MAX_BATCH": "  ", "VITDEMO_DATA": "", "MAX_BATCH": "3", "VITDEMO_UNKNOWN": "x"}
    assert get_settings(environment) == Settings()


def test_every_setting_can_be_set() -> None:
    environment = {
        "VITDEMO_MAX_IMAGE_MB": "2.5",
        "VITDEMO_MAX_MEGAPIXELS": "1",
        "VITDEMO_MAX_SIDE": "100",
        "VITDEMO_URL_INPUT": "no",
        "VITDEMO_URL_TIMEOUT": "0.5",
        "VITDEMO_URL_ALLOW_HOSTS": "localhost:8000, 10.0.0.1,,",
        "VITDEMO_HOSTS": "vit.example.com,*.example.org",
        "VITDEMO_MODELS": "vit-mini,dino-mini",
        "VITDEMO_BACKEND": "ray",
        "VITDEMO_RAY_ADDRESS": "10.0.0.1:6379",
        "VITDEMO_RAY_REPLICAS": "2",
        "VITDEMO_RAY_MAX_REPLICAS": "4",
        "VITDEMO_RAY_CPUS": "1.5",
        "VITDEMO_RAY_GPUS": "0.5",
        "VITDEMO_RAY_TIMEOUT": "30",
        "VITDEMO_METRICS": "1",
        "VITDEMO_DEVICE": "cpu",
        "VITDEMO_DTYPE": "bf16",
        "VITDEMO_MAX_BATCH": " 3 ",
        "VITDEMO_MEMORY_GB": "1.5",
        "VITDEMO_ADD_MODELS": "listed",
        "VITDEMO_CACHE_MB": "5",
        "VITDEMO_MAX_QUEUE": "7",
        "VITDEMO_MAX_PHOTOS": "12",
        "VITDEMO_MCP": "on",
        "VITDEMO_TRAIN": "0",
        "VITDEMO_TRAIN_MINUTES": "5",
        "VITDEMO_TRAIN_MB": "20",
        "VITDEMO_CHOOSE": "0",
        "VITDEMO_CHOOSE_PHOTOS": "500",
        "VITDEMO_CHOOSE_MINUTES": "7.5",
        "VITDEMO_CHOOSE_MB": "30",
        "VITDEMO_MAX_MODELS": "3",
        "VITDEMO_TEMP_MB": "64",
        "VITDEMO_FEATURES_MB": "9",
        "VITDEMO_DATA": "/data",
    }
    assert {f"VITDEMO_{field.name.upper()}" for field in fields(Settings)} == set(environment)
    assert get_settings(environment) == Settings(
        max_image_mb=2.5,
        max_megapixels=1.0,
        max_side=100,
        url_input=False,
        url_timeout=0.5,
        url_allow_hosts=("localhost:8000", "10.0.0.1"),
        hosts=("vit.example.com", "*.example.org"),
        models=("vit-mini", "dino-mini"),
        backend="ray",
        ray_address="10.0.0.1:6379",
        ray_replicas=2,
        ray_max_replicas=4,
        ray_cpus=1.5,
        ray_gpus=0.5,
        ray_timeout=30.0,
        metrics=True,
        device="cpu",
        dtype="bf16",
        max_batch=3,
        memory_gb=1.5,
        add_models="listed",
        cache_mb=5.0,
        max_queue=7,
        max_photos=12,
        mcp=True,
        train=False,
        train_minutes=5.0,
        train_mb=20.0,
        choose=False,
        choose_photos=500,
        choose_minutes=7.5,
        choose_mb=30.0,
        max_models=3,
        temp_mb=64.0,
        features_mb=9.0,
        data=Path("/data"),
    )


def test_the_environment_of_the_process_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITDEMO_MAX_BATCH", "2")
    assert get_settings().max_batch == 2
    monkeypatch.setenv("VITDEMO_MAX_BATCH", "4")
    assert get_settings().max_batch == 4


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), ("on", True), ("0", False), ("Off", False)])
def test_switches_are_read_in_their_usual_spellings(text: str, value: bool) -> None:
    assert get_settings({"VITDEMO_URL_INPUT": text}).url_input is value


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("VITDEMO_MAX_BATCH", "many", "a number is expected"),
        ("VITDEMO_MAX_BATCH", "1.5", "a number is expected"),
        ("VITDEMO_MAX_BATCH", "0", "above 0"),
        ("VITDEMO_MAX_BATCH", "-1", "above 0"),
        ("VITDEMO_MAX_IMAGE_MB", "nan", "above 0"),
        ("VITDEMO_MAX_IMAGE_MB", "inf", "below 1e9"),
        ("VITDEMO_URL_INPUT", "maybe", "1 or 0 is expected"),
    ],
)
def test_a_value_of_the_wrong_form_is_named_with_its_variable(variable: str, text: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected) as refusal:
        get_settings({variable: text})
    assert f"{variable}={text!r}" in str(refusal.value)


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().max_batch = 1  # type: ignore[misc]


def test_the_assets_are_found_wherever_the_process_was_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert ASSETS.is_absolute()
    assert (ASSETS / "models").is_dir()
    assert (ROOT / "vitdemo" / "settings.py").is_file()


def test_an_installed_package_finds_its_assets_inside_itself_and_knows_no_repository(tmp_path: Path) -> None:
    (tmp_path / "vitdemo" / "assets").mkdir(parents=True)
    copied = tmp_path / "vitdemo" / "settings.py"
    copied.write_bytes(Path(vitdemo.settings.__file__).read_bytes())
    found = runpy.run_path(str(copied))
    assert found["ASSETS"] == tmp_path / "vitdemo" / "assets"
    assert found["ROOT"] is None
