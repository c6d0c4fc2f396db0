"""A masked autoencoder sees what it is told to see, and what it makes up is what transformers' own makes up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from tests import tiny
from vitdemo.engine import LocalBackend
from vitdemo.errors import InvalidScoresError, OptionError
from vitdemo.models.loading import Classifier, load_model, size_options
from vitdemo.models.masking import GREY, grey_out, hidden_patches, to_image
from vitdemo.models.preprocess import preprocess, resize_and_crop
from vitdemo.pipeline import Pipeline
from vitdemo.registry import spec_from_folder
from vitdemo.settings import Settings
from vitdemo.types import ModelOutput, ModelSpec, Photo, Processor, Reconstruct

CPU = torch.device("cpu")
SETTINGS = Settings(device="cpu")
SIDE = 8
"""Of a patch, in pixels."""


def filled_in(
    backend: LocalBackend, spec: ModelSpec, pixels: Tensor, hidden: Tensor, dtype: str = "auto"
) -> tuple[Tensor, ModelOutput]:
    """`[B, 3, H, W]` with the hidden patches filled in, and how the first image ran."""
    outputs = backend.run(spec, pixels, Reconstruct(hidden), dtype)
    return torch.stack([output.filled for output in outputs if output.filled is not None]), outputs[0]


@pytest.fixture(scope="module", params=[True, False], ids=["normalised patches", "plain pixels"])
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A masked autoencoder of each of the two kinds of targets."""
    folder = tmp_path_factory.mktemp("mae") / "tiny-mae"
    return spec_from_folder(tiny.save(folder, "mae", norm_pix_loss=request.param))


@pytest.fixture(scope="module")
def model(spec: ModelSpec) -> Classifier:
    return load_model(spec, CPU, torch.float32)


@pytest.fixture(scope="module")
def plain(spec: ModelSpec) -> Any:
    """transformers' own."""
    return transformers.ViTMAEForPreTraining.from_pretrained(spec.checkpoint).eval()


def _pixels(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def _hidden(ratio: float = 0.75, *seeds: int) -> Tensor:
    return torch.stack([hidden_patches((4, 4), ratio, seed) for seed in seeds or (0, 1)])


def _patch(pictures: Tensor, index: int, row: int, column: int) -> Tensor:
    return pictures[index, :, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]


def test_without_a_mask_the_encoder_is_a_vit_of_the_same_weights(spec: ModelSpec, model: Classifier) -> None:
    vit = transformers.ViTModel.from_pretrained(spec.checkpoint, add_pooling_layer=False).eval()
    for size in ((32, 32), (48, 24)):
        pixels = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = vit(pixels, interpolate_pos_encoding=True).last_hidden_state
            found = model.body(pixels, **size_options(model.network, pixels)).last_hidden_state
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_without_a_mask_every_answer_is_the_same(model: Classifier) -> None:
    with torch.no_grad():
        answers = [model.features(_pixels()) for _ in range(3)]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("ratio", [0.07, 0.25, 0.75, 0.93])
def test_hidden_patches_are_filled_with_what_transformers_makes_of_the_same_mask(
    spec: ModelSpec, model: Classifier, plain: Any, ratio: float
) -> None:
    pixels, hidden = _pixels(), _hidden(ratio)
    plain.config.mask_ratio = int(hidden[0].sum()) / 16
    # Its mask hides the patches with the most noise.
    noise = hidden.flatten(1) + 0.5 * torch.rand(2, 16)
    with torch.no_grad():
        outputs = plain(pixels, noise=noise)
        filled = model.reconstruct(pixels, hidden)
    assert torch.equal(outputs.mask.bool(), hidden.flatten(1))
    for index in range(2):
        for row in range(4):
            for column in range(4):
                true, found = _patch(pixels, index, row, column), _patch(filled, index, row, column)
                if not hidden[index, row, column]:
                    assert torch.equal(found, true), "a visible patch is the input's"
                    continue
                # Row by row, of each pixel its three colours.
                expected = outputs.logits[index, row * 4 + column].view(SIDE, SIDE, 3).permute(2, 0, 1)
                if plain.config.norm_pix_loss:
                    spread = ((true - true.mean()).square().sum() / (3 * SIDE * SIDE - 1) + 1e-6).sqrt()
                    expected = expected * spread + true.mean()
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
                assert not torch.allclose(found, true, atol=1e-2)


def test_what_is_hidden_is_not_seen(spec: ModelSpec, model: Classifier) -> None:
    pixels, hidden = _pixels(), _hidden()
    other = pixels.clone()
    where = hidden.repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)[:, None].expand_as(pixels)
    # In a normalised patch, its mean and its deviation are given back: here they stay as they are.
    other[where] = pixels.flip(1)[where]
    with torch.no_grad():
        first, second = model.reconstruct(pixels, hidden), model.reconstruct(other, hidden)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_pictures_of_a_batch_have_masks_of_their_own(model: Classifier) -> None:
    pixels, hidden = _pixels(), _hidden()
    assert not torch.equal(hidden[0], hidden[1])
    with torch.no_grad():
        together = model.reconstruct(pixels, hidden)
        alone = [model.reconstruct(pixels[index : index + 1], hidden[index : index + 1]) for index in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_in_half_precision_visible_patches_are_still_exactly_the_input(spec: ModelSpec, dtype: str) -> None:
    backend, pixels, hidden = LocalBackend(SETTINGS), _pixels(), _hidden()
    before = pixels.clone()
    filled, output = filled_in(backend, spec, pixels, hidden, dtype)
    exact, _ = filled_in(backend, spec, pixels, hidden, "fp32")
    assert (output.dtype, output.device, output.patch_grid) == (dtype, "cpu", (4, 4))
    assert filled.dtype == torch.float32
    where = hidden.repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)[:, None].expand_as(pixels)
    assert torch.equal(filled[~where], pixels[~where])
    assert torch.equal(pixels, before)
    assert 0 < (filled - exact).abs().max() < 0.2


def test_pixels_that_are_no_numbers_are_refused(spec: ModelSpec) -> None:
    pixels, hidden = _pixels(), _hidden()
    pixels[~hidden.repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)[:, None].expand_as(pixels)] = float("nan")
    with pytest.raises(InvalidScoresError, match=r"tiny-mae gave invalid pixels \(not finite numbers\) in fp32"):
        filled_in(LocalBackend(SETTINGS), spec, pixels, hidden)


def test_threads_at_once_do_not_mix_their_masks(spec: ModelSpec) -> None:
    backend, gate = LocalBackend(SETTINGS), threading.Barrier(12)
    masks = [_hidden(0.25 + 0.125 * (seed % 5), seed) for seed in range(12)]
    alone = [filled_in(backend, spec, _pixels(1, seed), masks[seed])[0] for seed in range(12)]

    def work(seed: int) -> Tensor:
        gate.wait(30)
        filled, _ = filled_in(backend, spec, _pixels(1, seed), masks[seed])
        return filled

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(work, range(12)))
    for filled, expected in zip(found, alone, strict=True):
        torch.testing.assert_close(filled, expected, atol=1e-5, rtol=1e-5)


def test_a_map_beside_reconstructions_sees_every_patch(spec: ModelSpec, photo: Callable[..., Photo]) -> None:
    pipeline = Pipeline(SETTINGS)
    expected = Pipeline(SETTINGS, pipeline.backend).explain(photo(), spec)
    with ThreadPoolExecutor(8) as pool:
        fillings = [pool.submit(pipeline.reconstruct, photo(), spec, seed=seed) for seed in range(12)]
        maps = [pool.submit(Pipeline(SETTINGS, pipeline.backend).explain, photo(), spec) for _ in range(12)]
        for future in fillings:
            future.result(30)
        for found in maps:
            np.testing.assert_allclose(found.result(30).map.values, expected.map.values, atol=1e-6)


@pytest.mark.parametrize(
    ("grid", "ratio", "count"),
    [
        ((4, 4), 0.75, 12),
        ((14, 14), 0.75, 147),
        ((4, 4), 0.0625, 1),
        ((4, 4), 0.04, 1),
        ((4, 4), 0.96, 15),
        ((3, 5), 0.5, 8),
        ((1, 2), 0.5, 1),
    ],
)
def test_the_share_is_rounded_to_whole_patches(grid: tuple[int, int], ratio: float, count: int) -> None:
    hidden = hidden_patches(grid, ratio, 0)
    assert hidden.dtype == torch.bool
    assert hidden.shape == grid
    assert int(hidden.sum()) == count


def test_a_seed_hides_the_same_patches_again_and_another_one_others() -> None:
    torch.manual_seed(1)
    first = hidden_patches((14, 14), 0.75, 3)
    after = torch.rand(1)
    torch.manual_seed(2)
    assert torch.equal(hidden_patches((14, 14), 0.75, 3), first)
    assert not torch.equal(hidden_patches((14, 14), 0.75, 4), first)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after), "the random numbers of others are left alone"


def test_every_patch_is_hidden_as_often_as_any_other() -> None:
    share = torch.stack([hidden_patches((4, 4), 0.75, seed) for seed in range(400)]).float().mean(dim=0)
    assert share.min() > 0.65
    assert share.max() < 0.85


@pytest.mark.parametrize("ratio", [0, 1, 0.0, 1.0, -0.5, 1.5, 0.001, 0.999, float("nan"), float("inf"), -float("inf")])
def test_a_share_that_hides_nothing_or_everything_is_refused_in_words(ratio: float) -> None:
    with pytest.raises(OptionError, match=r"at least one of 16 and leave one: above 0, below 1\."):
        hidden_patches((4, 4), ratio, 0)


@pytest.mark.parametrize(
    ("rescale", "mean", "std"),
    [
        (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        (1 / 127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
    ids=["ImageNet", "halves", "from -1 to 1", "as it is"],
)
def test_pixels_become_the_picture_again_that_they_were_made_of(
    photo: Callable[..., Photo], rescale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    processor = Processor((32, 48), None, 2, rescale, mean, std)
    one = photo(100, 70)
    picture = np.asarray(to_image(preprocess([one], processor).pixel_values[0], processor), dtype=int)
    expected = np.asarray(resize_and_crop(one.image, processor)[0], dtype=int)
    assert picture.shape == (32, 48, 3)
    assert np.abs(picture - expected).max() <= 1
    assert np.ptp(expected) > 100


def test_made_up_colours_beyond_black_and_white_are_cut_off() -> None:
    processor = Processor((1, 2), None, 2, 1 / 255, (0.5,) * 3, (0.5,) * 3)
    picture = to_image(torch.tensor([-7.0, 7.0]).expand(3, 1, 2), processor)
    assert np.asarray(picture)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(("size", "grid"), [((32, 16), (2, 4)), ((24, 24), (3, 3))], ids=str)
def test_grey_lies_on_the_hidden_patches_and_on_nothing_else(size: tuple[int, int], grid: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 100, (size[1], size[0], 3), dtype=np.uint8))
    hidden = hidden_patches(grid, 0.5, 1)
    before = np.asarray(image).copy()
    pixels = np.asarray(grey_out(image, hidden))
    for y in range(size[1]):
        for x in range(size[0]):
            covered = bool(hidden[y // 8, x // 8])
            assert pixels[y, x].tolist() == ([GREY] * 3 if covered else before[y, x].tolist())
    assert np.array_equal(np.asarray(image), before), "the picture itself is left as it was"


def test_a_photo_is_reconstructed_from_end_to_end(
    spec: ModelSpec, model: Classifier, photo: Callable[..., Photo]
) -> None:
    one = photo(96, 64)
    found = Pipeline(SETTINGS).reconstruct(one, spec, ratio=0.5, seed=3)
    hidden = hidden_patches((4, 4), 0.5, 3)
    assert np.array_equal(found.hidden, hidden.numpy())
    assert found.view.crop == (0, 0, 96, 64)
    assert (found.device, found.dtype, found.spec) == ("cpu", "fp32", spec)
    assert found.milliseconds > 0
    batch = preprocess([one], spec.processor)
    with torch.no_grad():
        expected = to_image(model.reconstruct(batch.pixel_values, hidden[None])[0], spec.processor)
    own, seen, filled = (
        np.asarray(resize_and_crop(one.image, spec.processor)[0]),
        np.asarray(found.seen),
        np.asarray(found.filled),
    )
    assert np.abs(filled.astype(int) - np.asarray(expected)).max() <= 1
    covered = hidden.numpy().repeat(SIDE, 0).repeat(SIDE, 1)
    assert np.array_equal(seen[~covered], own[~covered])
    assert np.array_equal(filled[~covered], own[~covered])
    assert (seen[covered] == GREY).all()
    assert not np.array_equal(filled[covered], own[covered])


def test_a_share_out_of_range_is_refused_before_a_model_is_loaded(spec: ModelSpec, photo: Callable[..., Photo]) -> None:
    pipeline = Pipeline(SETTINGS, LocalBackend(SETTINGS, load=lambda *_: pytest.fail("loaded")))
    for ratio in (0, 1, float("nan")):
        with pytest.raises(OptionError, match="share of hidden patches"):
            pipeline.reconstruct(photo(), spec, ratio=ratio)
    with pytest.raises(OptionError, match="Unknown dtype 'int8'"):
        pipeline.reconstruct(photo(), spec, dtype="int8")


@pytest.mark.parametrize("kind", [*(kind for kind in tiny.KINDS if kind != "mae"), "resnet"])
def test_other_models_are_refused_with_one_that_can(
    tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo], kind: str
) -> None:
    with pytest.raises(OptionError, match=rf"tiny-{kind} does not reconstruct\..*mae-mini"):
        Pipeline(SETTINGS).reconstruct(photo(), tiny_spec(kind))
