"""A checkpoint is loaded completely, in the requested dtype, or refused with a message about the fault."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import initialization, modeling_utils

from tests import tiny
from vitdemo.errors import CheckpointError
from vitdemo.models.attention_tap import TAP
from vitdemo.models.loading import load_model, size_options
from vitdemo.registry import PROBE_FILE, ready_models, spec_from_folder
from vitdemo.types import ModelSpec

CPU = torch.device("cpu")
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def folder(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint folder to damage, named "mine"."""
    return Path(shutil.copytree(tiny_folder("vit"), tmp_path / "mine"))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def _write(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _refusal(spec: ModelSpec) -> str:
    """The error message, which names the model and no local folder."""
    with pytest.raises(CheckpointError) as refusal:
        load_model(spec, CPU, torch.float32)
    text = str(refusal.value)
    assert spec.name in text
    assert "/" not in text
    return text


@pytest.mark.thorough
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_loaded_network_is_the_one_that_was_saved(tiny_spec: Callable[[str], ModelSpec], kind: str) -> None:
    spec, saved = tiny_spec(kind), tiny.network(kind)
    model = load_model(spec, CPU, torch.float32)
    pixels = torch.randn(2, 3, *spec.image_size)
    with torch.no_grad():
        # Without noise, transformers' MAE would draw some, and hide patches at random.
        expected = _plain_mae(spec)(pixels) if kind == "mae" else saved(pixels)
        got = model(pixels)
    if kind in tiny.HEADLESS:
        assert got is None
        got, expected = model.body(pixels).last_hidden_state, expected.last_hidden_state
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(got, expected.logits, atol=1e-5, rtol=1e-5)


def _plain_mae(spec: ModelSpec) -> nn.Module:
    """The encoder's weights in a ViT, without masking."""
    return transformers.ViTModel.from_pretrained(spec.checkpoint, add_pooling_layer=False).eval()


@pytest.mark.parametrize("name", [spec.name for spec in ready_models() if spec.source == "embedded"])
def test_an_embedded_model_is_ready_to_run(name: str) -> None:
    spec = next(spec for spec in ready_models() if spec.name == name)
    model = load_model(spec, CPU, torch.float32)
    assert not any(module.training for module in model.modules())
    assert (model.network.base_model.config._attn_implementation == TAP) is bool(spec.readouts)
    assert all(weights.dtype == torch.float32 for weights in model.parameters())
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, *spec.image_size))
    assert (None if logits is None else logits.shape) == ((1, len(spec.labels)) if spec.labels else None)


@pytest.mark.thorough
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("asked", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_have_the_dtype_that_was_asked_for_whatever_the_file_has(
    tmp_path: Path, stored: torch.dtype, asked: torch.dtype
) -> None:
    spec = spec_from_folder(tiny.save(tmp_path / "mine", "deit", stored))
    model = load_model(spec, CPU, asked)
    assert {weights.dtype for weights in model.parameters()} == {asked}
    with torch.no_grad():
        assert model(PIXELS.to(asked)).dtype == asked


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [*(kind for kind in tiny.KINDS if kind != "mae"), "resnet"])
def test_in_half_precision_answers_are_those_of_a_network_that_was_loaded_in_it(
    tiny_spec: Callable[[str], ModelSpec], kind: str, dtype: torch.dtype
) -> None:
    spec = tiny_spec(kind)
    model = load_model(spec, CPU, dtype)
    plain = type(model.network).from_pretrained(spec.checkpoint, dtype=dtype).eval()
    assert torch.get_default_dtype() == torch.float32
    expected, found = (dict(network.named_buffers()) for network in (plain, model.network))
    assert {name: buffer.dtype for name, buffer in found.items()} == {
        name: buffer.dtype for name, buffer in expected.items()
    }
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    pixels = torch.randn(2, 3, *spec.image_size).to(dtype)
    with torch.no_grad():
        torch.testing.assert_close(model.network(pixels)[0], plain(pixels)[0], atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_frequencies_of_rotary_positions_stay_in_float32(
    tiny_spec: Callable[[str], ModelSpec], dtype: torch.dtype
) -> None:
    model = load_model(tiny_spec("dinov3"), CPU, dtype)
    (frequencies,) = (buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq"))
    assert frequencies.dtype == torch.float32
    # A quarter of the head's 8 dimensions, which the file does not hold.
    assert torch.equal(frequencies, 1 / 100 ** torch.tensor([0.0, 0.5]))
    assert {weights.dtype for weights in model.parameters()} == {dtype}


def test_the_default_dtype_is_left_alone(tiny_spec: Callable[[str], ModelSpec]) -> None:
    load_model(tiny_spec("vit"), CPU, torch.float16)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_off_file_is_called_damaged(folder: Path, kept: float) -> None:
    spec = spec_from_folder(folder)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    assert _refusal(spec) == "The checkpoint of mine is damaged."


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"\x00" * len(data),
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        lambda data: b"<html>404</html>" * 100,
        lambda data: b"PK\x03\x04" + data[4:],
        lambda data: (2**40).to_bytes(8, "little") + data[8:],
        lambda data: data[:8] + b"{" + b"\xff" * (len(data) - 9),
        lambda data: data.replace(b'"F32"', b'"F99"'),
        lambda data: data.replace(b'"shape":[', b'"shape":[9,', 1),
    ],
    ids=["zeros", "Git LFS pointer", "web page", "zip", "header of a terabyte", "no JSON", "no such dtype", "shape"],
)
def test_garbage_is_called_damaged(folder: Path, spoil: Callable[[bytes], bytes]) -> None:
    spec = spec_from_folder(folder)
    path = folder / "model.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    assert _refusal(spec) == "The checkpoint of mine is damaged."


def test_a_file_that_has_gone_since_is_missed(folder: Path) -> None:
    spec = spec_from_folder(folder)
    (folder / "model.safetensors").unlink()
    assert _refusal(spec) == "The checkpoint of mine is damaged."
    (folder / "config.json").unlink()
    assert _refusal(spec) == "config.json of mine is missing or damaged."


@pytest.mark.parametrize("changes", [{"hidden_size": "wide"}, {"patch_size": 0}, {"hidden_act": "none such"}])
def test_a_config_that_no_network_can_be_made_of_is_called_damaged(folder: Path, changes: dict[str, Any]) -> None:
    spec = spec_from_folder(folder)
    tiny.edit_json(folder / "config.json", **changes)
    assert _refusal(spec) == "The checkpoint of mine is damaged."


def test_a_pickle_is_not_opened(folder: Path) -> None:
    spec = spec_from_folder(folder)
    torch.save(_weights(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert _refusal(spec) == "The checkpoint of mine is damaged."


def test_a_missing_head_is_refused_and_not_made_up(folder: Path) -> None:
    weights = {name: tensor for name, tensor in _weights(folder).items() if not name.startswith("classifier")}
    _write(folder, weights)
    assert _refusal(spec_from_folder(folder)) == (
        "The checkpoint of mine lacks 2 of its weights, such as classifier.bias."
    )


@pytest.mark.parametrize("part", ["position_embeddings", "layernorm.weight", "cls_token"])
def test_a_single_missing_weight_is_refused_and_named(folder: Path, part: str) -> None:
    weights = _weights(folder)
    gone = sorted(name for name in weights if name.endswith(part))[0]
    del weights[gone]
    _write(folder, weights)
    assert "lacks 1 of its weights, such as " in _refusal(spec_from_folder(folder))


@pytest.mark.parametrize("part", ["classifier.weight", "classifier.bias", "position_embeddings"])
def test_a_weight_of_another_shape_is_refused(folder: Path, part: str) -> None:
    weights = _weights(folder)
    name = next(name for name in weights if name.endswith(part))
    weights[name] = torch.cat([weights[name], weights[name]], dim=-1).contiguous()
    _write(folder, weights)
    _refusal(spec_from_folder(folder))


@pytest.mark.parametrize("architecture", ["LevitForImageClassification", "nn.Module", None])
def test_an_architecture_that_cannot_be_loaded_is_named(folder: Path, architecture: str | None) -> None:
    tiny.edit_json(folder / "config.json", architectures=[architecture] if architecture else None)
    text = _refusal(spec_from_folder(folder))
    assert (architecture or "model without an architecture") in text
    assert "cannot be loaded" in text


def _probed(folder: Path, weights: dict[str, torch.Tensor]) -> ModelSpec:
    save_file(weights, folder / PROBE_FILE)
    return spec_from_folder(folder)


@pytest.fixture
def headless(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder("dino"), tmp_path / "mine"))


def test_a_probe_classifies_the_final_class_token(headless: Path) -> None:
    probe = {"weight": torch.randn(7, 24), "bias": torch.randn(7)}
    spec = _probed(headless, probe)
    assert "linear probe" in spec.note
    model = load_model(spec, CPU, torch.float32)
    with torch.no_grad():
        token = model.network(PIXELS).last_hidden_state[:, 0]
        torch.testing.assert_close(model(PIXELS), nn.functional.linear(token, **probe))


def test_without_a_probe_a_network_without_a_head_gives_no_logits(headless: Path) -> None:
    spec = spec_from_folder(headless)
    assert spec.note == ""
    assert load_model(spec, CPU, torch.float32)(PIXELS) is None


@pytest.mark.parametrize(
    "probe",
    [
        {"weight": torch.zeros(7, 24)},
        {"bias": torch.zeros(7)},
        {"weight": torch.zeros(7, 24), "bias": torch.zeros(6)},
        {"weight": torch.zeros(24), "bias": torch.zeros(7)},
        {"weight": torch.zeros(7, 25), "bias": torch.zeros(7)},
        {"weight": torch.zeros(8, 24), "bias": torch.zeros(8)},
    ],
    ids=["no bias", "no weight", "lengths differ", "one dimension", "of another width", "of other classes"],
)
def test_a_probe_that_does_not_fit_is_refused(headless: Path, probe: dict[str, torch.Tensor]) -> None:
    assert _refusal(_probed(headless, probe)) == "The linear probe of mine is damaged."


def test_a_damaged_probe_is_refused(headless: Path) -> None:
    spec = _probed(headless, {"weight": torch.zeros(7, 24), "bias": torch.zeros(7)})
    path = headless / PROBE_FILE
    path.write_bytes(path.read_bytes()[:-4])
    assert _refusal(spec) == "The linear probe of mine is damaged."
    path.write_bytes(b"")
    assert _refusal(spec) == "The linear probe of mine is damaged."


def test_a_refusal_does_not_stand_in_the_way_of_the_next_load(folder: Path) -> None:
    spec = spec_from_folder(folder)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:100])
    _refusal(spec)
    (folder / "model.safetensors").write_bytes(data)
    assert load_model(spec, CPU, torch.float32)(PIXELS).shape == (2, 7)


def transformers_globals() -> dict[str, Any]:
    """The globals that `from_pretrained` patches: functions of `torch.nn.init` and of the class, and the default dtype."""
    found: dict[str, Any] = {name: getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_")}
    found |= {f"transformers.{name}": getattr(initialization, name) for name in dir(initialization)}
    found |= {
        f"PreTrainedModel.{name}": vars(modeling_utils.PreTrainedModel)[name]
        for name in vars(modeling_utils.PreTrainedModel)
        if callable(vars(modeling_utils.PreTrainedModel)[name])
    }
    found["dtype"] = torch.get_default_dtype()
    found["device"] = torch.get_default_device()
    return found


@pytest.fixture
def running(tiny_spec: Callable[[str], ModelSpec]) -> Iterator[Callable[[], list[bool]]]:
    """Runs a model in another thread until called; the result is whether all outputs were equal."""
    model = load_model(tiny_spec("beit"), CPU, torch.float32)
    end, answers = threading.Event(), []
    with torch.no_grad():
        expected = model(PIXELS)

    def run() -> None:
        with torch.no_grad():
            while not end.is_set() or not answers:
                answers.append(torch.equal(model(PIXELS), expected))

    thread = threading.Thread(target=run)
    thread.start()

    def stop() -> list[bool]:
        end.set()
        thread.join()
        return answers

    yield stop
    stop()


@pytest.mark.thorough
def test_twenty_loads_at_once_leave_transformers_as_it_was_and_every_model_right(
    tiny_spec: Callable[[str], ModelSpec], running: Callable[[], list[bool]]
) -> None:
    kinds = [tiny.KINDS[index % len(tiny.KINDS)] for index in range(20)]
    specs = [tiny_spec(kind) for kind in kinds]
    pixels = [torch.randn(1, 3, *spec.image_size) for spec in specs]
    alone = {kind: load_model(tiny_spec(kind), CPU, torch.float32) for kind in tiny.KINDS}
    before = transformers_globals()
    gate = threading.Barrier(20)

    def load(index: int) -> Any:
        gate.wait()
        dtype = torch.float32 if index % 3 else torch.bfloat16
        model = load_model(specs[index], CPU, dtype)
        with torch.no_grad():
            return model, model.body(pixels[index].to(dtype), **size_options(model.network, pixels[index]))[0]

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(load, range(20)))
    answers = running()
    assert transformers_globals() == before
    assert answers
    assert all(answers), "a forward was harmed by a load beside it"
    for index, (model, output) in enumerate(found):
        assert {weights.dtype for weights in model.parameters()} == {torch.float32 if index % 3 else torch.bfloat16}
        if index % 3:
            with torch.no_grad():
                expected = alone[kinds[index]].body(pixels[index])[0]
            torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.thorough
def test_loading_prints_nothing(tiny_spec: Callable[[str], ModelSpec], capfd: pytest.CaptureFixture[str]) -> None:
    for kind in tiny.KINDS:
        load_model(tiny_spec(kind), CPU, torch.float32)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_no_address_is_looked_up_for_a_folder_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address) or [])
    spec = spec_from_folder(folder)
    load_model(spec, CPU, torch.float32)
    gone = replace(spec, checkpoint="google/vit-base-patch16-224")
    with pytest.raises(CheckpointError, match="missing"):
        load_model(gone, CPU, torch.float32)
    assert asked == []
