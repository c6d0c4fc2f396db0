"""The documentation: generated parts are up to date, links lead somewhere, names exist, and every example runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from scripts.make_docs import field_docstrings, pages, rewritten
from tests.docs.examples import HOST, PAGES, Example, examples, furnish, run_python, run_shell
from tests.test_layers import LAYERS
from vitdemo.registry import get_spec
from vitdemo.registry.configs import FAMILY_OF
from vitdemo.settings import ROOT

if TYPE_CHECKING:
    from tests.served import App

# What a manifest names is looked at in test_manifest.py.
RUN = {"python": run_python, "pycon": run_python, "bash": run_shell, "yaml": yaml.safe_load}
DOCS = ROOT / "docs"
SLOW = [pytest.mark.thorough, pytest.mark.timeout(600)]


def parameters() -> list[object]:
    """Every example that can be run; the slow ones among the thorough tests."""
    return [
        pytest.param(example, marks=SLOW if example.mark == "slow" else [], id=str(example))
        for example in examples()
        if not example.mark.startswith("not run: ")
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("example", parameters())
def test_an_example_runs(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = example.code
    if example.served:
        app: App = request.getfixturevalue("app")
        code = code.replace(HOST, app.url.rstrip("/"))
    RUN[example.language](code)


def test_an_example_that_does_not_run_says_why() -> None:
    for example in examples():
        assert example.language in RUN, f"{example}: {example.language!r} is not run; write it as an indented block"
        assert example.mark in ("", "slow") or re.fullmatch(r"not run: \S.+", example.mark), (
            f"{example}: {example.mark}"
        )


def test_generated_parts_are_up_to_date() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        assert text == rewritten(text), f"{page.name} is out of date: run python -m scripts.make_docs"


def test_a_field_without_a_docstring_is_named() -> None:
    source = 'class Some:\n    first: int = 1\n    """One."""\n    second: int = 2\n'
    with pytest.raises(ValueError, match=r"Some\.second has no docstring"):
        field_docstrings(source, "Some")
    assert field_docstrings(source.replace("    second: int = 2\n", ""), "Some") == {"first": "One."}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name} links to {target}, which does not exist"
        assert not anchor or anchor in _anchors(path), f"{page.name} links to {target}: no such heading"


def _anchors(page: Path) -> list[str]:
    """Headings as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_labels_that_the_documentation_cites_are_on_the_page() -> None:
    sources = [path for kind in ("py", "js", "html") for path in (ROOT / "vitdemo" / "ui").rglob(f"*.{kind}")]
    written = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    labels = set(re.findall(r"\*\*(.+?)\*\*", (DOCS / "page.md").read_text(encoding="utf-8"))) - {"bold"}
    assert len(labels) > 50
    # A label begins after a quote or a tag, perhaps behind a sign.
    absent = [label for label in labels if not re.search(rf"[\"'`>][^\w\"'`<>]{{0,3}}{re.escape(label)}", written)]
    assert not absent, f"docs/page.md cites labels that the page does not have: {sorted(absent)}"


def test_every_endpoint_and_its_arguments_are_documented(app: App) -> None:
    from gradio_client import Client

    client = Client(app.url, verbose=False)
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    client.close()
    rows = dict(re.findall(r"^\| `(/\w+)` \| (.*?) \|", (DOCS / "http.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert {
        name: [argument["parameter_name"] for argument in endpoint["parameters"]]
        for name, endpoint in endpoints.items()
    } == {name: re.findall(r"`(\w+)`", arguments) for name, arguments in rows.items()}


def test_every_method_and_every_model_type_is_documented() -> None:
    methods, models = ((DOCS / name).read_text(encoding="utf-8") for name in ("methods.md", "models.md"))
    for name in get_spec("vit-mini").methods:
        assert f"\n| `{name}` |" in methods, f"docs/methods.md lacks {name}"
    for name in FAMILY_OF:
        assert f"`{name}`" in models, f"docs/models.md lacks {name}"


def test_the_folders_of_the_architecture_are_those_of_the_package() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d) \| (.+) \|$", text, re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "vitdemo").glob("*/__init__.py")}
    assert {name for name, _, _ in rows} == folders
    for name, layer, contents in rows:
        assert int(layer) == LAYERS[name]
        documented = {module.strip("/").split("/")[0] for module in re.findall(r"`([a-z_/]+)`", contents)}
        inside = {path.stem for path in (ROOT / "vitdemo" / name).iterdir() if path.is_dir() or path.suffix == ".py"}
        modules = {module for module in inside if not module.startswith("__")}
        assert documented == modules, f"docs/architecture.md, {name}: {documented ^ modules}"


def test_the_walks_of_the_architecture_name_files_and_tables_that_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for path in re.findall(r"`(\w+/[\w/]+\.(?:py|js))`", text):
        if "NAME" not in path:
            assert (ROOT / path).exists() or (ROOT / "vitdemo" / path).exists(), path
    steps = re.findall(r"^\d\. `(\w+/\w+\.py)`(.+(?:\n   .+)*)", text, re.MULTILINE)
    named = [
        (path, name) for path, step in steps for name in re.findall(r"`(_?[A-Z]{3,}(?:_[A-Z]+)*|[a-z]+_[a-z]+)`", step)
    ]
    assert len(named) >= 8
    for path, name in named:
        if path != "ui/NAME.py":
            assert re.search(rf"\b{name}\b", (ROOT / "vitdemo" / path).read_text(encoding="utf-8")), f"{path}: {name}"
