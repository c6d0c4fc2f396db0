"""Several photos: how far the models disagree on each, the CSV, and the command line."""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hostile import encode
from tests.hostile import photo as picture
from vitdemo.cli import main
from vitdemo.errors import OptionError
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.batch import COLUMNS, Answer, Row, compare_many, grouped, in_words, ranked, rows_csv, summarise
from vitdemo.settings import ROOT, Settings
from vitdemo.types import Agreement, Comparison, Explanation, Label, ModelSpec, Photo, Prediction, View

CUP, ROCKET = (str(ROOT / "assets" / "examples" / f"{name}.jpg") for name in ("cup", "rocket"))


def comparison(vit: ModelSpec, labels: str, correlations: dict[str, float] | None = None) -> Comparison:
    """A model a letter, which is its best label; a capital is of another vocabulary, "-" has no classifier.

    Args:
        correlations: of pairs of models, by their numbers, such as "01"; None elsewhere.
    """
    explanations, agreement = [], []
    for index, letter in enumerate(labels):
        spec = replace(vit, name=f"model-{index}")
        best = () if letter == "-" else (Label(letter, 0.6, ord(letter)), Label("other", 0.3, 0))
        prediction = Prediction(spec, best, 12.5, "cpu", "fp32")
        explanations.append(Explanation(prediction, None, {}, View((0, 0, 9, 9)), "", (), (1, 1)))
    for one, other in combinations(range(len(labels)), 2):
        a, b = labels[one], labels[other]
        comparable = "-" not in (a, b) and a.isupper() == b.isupper()
        correlation = (correlations or {}).get(f"{one}{other}")
        agreement.append(
            Agreement((f"model-{one}", f"model-{other}"), a == b if comparable else None, correlation, None)
        )
    return Comparison(tuple(explanations), tuple(agreement))


@pytest.mark.parametrize(
    ("labels", "expected", "words"),
    [
        ("aaa", 0, "all models agree"),
        ("aab", 2 / 3, "2 of 3 pairs differ"),
        ("abc", 1, "3 of 3 pairs differ"),
        ("aabb", 4 / 6, "4 of 6 pairs differ"),
        ("aa", 0, "both models agree"),
        ("ab", 1, "the two models differ"),
        ("abA", 1, "the two models differ"),  # what is of another vocabulary is in no pair
        ("aA", None, "no two models share their classes"),
        ("a-", None, "no two models share their classes"),
        ("a", None, "no two models share their classes"),
    ],
)
def test_disagreement_is_the_share_of_comparable_pairs_whose_best_labels_differ(
    vit: ModelSpec, labels: str, expected: float | None, words: str
) -> None:
    row = summarise("x.jpg", comparison(vit, labels))
    assert row.disagreement == expected
    assert in_words(row) == words


def test_the_correlation_of_a_model_is_the_mean_over_the_others_that_have_a_map(vit: ModelSpec) -> None:
    row = summarise("x.jpg", comparison(vit, "aaa", {"01": 0.5, "12": -0.1}))
    assert [answer.rank_correlation for answer in row.answers] == pytest.approx([0.5, 0.2, -0.1])
    assert row.map_disagreement == pytest.approx(1 - 0.2)
    row = summarise("x.jpg", comparison(vit, "aab", {"01": 0.5}))
    assert row.answers[2].rank_correlation is None
    assert summarise("x.jpg", comparison(vit, "ab")).map_disagreement is None


def test_rows_are_ranked_by_labels_then_by_maps_and_what_cannot_be_is_last() -> None:
    rows = [
        Row("failed", error="no"),
        Row("unknown", map_disagreement=0.1),
        Row("agree", pairs=3, differing=0, map_disagreement=0.9),
        Row("flat", pairs=3, differing=1),
        Row("alike", pairs=3, differing=1, map_disagreement=0.2),
        Row("apart", pairs=3, differing=1, map_disagreement=0.3),
        Row("apart too", pairs=6, differing=2, map_disagreement=0.3),
        Row("differ", pairs=3, differing=2, map_disagreement=0.0),
    ]
    names = [rows[index].image for index in ranked(rows)]
    assert names == ["differ", "apart", "apart too", "alike", "flat", "agree", "unknown", "failed"]


def test_labels_are_grouped_by_what_most_models_say(vit: ModelSpec) -> None:
    row = summarise("x.jpg", comparison(vit, "-abb"))
    assert grouped(row) == [("b", ["model-2", "model-3"]), ("a", ["model-1"]), ("", ["model-0"])]


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_csv_reads_back_with_a_line_a_photo_and_model(vit: ModelSpec) -> None:
    rows = [
        summarise('a "b", c\nd.jpg', comparison(vit, "ab-", {"01": -0.25, "02": 0.5})),
        Row("broken.jpg", error="The image is cut off."),
    ]
    lines = parsed(rows_csv(rows))
    assert all(tuple(line) == COLUMNS for line in lines)
    assert [line["image"] for line in lines] == ['a "b", c\nd.jpg'] * 3 + ["broken.jpg"]
    assert [line["model"] for line in lines] == ["model-0", "model-1", "model-2", ""]
    assert [line["label"] for line in lines] == ["a", "b", "", ""]
    assert [line["rank_correlation"] for line in lines] == ["0.125", "-0.25", "0.5", ""]
    first = lines[0]
    assert {name: first[name] for name in COLUMNS[1:3]} == {"disagreement": "1.0", "map_disagreement": "0.875"}
    assert (first["score"], first["second_label"], first["second_score"]) == ("0.6", "other", "0.3")
    assert (first["family"], first["uncovered"], first["ms"]) == (vit.family, "false", "12.5")
    assert (first["device"], first["dtype"], first["error"]) == ("cpu", "fp32", "")
    assert lines[3]["error"] == "The image is cut off."


@pytest.mark.parametrize(
    "name",
    ["=1+1.jpg", "+1.jpg", "-1.jpg", "@SUM(A1).jpg", "\t=1.jpg", "\r=1.jpg", "\n1.jpg", "  =1+1.jpg", "\uff1d1.jpg"],
)
def test_a_name_that_a_spreadsheet_would_compute_is_defused(name: str) -> None:
    answer = Answer(name, name, (Label(name, 0.5, 0),), False, 1.0, "cpu", "fp32", -0.5)
    answered, failed = parsed(rows_csv([Row(name, 1, 0, 0.5, (answer,)), Row(name, error=name)]))
    for cell in (answered["image"], answered["model"], answered["label"], failed["image"], failed["error"]):
        assert cell == f"'{name}"
    # A number is one.
    assert float(answered["rank_correlation"]) == -0.5


@pytest.mark.parametrize("name", ["cup.jpg", "a=b.jpg", "'quoted'.jpg", "", "Übung 1.jpg"])
def test_other_names_are_left_as_they_are(name: str) -> None:
    assert parsed(rows_csv([Row(name, error="no")]))[0]["image"] == name


def test_every_text_is_in_quotes_so_that_no_separator_cuts_it() -> None:
    line = rows_csv([Row("a;=1.jpg", error="no")]).splitlines()[1]
    assert line.startswith('"a;=1.jpg",')


@pytest.fixture
def specs(tiny_spec: Callable[[str], ModelSpec]) -> list[ModelSpec]:
    return [tiny_spec("vit"), tiny_spec("deit")]


def test_one_bad_file_among_good_ones_has_its_error_and_harms_none(
    pipeline: Pipeline, specs: list[ModelSpec], tmp_path: Path
) -> None:
    good, cut = encode(picture(), "PNG"), encode(picture(), "PNG")[:-40]
    (tmp_path / "fine.png").write_bytes(encode(picture(70, 90), "PNG"))
    files: list[Any] = [("one", good), ("cut", cut), ("none", tmp_path / "absent.png"), ("two", tmp_path / "fine.png")]
    found = list(compare_many(pipeline, files, specs))
    assert [item.row.image for item in found] == ["one", "cut", "none", "two"]
    assert "cut off" in found[1].row.error
    assert 'no file "absent.png"' in found[2].row.error
    assert [item.row.answers for item in found[1:3]] == [(), ()]
    for item, source in ((found[0], good), (found[3], tmp_path / "fine.png")):
        alone = pipeline.compare(pipeline.open(source), specs)
        row = summarise(item.row.image, alone)
        assert [answer.labels for answer in item.row.answers] == [answer.labels for answer in row.answers]
        assert item.row.map_disagreement == pytest.approx(row.map_disagreement)


def test_a_fault_of_ours_is_worded_too_and_the_next_photo_is_done(
    specs: list[ModelSpec], photo: Callable[..., Photo], caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Pipeline):
        def compare_each(self, photos: Sequence[Photo], *arguments: Any, **options: Any) -> list[Comparison]:
            if any(photo.size == (50, 50) for photo in photos):
                raise RuntimeError("/secret/path")
            return super().compare_each(photos, *arguments, **options)

    faulty = Faulty(Settings(device="cpu"))
    found = list(compare_many(faulty, [("bad", photo(50, 50)), ("good", photo(60, 50))], specs))
    assert "went wrong" in found[0].row.error
    assert "secret" not in found[0].row.error
    assert "secret" in caplog.text
    assert found[1].row.answers


def test_photos_are_opened_one_by_one(pipeline: Pipeline, specs: list[ModelSpec], photo: Callable[..., Photo]) -> None:
    taken = []

    def photos() -> Any:
        for seed in range(3):
            taken.append(seed)
            yield str(seed), photo(seed=seed)

    found = compare_many(pipeline, photos(), specs)
    next(found)
    assert taken == [0]
    next(found)
    assert taken == [0, 1]


def test_a_row_is_small(pipeline: Pipeline, specs: list[ModelSpec], photo: Callable[..., Photo]) -> None:
    (item,) = compare_many(pipeline, [("large.jpg", photo(900, 600))], specs)
    assert len(pickle.dumps(item.row)) < 2000


def test_without_a_model_it_says_so(pipeline: Pipeline) -> None:
    with pytest.raises(OptionError, match="at least one model"):
        next(compare_many(pipeline, [], []))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["compare", *arguments, "--models", "vit-mini,deit-mini", "--device", "cpu"])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_compare_of_several_pictures_is_a_list_in_their_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken, table = tmp_path / "broken.jpg", tmp_path / "table.csv"
    broken.write_bytes(b"no picture")
    status, out, _ = run(capsys, CUP, str(broken), ROCKET, "--json", "--csv", str(table))
    assert status == 1
    entries = json.loads(out)
    assert [entry["image"] for entry in entries] == [CUP, str(broken), ROCKET]
    assert [set(entry) for entry in entries] == [
        {"image", "results", "agreement"},
        {"image", "error"},
        {"image", "results", "agreement"},
    ]
    lines = parsed(table.read_text(encoding="utf-8"))
    assert [(line["image"], line["model"]) for line in lines] == [
        (CUP, "vit-mini"),
        (CUP, "deit-mini"),
        (str(broken), ""),
        (ROCKET, "vit-mini"),
        (ROCKET, "deit-mini"),
    ]
    for line, result in zip(lines[3:], entries[2]["results"], strict=True):
        best = result["results"][0]["labels"][0]
        assert line["label"] == best["label"]
        assert float(line["score"]) == pytest.approx(best["score"], abs=1e-5)
    differ = entries[0]["agreement"][0]["prediction"] == "different labels"
    assert float(lines[0]["disagreement"]) == float(differ)


def test_compare_of_one_picture_is_an_object_as_ever(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    status, out, err = run(capsys, CUP, "--json", "--csv", str(table))
    assert (status, err) == (0, "")
    assert set(json.loads(out)) == {"image", "results", "agreement"}
    assert len(parsed(table.read_text(encoding="utf-8"))) == 2
    status, out, err = run(capsys, str(tmp_path / "absent.jpg"), "--json")
    assert status == 1
    assert set(json.loads(out)) == {"image", "error"}
    assert "absent.jpg" in err


@pytest.mark.thorough
def test_compare_in_words_ends_with_the_pictures_most_disagreement_first(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, CUP, ROCKET)
    assert status == 0
    assert out.index("Most disagreement first") < out.rindex(CUP)
    last = [line.split("  ")[-1].partition(":")[0] for line in out.splitlines()[-2:]]
    pipeline = Pipeline(Settings(device="cpu"))
    from vitdemo.registry import get_spec

    chosen = [get_spec("vit-mini"), get_spec("deit-mini")]
    rows = [item.row for item in compare_many(pipeline, [(CUP, CUP), (ROCKET, ROCKET)], chosen)]
    assert last == [rows[index].image for index in ranked(rows)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([CUP, ROCKET, "--out", "figure.png"], "--out draws one picture"),
        ([CUP, ROCKET, "--layer", "99"], "layer"),
        ([CUP, "--layer", "99"], "layer"),
        ([CUP, "--csv", "/nowhere/table.csv"], "cannot be written"),
    ],
)
def test_wrong_usage_of_compare_is_said_and_ends_with_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    status, out, err = run(capsys, *arguments, "--json")
    assert status == 2
    assert words in err.splitlines()[-1]
    assert not out
    assert not Path("figure.png").exists()


def test_an_option_that_suits_one_picture_only_fails_for_the_other(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = tmp_path / "small.png"
    small.write_bytes(encode(picture(40, 40), "PNG"))
    status, out, _ = run(capsys, str(small), CUP, "--method", "similarity", "--point", "300,200", "--json")
    assert status == 1
    assert ["error" in entry for entry in json.loads(out)] == [True, False]


def test_thumbnails_keep_their_shape_and_are_small() -> None:
    from base64 import b64decode

    from PIL import Image

    from vitdemo.ui.components.gallery import SIDE, card

    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    for image, size in ((Image.fromarray(noise), (SIDE, SIDE * 3 // 4)), (picture(1, 5000), (1, SIDE))):
        data = b64decode(card(Row("x", answers=()), image)["src"].partition(",")[2])
        assert Image.open(io.BytesIO(data)).size == size
        assert len(data) < 60_000
