"""The running app as programs see it."""

from __future__ import annotations

import base64
import itertools
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.fakehub import FakeHub
from tests.hostile import ACCEPTED, REFUSED, Case, encode, photo
from tests.served import App
from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline.segment import segment
from vitdemo.registry import available_models, default_models, get_spec, ready_models
from vitdemo.settings import ROOT, Settings

CUP = ROOT / "assets" / "examples" / "cup.jpg"
NAMES = [spec.name for spec in default_models(Settings())]
READY = [spec.name for spec in ready_models()]


@pytest.fixture(scope="module")
def client(app: App, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(app.url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))
    yield client
    client.close()


def test_only_the_documented_endpoints_are_public(client: Client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/models", "/classify", "/explain", "/compare", "/ablate", "/reconstruct", "/segment"}
    assert all(endpoint["description"] for endpoint in named.values())
    assert [parameter["parameter_name"] for parameter in named["/explain"]["parameters"]][:5] == [
        "image",
        "model",
        "method",
        "layer",
        "head",
    ]
    assert not client.view_api(return_format="dict", print_info=False)["unnamed_endpoints"]


def test_models_gives_what_the_command_line_gives(client: Client) -> None:
    from vitdemo.export.results import model_json

    assert client.predict(api_name="/models") == [model_json(spec) for spec in available_models()]


def test_classify_gives_the_scores_of_the_pipeline(client: Client, app: App) -> None:
    (entry,) = client.predict(handle_file(CUP), NAMES, 3, api_name="/classify")
    assert entry["image"] == "cup.jpg"
    assert [result["model"] for result in entry["results"]] == NAMES
    opened = app.pipeline.open(CUP)
    for result, spec in zip(entry["results"], default_models(Settings()), strict=True):
        expected = app.pipeline.classify([opened], spec, top_k=3)[0].labels
        assert [label["label"] for label in result["labels"]] == [label.label for label in expected]
        np.testing.assert_allclose(
            [label["score"] for label in result["labels"]], [label.score for label in expected], rtol=1e-4
        )


def test_explain_gives_json_overlay_and_arrays(client: Client) -> None:
    entry, overlay, arrays = client.predict(
        handle_file(CUP), model="beit-mini", layer=-2, head="max", target="cup", api_name="/explain"
    )
    assert (entry["image"], entry["layer"], entry["head"], entry["readout"]) == ("cup.jpg", 6, "max", "mean")
    left, top, right, bottom = entry["crop"]
    with Image.open(overlay) as picture:
        assert picture.size == (right - left, bottom - top)
    stored = np.load(arrays)
    assert stored["map"].shape == tuple(entry["grid"])
    assert stored["rows"].shape[2:] == tuple(entry["grid"])
    assert json.loads(str(stored["meta"]))["model"] == "beit-mini"


def test_explain_by_default_explains_the_first_model(client: Client) -> None:
    assert client.predict(handle_file(CUP), api_name="/explain")[0]["model"] == NAMES[0]


def test_compare_gives_every_model_and_a_figure(client: Client) -> None:
    entry, figure = client.predict(handle_file(CUP), api_name="/compare")
    assert [result["model"] for result in entry["results"]] == NAMES
    assert len(entry["agreement"]) == len(NAMES) * (len(NAMES) - 1) // 2
    with Image.open(figure) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "resnet-9000"}, f"Choose from: {', '.join(READY)}; or a model on the Hub"),
        ({"layer": 8}, "layers 0 to 7"),
        ({"head": "6"}, "0 to 5"),
        ({"method": "magic"}, "Choose from: attention, "),
        ({"target": "<b>unicorn</b>"}, "has no class '&lt;b&gt;unicorn"),
    ],
)
def test_wrong_options_are_answered_with_the_choices(client: Client, options: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(CUP), api_name="/explain", **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        *(("/explain", name) for name in ("../..", "someone/flowers", "/etc")),
        *itertools.product(
            ("/classify", "/explain", "/compare", "/ablate", "/reconstruct", "/segment"),
            ("facebook/deit-tiny-patch16-224", "FOLDER"),
        ),
    ],
)
def test_no_name_makes_the_server_download_or_read_a_folder(
    client: Client,
    endpoint: str,
    name: str,
    tiny_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    name = name.replace("FOLDER", str(tiny_folder("mae")))
    named = name if endpoint in ("/explain", "/ablate", "/reconstruct", "/segment") else [name]
    words = "Fetch it in the Models tab" if "facebook" in name else "Unknown model"
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add(name if "someone" in name else "facebook/deit-tiny-patch16-224", tiny_folder("vit"))
        with pytest.raises(AppError) as caught:
            client.predict(handle_file(CUP), named, api_name=endpoint)
    assert words in str(caught.value)
    assert hub.requests == []
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_ablate_gives_json_both_maps_as_a_figure_and_arrays(client: Client) -> None:
    entry, figure, arrays = client.predict(
        handle_file(CUP), model="vit-mini", heads="7:0,7:1", patches="0-3", rank="blocks", top=3, api_name="/ablate"
    )
    assert (entry["image"], entry["model"], entry["knockout"]["fill"]) == ("cup.jpg", "vit-mini", "grey")
    assert entry["knockout"]["heads"] == [[7, 0], [7, 1]]
    assert entry["score"]["change"] == pytest.approx(entry["score"]["after"] - entry["score"]["before"])
    assert len(entry["ranking"]) == 3
    assert np.load(arrays)["after"].shape == (14, 14)
    with Image.open(figure) as picture:
        assert picture.format == "PNG"
    with pytest.raises(AppError, match="Choose from: grey, mean, mae"):
        client.predict(handle_file(CUP), heads="7:0", fill="blue", api_name="/ablate")


def test_reconstruct_gives_json_and_a_figure(client: Client) -> None:
    entry, figure = client.predict(handle_file(CUP), ratio=0.5, seed=3, api_name="/reconstruct")
    assert (entry["image"], entry["model"], entry["patches"], entry["hidden"]) == ("cup.jpg", "mae-mini", 196, 98)
    with Image.open(figure) as picture:
        assert picture.width > 2 * picture.height


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "vit-mini"}, "vit-mini does not reconstruct"),
        ({"model": "facebook/vit-mae-base"}, "facebook/vit-mae-base is not on this machine"),
    ],
)
def test_what_cannot_be_reconstructed_is_said(client: Client, options: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError, match=words):
        client.predict(handle_file(CUP), api_name="/reconstruct", **options)


def test_segment_gives_json_overlay_and_all_files(client: Client, app: App) -> None:
    entry, overlay, zipped = client.predict(handle_file(CUP), refine=True, resolution=224, api_name="/segment")
    spec = get_spec("dino-mini")
    (expected,) = segment(app.pipeline, [app.pipeline.open(CUP)], spec, SegmentRequest(refine=True, resolution=224))
    assert (entry["image"], entry["model"], entry["method"]) == ("cup.jpg", "dino-mini", "foreground")
    assert entry["parameters"] == dict(expected.parameters)
    assert [mask["area"] for mask in entry["masks"]] == list(expected.areas)
    with Image.open(overlay) as picture:
        assert picture.size == (600, 400)
    with zipfile.ZipFile(zipped) as archive:
        assert {"cutout.png", "mask-01.png", "labels.png", "coco.json"} <= set(archive.namelist())
        assert {"image": "cup.jpg", **json.loads(archive.read("segmentation.json"))} == entry
        with Image.open(archive.open("mask-01.png")) as mask:
            assert np.array_equal(np.asarray(mask), expected.masks[0] * 255)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"method": "attention", "head": "all", "threshold": 0.3}, {"head": "all", "threshold": 0.3}),
        ({"method": "attention", "head": "2", "threshold": None}, {"head": 2, "threshold": 0.6}),
        ({"method": "parts", "parts": 3, "within": False, "tau": 0.3}, {"parts": 3, "within": False, "tau": 0.3}),
        ({"method": "pca", "clip": True}, {"clip": True}),
        ({"method": "similarity", "point": "10,20", "matches": 2}, {"point": [10, 20], "matches": 2}),
        ({"resolution": None}, {"resolution": None}),
    ],
)
def test_segment_takes_every_parameter(client: Client, options: dict[str, Any], wanted: dict[str, Any]) -> None:
    given = {"resolution": 96, **options}
    entry, _, _ = client.predict(handle_file(CUP), model="vit-mini", api_name="/segment", **given)
    assert entry["model"] == "vit-mini"
    assert {name: entry["parameters"][name] for name in wanted} == wanted
    assert entry["grid"] == ([14, 14] if given["resolution"] is None else [4, 6])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "magic"}, "Choose from: attention, foreground, parts, pca, similarity"),
        ({"method": "attention", "threshold": 2}, "above 0 and at most 1"),
        ({"objects": 0}, "The number of objects must be 1 to 10"),
        ({"method": "similarity", "point": "9999,1"}, "is not on what dino-mini sees"),
        ({"model": "resnet-9000"}, "Unknown model"),
    ],
)
def test_what_cannot_be_segmented_is_said(client: Client, options: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError, match=words):
        client.predict(handle_file(CUP), api_name="/segment", **options)


def test_a_hostile_name_stays_inside_the_zip(client: Client, tmp_path: Path) -> None:
    name = "..%2f<b>\u202egnp.png"
    photo().save(tmp_path / name)
    _, _, zipped = client.predict(handle_file(tmp_path / name), resolution=96, api_name="/segment")
    with zipfile.ZipFile(zipped) as archive:
        assert not any("/" in inside or ".." in inside for inside in archive.namelist())


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.file)
def test_a_bad_file_is_refused_in_words(client: Client, app: App, case: Case, tmp_path: Path) -> None:
    (tmp_path / case.file).write_bytes(case.data)
    before = app.forwards
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(tmp_path / case.file), api_name="/classify")
    assert (case.refusal or "") in str(caught.value)
    assert "gradio" not in str(caught.value)
    assert app.forwards == before


@pytest.mark.thorough
@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.file)
def test_an_unusual_file_is_classified(client: Client, case: Case, tmp_path: Path) -> None:
    (tmp_path / case.file).write_bytes(case.data)
    entry, _, _ = client.predict(handle_file(tmp_path / case.file), api_name="/explain")
    assert entry["results"][0]["labels"]
    if case.note:
        assert case.note in entry["note"]


def test_no_picture_at_all_is_said(client: Client) -> None:
    with pytest.raises(AppError, match="No picture was given"):
        client.predict(None, api_name="/classify")


def test_a_data_url_is_a_picture_too(client: Client) -> None:
    url = "data:image/png;base64," + base64.b64encode(encode(photo(), "PNG")).decode()
    (entry,) = client.predict({"url": url}, api_name="/classify")
    assert entry["results"][0]["labels"]


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://[::1]/a.png", "http://10.1.2.3/a.png"])
def test_addresses_inside_the_network_are_refused(client: Client, url: str) -> None:
    with pytest.raises(AppError, match="not public"):
        client.predict({"path": url, "meta": {"_type": "gradio.FileData"}}, api_name="/classify")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "image",
    ["{url}", {"url": "{url}"}, {"path": "{url}"}, {"path": "{url}", "meta": {"_type": "gradio.FileData"}}, "{data}"],
    ids=["text", "url", "path", "as described", "data URL"],
)
def test_a_list_of_values_may_end_early_and_take_a_url_in_any_form(app: App, image: Any) -> None:
    data = "data:image/jpeg;base64," + base64.b64encode(CUP.read_bytes()).decode()
    text = json.dumps({"data": [image]}).replace("{url}", f"{app.url}preview.jpg").replace("{data}", data)
    assert _called(app, "classify", json.loads(text))[0][0]["results"][0]["labels"]


@pytest.mark.thorough
@pytest.mark.parametrize("path", [str(CUP), "assets/preview.jpg", "/etc/passwd"])
def test_a_path_without_meta_opens_no_file_of_the_server(app: App, path: str) -> None:
    before = app.forwards
    assert "was not uploaded to this server" in _called(app, "classify", {"data": [{"path": path}]})["error"]
    assert "was not uploaded to this server" in _called(app, "classify", {"data": [path]})["error"]
    assert app.forwards == before


def _called(app: App, name: str, question: Any) -> Any:
    """The answer to what a program sends without a client of Gradio's."""
    event = httpx.post(f"{app.url}gradio_api/call/{name}", json=question).json()["event_id"]
    answer = httpx.get(f"{app.url}gradio_api/call/{name}/{event}", timeout=60).text
    return json.loads(answer.rpartition("data: ")[2])


@pytest.mark.thorough
def test_the_description_of_the_endpoints_tells_of_every_argument_with_examples_that_can_be_used(app: App) -> None:
    for name, endpoint in httpx.get(f"{app.url}gradio_api/info").json()["named_endpoints"].items():
        examples = {each["parameter_name"]: each["example_input"] for each in endpoint["parameters"]}
        for parameter in examples:
            assert re.search(rf"^ +{parameter}: \S", endpoint["description"], re.MULTILINE), (name, parameter)
        if name == "/reconstruct":
            examples["model"] = "mae-mini"
        if "image" in examples:
            examples["image"] = {**examples["image"], "path": f"{app.url}preview.jpg"}
        answer = _called(app, name.strip("/"), {"data": list(examples.values())})
        assert isinstance(answer, list), (name, answer)


def test_files_of_the_server_cannot_be_named(client: Client) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Gradio answers with several kinds
        client.predict({"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, api_name="/classify")
    assert "root:" not in str(caught.value)


def test_a_body_over_the_limit_is_answered_with_413(app: App) -> None:
    for content in (bytes(20_000_000), iter([bytes(1_000_000)] * 20)):
        answer = httpx.post(
            f"{app.url}gradio_api/call/classify", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413
        assert "10 MB" in answer.text


def test_an_upload_over_the_limit_is_refused(app: App) -> None:
    answer = httpx.post(f"{app.url}gradio_api/upload", files={"files": ("large.jpg", bytes(10_500_000))})
    assert answer.status_code == 413


def test_several_photos_in_one_upload_are_each_measured_for_themselves(app: App) -> None:
    files = [("files", (f"{index}.jpg", bytes(9_000_000))) for index in range(3)]
    answer = httpx.post(f"{app.url}gradio_api/upload", files=files)
    assert answer.status_code == 200
    for path in answer.json():
        Path(path).unlink()
    files[1] = ("files", ("large.jpg", bytes(10_500_000)))
    assert httpx.post(f"{app.url}gradio_api/upload", files=files).status_code == 413
