"""Maps depend on what a model learnt: with random weights they are others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vitdemo.cli import main
from vitdemo.evaluation.randomization import _randomised, randomisation
from vitdemo.models.loading import load_model
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import ModelSpec, Photo

SETTINGS = Settings(device="cpu")
CPU = torch.device("cpu")
EXAMPLES = [str(path) for path in sorted((ASSETS / "examples").glob("*.jpg"))[:3]]

SpecOf = Callable[[str], ModelSpec]
PhotoMaker = Callable[..., Photo]


@pytest.mark.thorough
def test_maps_of_a_trained_model_are_lost_with_its_weights_and_it_keeps_its_own() -> None:
    spec, own = get_spec("vit-mini"), Pipeline(SETTINGS)
    photos = [own.open(path) for path in EXAMPLES]
    weights = Path(spec.checkpoint) / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).digest()
    found = randomisation(spec, photos, ["attention", "relevance"], SETTINGS)
    for method, values in found.items():
        assert len(values) == 4
        known = [value for value in values if value is not None]
        assert len(known) == 4, method
        # 1 is the trained model's own map.
        assert max(known) < 0.98, method
        assert abs(known[-1]) < 0.5, method
    assert hashlib.sha256(weights.read_bytes()).digest() == digest
    assert randomisation(spec, photos[:1], ["attention"], SETTINGS) == randomisation(
        spec, photos[:1], ["attention"], SETTINGS
    )


@pytest.mark.parametrize(("kind", "parts"), [("vit", 3), ("dinov3", 3), ("hybrid", 3), ("resnet", 2)])
def test_the_last_blocks_lose_their_weights_first_and_in_the_end_all_do(
    tiny_spec: SpecOf, kind: str, parts: int
) -> None:
    spec = tiny_spec(kind)
    trained = load_model(spec, CPU, torch.float32).state_dict()
    before = torch.get_rng_state()
    changed = []
    for share in (0.25, 1.0):
        random = _randomised(share, seed=0)(spec, CPU, torch.float32)
        learnt = {name for name, _ in random.named_parameters()}
        state = random.state_dict()
        assert all(torch.isfinite(weights).all() for weights in state.values())
        changed.append({name for name in learnt if not torch.equal(state[name], trained[name])})
        assert all(torch.equal(state[name], trained[name]) for name in set(trained) - learnt)
    last = [name for name in learnt if f".{parts - 1}." in name.split("encoder")[-1] and "bit" not in name]
    assert changed[0]
    assert changed[0] <= set(last)
    assert changed[0] < changed[1]
    # What is the same everywhere, such as a bias of zeros, stays what it was.
    assert all(trained[name].numel() == 1 or trained[name].std() == 0 for name in learnt - changed[1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["vit", "dino", "beit", "resnet"])
def test_every_method_that_applies_is_compared_on_every_quarter(
    tiny_spec: SpecOf, photo: PhotoMaker, kind: str
) -> None:
    spec = tiny_spec(kind)
    found = randomisation(spec, [photo(), photo(60, 60)], spec.methods, SETTINGS)
    assert list(found) == list(spec.methods)
    for values in found.values():
        assert len(values) == 4
        assert all(value is None or -1 <= value < 0.999 for value in values)


def test_another_seed_is_another_random_model(tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    first, other = (randomisation(tiny_spec("vit"), [photo()], ["rollout"], SETTINGS, seed) for seed in (0, 1))
    assert first != other


@pytest.mark.thorough
def test_json_and_text_have_a_number_for_each_quarter(
    capsys: pytest.CaptureFixture[str], tiny_folder: Callable[[str], Path]
) -> None:
    command = ["sanity", *EXAMPLES[:2], "--model", str(tiny_folder("vit")), "--device", "cpu"]
    assert main([*command, "--method", "attention,relevance", "--method", "grad-cam", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["model"], entry["photos"]) == ("tiny-vit", 2)
    assert list(entry["rank_correlation"]) == ["attention", "relevance", "grad-cam"]
    assert all(len(values) == 4 for values in entry["rank_correlation"].values())
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["method", "1/4", "2/4", "3/4", "all"]
    assert [line.split()[0] for line in lines[2:]] == [name for name in METHODS if name != "similarity"]
    assert all(len(line.split()) == 5 for line in lines[2:])


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("vit", ["--method", "magic"], "Unknown method 'magic'"),
        ("dino", ["--method", "relevance"], "none of these methods"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Callable[[str], Path],
    kind: str,
    options: list[str],
    words: str,
) -> None:
    assert main(["sanity", EXAMPLES[0], "--model", str(tiny_folder(kind)), *options]) == 2
    assert words in capsys.readouterr().err


def test_a_photo_that_cannot_be_read_is_named(
    capsys: pytest.CaptureFixture[str], tiny_folder: Callable[[str], Path]
) -> None:
    assert main(["sanity", EXAMPLES[0], "no-such.jpg", "--model", str(tiny_folder("vit"))]) == 1
    captured = capsys.readouterr()
    assert "no-such.jpg" in captured.err
    assert captured.out == ""
