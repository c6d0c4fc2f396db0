"""The benchmark runs and prints every variant. No test looks at durations."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import tiny
from vitdemo.cli import main
from vitdemo.errors import EngineError, OptionError
from vitdemo.evaluation import bench
from vitdemo.models.attention_tap import TAP, record_attention
from vitdemo.models.loading import load_model
from vitdemo.pipeline.prepare import MAX_GRADIENT_TOKENS
from vitdemo.registry import OFFICIAL
from vitdemo.settings import Settings
from vitdemo.types import Capture, ModelSpec

SETTINGS = Settings(device="cpu")
STOCK = "classify / transformers image-classification"

SpecOf = Callable[[str], ModelSpec]
FolderOf = Callable[[str], Path]


def positive(ratio: dict[str, float]) -> bool:
    return 0 < ratio["q1"] <= ratio["median"] <= ratio["q3"]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [*tiny.KINDS, "resnet"])
def test_every_variant_is_timed_relative_to_the_plain_forward_pass(tiny_spec: SpecOf, kind: str) -> None:
    spec = tiny_spec(kind)
    entry = bench.bench(spec, SETTINGS, pairs=1, dtype="auto", batch=2)
    attention = [] if kind == "resnet" else [bench.TAPPED, bench.EAGER]
    assert list(entry["ratios"]) == [*attention, *(name for name in spec.methods if name != "attention")]
    assert bench.compared(entry) == bench.variants_of(spec)[1:] == list(entry["ratios"])
    assert all(positive(ratio) for ratio in entry["ratios"].values())
    assert (entry["batch"], entry["pairs"], entry["device"], entry["dtype"]) == (2, 1, "cpu", "fp32")


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["vit", "dino", "hybrid", "resnet"])
def test_at_batch_1_a_model_is_also_compared_with_transformers_and_bf16(tiny_spec: SpecOf, kind: str) -> None:
    spec = tiny_spec(kind)
    entry = bench.bench(spec, SETTINGS, pairs=1, dtype="fp32")
    # Only what transformers can load, and what has classes.
    assert (STOCK in entry["ratios"]) == (kind in ("vit", "resnet"))
    assert STOCK not in bench.compared(entry)
    found = entry["bf16"]
    assert positive(found["time"])
    assert found["photos"] > 0
    assert (found["same_top1"] is None) == (not spec.labels)
    assert (found["map_rank_correlation"] is None) == (not spec.readouts)


@pytest.mark.thorough
def test_methods_that_keep_all_matrices_are_left_out_where_they_would_not_fit(tiny_spec: SpecOf) -> None:
    entry = bench.bench(tiny_spec("vit"), SETTINGS, pairs=1, dtype="fp32", resolution=270)
    assert entry["input"] == [272, 272]
    assert entry["tokens"] == 34 * 34 + 1 > MAX_GRADIENT_TOKENS
    assert list(entry["ratios"]) == [bench.TAPPED, bench.EAGER, "rollout", "similarity"]
    assert entry["bf16"] is None


@pytest.mark.thorough
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_compared_variants_compute_the_same_features(tiny_spec: SpecOf, kind: str) -> None:
    model = load_model(tiny_spec(kind), torch.device("cpu"), torch.float32)
    pixels = torch.randn(2, 3, *model.spec.image_size)
    with torch.no_grad():
        features = []
        for name in ("sdpa", "eager"):
            with bench.implementation(model, name):
                features.append(model.features(pixels))
        with record_attention(Capture(tokens=(0,))):
            features.append(model.features(pixels))
    assert model.network.base_model.config._attn_implementation == TAP
    for other in features[1:]:
        torch.testing.assert_close(other, features[0], atol=2e-5, rtol=1e-4)


# Commands


@pytest.mark.thorough
def test_json_has_one_entry_per_model(capsys: pytest.CaptureFixture[str], tiny_folder: FolderOf) -> None:
    folders = [str(tiny_folder(kind)) for kind in ("vit", "dino")]
    command = ["bench", "--models", ",".join(folders), "--pairs", "1", "--batch", "2", "--resolution", "64"]
    assert main([*command, "--no-memory", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["model"] for entry in entries] == ["tiny-vit", "tiny-dino"]
    keys = ["model", "device", "dtype", "threads", "pairs", "batch", "input", "tokens", "ratios", "bf16"]
    assert [list(entry) for entry in entries] == [keys, keys]
    assert (entries[0]["input"], entries[0]["tokens"]) == ([64, 64], 65)
    assert all(list(ratio) == ["median", "q1", "q3"] for entry in entries for ratio in entry["ratios"].values())


@pytest.mark.thorough
def test_text_has_one_line_per_comparison(capsys: pytest.CaptureFixture[str], tiny_folder: FolderOf) -> None:
    assert main(["bench", "--model", str(tiny_folder("vit")), "--pairs", "1", "--no-memory"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("tiny-vit  32 x 32 px, 17 tokens, batch 1  (cpu, fp32, ")
    names = [
        bench.TAPPED,
        bench.EAGER,
        "rollout",
        "grad-rollout",
        "relevance",
        "legrad",
        "grad-cam",
        "similarity",
        STOCK,
    ]
    assert [line[2:48].strip() for line in lines[:-1]] == names
    assert all(float(line.split(" time ")[1].split()[0]) > 0 for line in lines[:-1])
    assert lines[-1].startswith("  bf16 over fp32: time ")


@pytest.mark.timeout(400)
@pytest.mark.thorough
def test_memory_is_measured_in_separate_processes(
    capsys: pytest.CaptureFixture[str], tiny_folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    command = ["bench", "--model", str(tiny_folder("resnet")), "--pairs", "1", "--batch", "2", "--device", "cpu"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line[2:48].strip() for line in lines] == [bench.PLAIN, "grad-cam", "similarity"]
    assert all(float(line.split("peak")[1].removesuffix("MB")) >= 0 for line in lines)
    with pytest.raises(EngineError, match=r"memory of 'magic' failed.*Unknown variant"):
        bench.memory_table(command[1:3], ["magic"])


@pytest.mark.thorough
@pytest.mark.parametrize("variant", [bench.PLAIN, bench.EAGER, "relevance"])
def test_a_variant_alone_prints_its_bytes(
    capsys: pytest.CaptureFixture[str], tiny_folder: FolderOf, variant: str
) -> None:
    command = ["bench", "--model", str(tiny_folder("vit")), "--resolution", "200", "--variant", variant]
    assert main(command) == 0
    (found,) = [json.loads(capsys.readouterr().out)]
    assert list(found) == ["bytes"]
    assert isinstance(found["bytes"], int)
    assert found["bytes"] >= 0


def test_random_weights_have_the_shape_of_the_official_encoder(tmp_path: Path) -> None:
    known = OFFICIAL["facebook/dino-vits16"]
    made = bench.random_checkpoint(known.name, tmp_path)
    for field in ("model_type", "num_layers", "num_heads", "patch_size", "image_size", "parameters", "labels"):
        assert getattr(made, field) == getattr(known, field), field
    assert made.readouts == known.readouts


def test_random_weights_are_available_for_the_named_encoders_only(tmp_path: Path) -> None:
    for name in ("google/vit-base-patch16-224", "facebook/dinov2-small", "vit-mini", ""):
        with pytest.raises(OptionError, match=r"Random weights are available for: .*facebook/dino-vits16") as caught:
            bench.random_checkpoint(name, tmp_path)
        assert "google" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "resnet-9000"], "Unknown model"),
        (["--random", "google/vit-base-patch16-224"], "Random weights are available for"),
        (["--model", "vit-mini", "--variant", "magic"], "Unknown variant 'magic'. Choose from: plain forward"),
        (["--model", "vit-mini", "--resolution", "3", "--no-memory"], "at least one patch"),
        (["--pairs", "0"], "not a whole number above 0"),
        (["--batch", "many"], "not a whole number above 0"),
    ],
)
def test_wrong_names_and_numbers_end_with_2(capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    try:
        status = main(["bench", *options])
    except SystemExit as ended:  # argparse ends by itself
        status = ended.code  # type: ignore[assignment]
    assert status == 2
    assert words in capsys.readouterr().err
