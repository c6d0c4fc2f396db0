"""A choice as one HTML file: pictures inside, nothing fetched, no script."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from vitdemo.evaluation.choose.drawing import photo_map, scatter
from vitdemo.evaluation.choose.see import (
    cluster_agreement,
    clusters,
    confusions,
    coordinates,
    disagreements,
    near_duplicates,
    outliers,
    similarity,
)
from vitdemo.evaluation.choose.types import Accuracy, Candidate, Choice, Floats
from vitdemo.settings import VERSION

CONFUSIONS, PICTURES, DIFFERING, PAIRS = 8, 6, 12, 12
"""Pairs of classes, photos of each, photos on which models differ, and near duplicates that are shown."""

_STYLE = Path(__file__).with_name("report.css")


def report_html(choice: Choice) -> str:
    """A self-contained page: verdict, table, scatter, confusions with their photos, photos on which models differ, maps.

    It needs no network and runs no script; names of files, classes and models are escaped.
    """
    data = ", ".join(path.name for path in choice.request.data)
    parts = [
        f"<h1>Which model for {escape(data)}?</h1>",
        f'<p class="verdict">{escape(choice.verdict.sentence)}</p>',
        f'<p class="soft">{escape(choice.verdict.rests_on)}</p>',
        *(f'<p class="soft">{escape(note)}</p>' for note in choice.notes),
        _table(choice),
    ]
    if drawn := scatter(choice.candidates):
        parts.append(
            f'<h2>Accuracy against time</h2><figure><div class="wide">{drawn}</div><figcaption>Circles: area is the number of '
            "parameters. Vertical lines: 95% intervals. Dashed: the Pareto front, of models that no other beats in both."
            "</figcaption></figure>"
        )
    parts += [
        *_localization(choice),
        *_confusions(choice),
        *_differing(choice),
        *_unlabelled(choice),
        *_maps(choice),
        *_skipped(choice),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>Which model for {escape(data)}?</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head><body>\n"
        + "\n".join(parts)
        + f'\n<p class="soft">vitdemo {VERSION}, {choice.seconds:.0f} s.</p></body></html>\n'
    )


def _table(choice: Choice) -> str:
    heads = (
        "linear probe",
        f"{choice.request.k}-NN",
        "own classifier",
        "ECE",
        "ms alone",
        "ms in a batch",
        "memory",
        "parameters",
        "file",
    )
    rows = "".join(_row(one, choice) for one in choice.candidates)
    cells = "".join(f"<th>{escape(head)}</th>" for head in heads)
    return (
        f'<div class="wide"><table><thead><tr><th>model</th>{cells}<th class="text">licence</th>'
        '<th class="text"></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(row: Candidate, choice: Choice) -> str:
    own = _accuracy(row.own) + (f" of {row.own_classes} classes" if row.own else "")
    cells = (
        _accuracy(row.probe),
        _accuracy(row.knn),
        own,
        "" if row.ece is None else f"{row.ece:.3f}",
        "" if row.ms_alone is None else f"{row.ms_alone:.1f}",
        "" if row.ms_batched is None else f"{row.ms_batched:.1f}",
        "" if row.memory is None else f"{row.memory / 1e6:.0f} MB",
        f"{row.parameters / 1e6:.1f} M",
        f"{row.bytes / 1e6:.1f} MB",
    )
    marks = [
        word
        for word, applies in (
            ("recommended", row.model == choice.verdict.recommended),
            ("most accurate", row.model == choice.verdict.best),
            ("Pareto front", row.pareto),
        )
        if applies
    ]
    words = f'<span class="wrong">{escape(row.error)}</span>' if row.error else escape("; ".join(marks))
    kind = ' class="recommended"' if row.model == choice.verdict.recommended else ""
    return (
        f"<tr{kind}><td>{escape(row.model)}</td>{''.join(f'<td>{escape(one)}</td>' for one in cells)}"
        f'<td class="text">{escape(row.license)}</td><td class="text">{words}</td></tr>'
    )


def _accuracy(found: Accuracy | None) -> str:
    return "" if found is None else f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"


def _localization(choice: Choice) -> list[str]:
    found = [(one.model, one.localization) for one in choice.candidates if one.localization is not None]
    if not found:
        return []
    rows = "".join(
        f"<tr><td>{escape(model)}</td><td>{place.energy:.1%}</td><td>{place.iou:.3f}</td><td>{place.distance:.3f}</td><td>{place.area:.1%}</td>"
        f'<td>{place.photos}</td><td class="text">{escape(place.method)}</td><td class="text">'
        + escape("; ".join(f"layer {layer + 1}, head {head + 1}: {iou:.3f}" for layer, head, _, iou in place.best()))
        + "</td></tr>"
        for model, place in found
    )
    return [
        '<h2>Maps on the objects</h2><div class="wide"><table><thead><tr><th>model</th><th>energy inside</th>'
        "<th>IoU of top patches</th><th>earth mover's distance / diagonal</th><th>area inside</th><th>photos</th>"
        '<th class="text">map</th><th class="text">best heads (IoU)</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    ]


def _confusions(choice: Choice) -> list[str]:
    parts = []
    shown = dict.fromkeys(name for name in (choice.verdict.recommended, choice.verdict.best) if name)
    for model in shown:
        found = confusions(choice, model, CONFUSIONS)
        if found:
            parts.append(f"<h2>Confusions of {escape(model)}</h2>")
        pairs = [
            f"<div><h3>{escape(one.truth)} taken for {escape(one.answer)}: {len(one.photos)}</h3>"
            + _pictures(choice, [(photo, "") for photo in one.photos[:PICTURES]])
            + "</div>"
            for one in found
        ]
        parts.append(f'<div class="pairs">{"".join(pairs)}</div>')
    return parts


def _differing(choice: Choice) -> list[str]:
    if len(choice.features) < 2:
        return []
    found = [
        (one.photo, ", ".join(f"{model}: {answer}" for model, answer in one.answers.items()) or f"{one.score:.0%}")
        for one in disagreements(choice, number=DIFFERING)
    ]
    names, cka = similarity(choice)
    parts = [f"<h2>Where the models differ most</h2>{_pictures(choice, found)}"] if found else []
    parts.append("<h2>How alike their features are (linear CKA)</h2>" + _matrix(names, cka))
    return parts


def _unlabelled(choice: Choice) -> list[str]:
    if choice.labelled or len(choice.photos) <= 2 or not choice.features:
        return []
    parts = []
    for model in choice.features:
        made = clusters(choice, model)
        parts.append(
            f"<h2>Clusters by {escape(model)}</h2>"
            f'<p class="soft">k-means on features of unit length; mean silhouette {made.silhouette:.2f}.</p>'
        )
        sizes = [int((made.assigned == one).sum()) for one in range(made.number)]
        parts += [
            f"<h3>Cluster {number}: {size} photos</h3>" + _pictures(choice, [(photo, "") for photo in central])
            for number, (size, central) in enumerate(zip(sizes, made.central, strict=True))
        ]
    if len(choice.features) > 1:
        parts.append("<h2>How far the clusters agree (adjusted Rand index)</h2>" + _matrix(*cluster_agreement(choice)))
    first = next(iter(choice.features))
    pairs = near_duplicates(choice, first)[:PAIRS]
    if pairs:
        parts.append(f"<h2>Near duplicates by {escape(first)} (cosine)</h2>")
        parts += [_pictures(choice, [(one, f"{cosine:.3f}"), (other, "")]) for one, other, cosine in pairs]
    parts.append(
        f"<h2>Outliers by {escape(first)} (distance to the fifth nearest photo)</h2>"
        + _pictures(choice, [(photo, f"{distance:.3f}") for photo, distance in outliers(choice, first)])
    )
    return parts


def _maps(choice: Choice) -> list[str]:
    figures = []
    for model in choice.features:
        if choice.labelled:
            groups, names = choice.labels, choice.classes
        elif len(choice.photos) > 2:
            made = clusters(choice, model)
            groups, names = made.assigned, tuple(f"cluster {one}" for one in range(made.number))
        else:
            continue
        drawn = photo_map(choice, coordinates(choice, model), groups, names, f"Photos by the features of {model}")
        figures.append(f"<figure>{drawn}<figcaption>{escape(model)}</figcaption></figure>")
    colours = "classes" if choice.labelled else "clusters"
    caption = f"Two principal components; colours are {colours}, repeated where there are many. Point at a photo for its name."
    return (
        [f'<h2>Maps of the photos</h2><p class="soft">{caption}</p><div class="maps">{"".join(figures)}</div>']
        if figures
        else []
    )


def _skipped(choice: Choice) -> list[str]:
    if not choice.skipped:
        return []
    lines = "".join(f"<li>{escape(one)}</li>" for one in choice.skipped)
    return [
        f"<h2>Files that could not be read</h2><details><summary>{len(choice.skipped)}</summary><ul>{lines}</ul></details>"
    ]


def _pictures(choice: Choice, photos: Iterable[tuple[int, str]]) -> str:
    figures = []
    for photo, words in photos:
        name = choice.photos[photo].name
        source = base64.b64encode(choice.thumbnails(photo)).decode("ascii")
        lines = "<br>".join(escape(line) for line in (name, words) if line)
        figures.append(
            f'<figure><img alt="{escape(name)}" src="data:image/jpeg;base64,{source}"><figcaption>{lines}</figcaption></figure>'
        )
    return f'<div class="photos">{"".join(figures)}</div>'


def _matrix(names: Sequence[str], values: Floats) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{value:.2f}</td>' for value in row)}</tr>"
        for name, row in zip(names, values, strict=True)
    )
    return f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
