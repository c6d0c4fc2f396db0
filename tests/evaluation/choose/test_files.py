"""Results as files: JSON, CSV, labels, a report, and probes as models that others load."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.evaluation.choose.small import COUNTS, chosen, photos, pipeline
from tests.photos import CLASSES, files, in_folder
from vitdemo.errors import InputError, OptionError, TrainingError
from vitdemo.evaluation.choose import (
    Choice,
    choice_csv,
    choice_json,
    labels_csv,
    labels_json,
    opened,
    photos_csv,
    read_labels,
    report_html,
    write_probe,
)
from vitdemo.evaluation.choose.scores import fit_probe
from vitdemo.models.preprocess import preprocess
from vitdemo.registry import PROBE_FILE, add_folder, forget_folder, get_spec
from vitdemo.types import ModelSpec

Spec = Callable[[str], ModelSpec]

AUTO = (
    "vit",
    "dino",
    "deit",
    "beit",
    "beit-class",
    "dinov2",
    "dinov2-head",
    "dinov2-registers",
    "msn",
    "ijepa",
    "resnet",
)
"""Kinds that transformers has a classifier for."""
OURS = ("hybrid", "dinov3", "mae")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its names are hostile to pages and spreadsheets."""
    content = {name.replace("red/", "<b>red & =1+1/"): one for name, one in files(COUNTS).items()}
    return in_folder(tmp_path_factory.mktemp("data") / "photos", {**content, "green/none.txt": b"<script>"})


@pytest.fixture(scope="module")
def choice(data: Path, tmp_path_factory: pytest.TempPathFactory, tiny_spec: Spec) -> Choice:
    found = chosen([tiny_spec(kind) for kind in ("vit", "resnet")], data, tmp_path_factory.mktemp("store"))
    failed = replace(found.candidates[1], model="broken", error="It is damaged.", probe=None, knn=None, ms_batched=None)
    return replace(found, candidates=(*found.candidates, failed), specs=(*found.specs, found.specs[1]))


def test_json_has_everything_and_is_valid(choice: Choice) -> None:
    found = json.loads(json.dumps(choice_json(choice), allow_nan=False))
    assert found["verdict"]["sentence"] == choice.verdict.sentence
    assert [row["model"] for row in found["models"]] == ["tiny-vit", "tiny-resnet", "broken"]
    assert found["models"][0]["probe"]["photos"] == 28
    assert found["models"][2]["error"] == "It is damaged."
    assert found["unlabelled"] is None
    assert found["skipped"] == list(choice.skipped)
    assert len(found["similarity"]["cka"]) == 2
    assert str(choice.request.data[0].parent) not in json.dumps(found), "no path of this machine"


def test_the_csvs_have_a_line_per_model_and_per_photo(choice: Choice) -> None:
    rows = list(csv.DictReader(io.StringIO(choice_csv(choice))))
    assert [row["model"] for row in rows] == ["tiny-vit", "tiny-resnet", "broken"]
    assert choice.candidates[0].probe is not None
    assert float(rows[0]["probe_accuracy"]) == pytest.approx(choice.candidates[0].probe.value, abs=1e-5)
    assert int(rows[0]["memory"]) == choice.candidates[0].memory
    assert rows[2]["probe_accuracy"] == ""
    lines = list(csv.DictReader(io.StringIO(photos_csv(choice))))
    assert len(lines) == 28
    assert lines[0]["tiny-vit"] in choice.classes


def test_labels_come_back_from_both_formats(tmp_path: Path) -> None:
    labels = {"a/b.jpg": "cup", "=c.jpg": "+crab", "d é.jpg": 'it\'s "one"'}
    for name, text in (("labels.csv", labels_csv(labels)), ("labels.json", labels_json(labels))):
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        assert read_labels(tmp_path / name) == labels
    for wrong in ("", "a,b\n1,2\n", "{broken", "[1]"):
        (tmp_path / "wrong").write_text(wrong)
        with pytest.raises(InputError, match="holds no labels"):
            read_labels(tmp_path / "wrong")
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(tmp_path / "gone.csv")


def test_the_report_is_one_file_that_fetches_nothing(choice: Choice) -> None:
    page = report_html(choice)
    assert "<script" not in page
    assert "<b>red" not in page
    assert "&lt;b&gt;red &amp; =1+1" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "It is damaged." in page
    assert choice.verdict.sentence.replace("'", "&#x27;") in page
    assert page.count('<circle class="dot"') == 2
    assert "data:image/jpeg;base64," in page


@pytest.mark.thorough
@pytest.mark.browser
def test_chromium_opens_the_report_with_its_pictures(choice: Choice, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    from tests.browser.driver import FLAGS, chromium

    (tmp_path / "report.html").write_text(report_html(choice), encoding="utf-8")
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
        page.goto((tmp_path / "report.html").as_uri())
        assert page.locator("h1").inner_text() == "Which model for photos?"
        sizes = page.locator("img").evaluate_all("(all) => all.map((one) => one.naturalWidth)")
        assert sizes
        assert all(sizes)
        assert page.locator(".model circle.dot").count() == 2
        assert page.locator(".maps circle").count() == 56
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        browser.close()
    assert complaints == []


def _probed(kind: str, tiny_spec: Spec, folder: Path) -> tuple[Choice, ModelSpec, torch.Tensor]:
    """A choice, the model with its probe, and what the probe says of the first photos."""
    spec = tiny_spec(kind)
    found = chosen([spec], photos(folder / "photos"), folder)
    made = write_probe(found, spec.name, folder / "probe")
    features = found.features[spec.name]
    head = fit_probe(features, found.labels, len(found.classes), found.labels >= 0, 1.0)
    with torch.no_grad():
        expected = head(torch.from_numpy(features[:4]).double()).float()
    return found, made, expected


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [*AUTO, *OURS])
def test_a_probe_is_a_model_that_answers_as_the_probe(kind: str, tiny_spec: Spec, tmp_path: Path) -> None:
    found, made, expected = _probed(kind, tiny_spec, tmp_path)
    assert made.labels == CLASSES
    assert made.license == tiny_spec(kind).license
    taken = [opened(found, photo) for photo in range(4)]
    own = pipeline()
    added = add_folder(str(tmp_path / "probe"))
    try:
        answers = own.classify(taken, get_spec(added.name), top_k=3)
        shown = own.explain(taken[0], added)
    finally:
        forget_folder(added.name)
    scores = torch.softmax(expected, dim=-1)
    for answer, row in zip(answers, scores, strict=True):
        assert answer.labels[0].index == int(row.argmax())
        assert answer.labels[0].score == pytest.approx(float(row.max()), abs=2e-3)
    assert (shown.map is not None) == bool(made.readouts)
    if kind in AUTO:
        assert not (tmp_path / "probe" / PROBE_FILE).exists()
        network: Any = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "probe")
        assert network.config.id2label == dict(enumerate(CLASSES))
        pixels = preprocess(taken, made.processor).pixel_values
        with torch.no_grad():
            logits = network.eval()(pixels.to(network.dtype)).logits.float()
        torch.testing.assert_close(logits, expected, atol=5e-3, rtol=1e-3)


def test_a_probe_is_not_written_over_a_model_nor_without_labels(
    choice: Choice, tiny_spec: Spec, tmp_path: Path
) -> None:
    write_probe(choice, "tiny-vit", tmp_path / "probe")
    assert "scikit-learn's `LogisticRegression(C=1)`" in (tmp_path / "probe" / "README.md").read_text()
    with pytest.raises(OptionError, match="There is a model in probe already"):
        write_probe(choice, "tiny-vit", tmp_path / "probe")
    with pytest.raises(OptionError, match="It is damaged"):
        write_probe(choice, "broken", tmp_path / "other")
    with pytest.raises(OptionError, match="Without labels"):
        write_probe(replace(choice, classes=()), "tiny-vit", tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written to probe"):
        write_probe(choice, "tiny-vit", tmp_path / "file" / "probe")


def test_a_report_without_labels_shows_clusters(tiny_spec: Spec, tmp_path: Path) -> None:
    flat = {name.replace("/", "-"): content for name, content in files(COUNTS).items()}
    found = chosen([tiny_spec("vit"), tiny_spec("resnet")], in_folder(tmp_path / "flat", flat), tmp_path, clusters=3)
    page = report_html(found)
    assert page.count("<h3>Cluster ") == 6
    assert "adjusted Rand index" in page
    answer = choice_json(found)
    assert answer["unlabelled"]["clusters"]["tiny-vit"]["number"] == 3
    assert len(answer["unlabelled"]["clusters"]["tiny-vit"]["assigned"]) == 28
    assert np.shape(answer["unlabelled"]["agreement"]["adjusted_rand"]) == (2, 2)
    lines = list(csv.DictReader(io.StringIO(photos_csv(found))))
    assert {line["tiny-vit"] for line in lines} == {"0", "1", "2"}
