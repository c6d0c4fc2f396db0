"""Rewrite the generated parts of the documentation: `python -m scripts.make_docs`; with `--check`, only name what is stale.

A generated part stands between the lines `<!-- generated: NAME -->` and `<!-- /generated -->`. It is made from the code, so
that the two cannot disagree: settings from the docstrings of `Settings`, official checkpoints from the registry, the command
line from its parsers.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from vitdemo import settings
from vitdemo.cli import build_parser
from vitdemo.registry import OFFICIAL
from vitdemo.settings import ROOT

_PART = re.compile(
    r"^<!-- generated: (?P<name>[\w-]+) -->\n(?P<body>.*?)^<!-- /generated -->$", re.MULTILINE | re.DOTALL
)


def settings_table() -> str:
    """Every `VITDEMO_*` variable, its default, and what the docstring of its field says."""
    docstrings = field_docstrings(Path(settings.__file__).read_text(encoding="utf-8"), "Settings")
    rows = [
        (f"`VITDEMO_{field.name.upper()}`", _default(field.default), docstrings[field.name])
        for field in fields(settings.Settings)
    ]
    return _table(("variable", "default", "meaning"), rows)


def field_docstrings(source: str, name: str) -> dict[str, str]:
    """The string under each field of a class, which Python itself does not keep.

    Raises:
        KeyError: there is no such class.
        ValueError: a field has none.
    """
    found = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}[name]
    docstrings = {}
    for node, after in zip(found.body, [*found.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
            raise ValueError(f"{name}.{node.target.id} has no docstring")
        docstrings[node.target.id] = " ".join(str(after.value.value).split())
    return docstrings


def _default(value: Any) -> str:
    if value is None or value == () or value == "":
        return "(empty)"
    if isinstance(value, str):
        return f"`{value}`"
    return f"{float(value):g}" if value < 1e4 else str(value)


def official_table() -> str:
    """The official checkpoints of the Hugging Face Hub, as the registry lists them."""
    rows = []
    for spec in OFFICIAL.values():
        license = f"{spec.license}, gated" if spec.gated else spec.license
        classes = f"{spec.num_classes:,}" if spec.num_classes else "none"
        size = f"{spec.bytes / 1e9:.2f} GB" if spec.bytes >= 1e9 else f"{spec.bytes / 1e6:.0f} MB"
        numbers = (str(max(spec.image_size)), str(spec.patch_size), str(spec.num_prefix_tokens), classes)
        name = f"[`{spec.name}`]({spec.link})"
        rows.append((name, spec.family, f"{spec.parameters / 1e6:.1f} M", *numbers, license, size))
    head = ("checkpoint", "family", "parameters", "input", "patch", "prefix tokens", "classes", "licence", "file")
    return _table(head, rows)


def cli_reference() -> str:
    """Every command with its arguments, from the parsers."""
    (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    summaries = {action.dest: action.help or "" for action in commands._choices_actions}
    return "\n".join(_command(name, parser, summaries[name]) for name, parser in commands.choices.items())


def _command(name: str, parser: argparse.ArgumentParser, summary: str) -> str:
    shown = [
        action
        for action in parser._actions
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
    ]
    usage = " ".join(["python -m vitdemo", name, *_usage(shown)])
    rows = [(f"`{_spelling(action)}`", _meaning(action)) for action in shown]
    return f"### {name}\n\n{summary[:1].upper()}{summary[1:]}: `{usage}`\n\n{_table(('argument', 'meaning'), rows)}"


def _usage(shown: list[argparse.Action]) -> Iterator[str]:
    """What must be given; everything else is in the table."""
    for action in shown:
        if not action.option_strings:
            yield f"{action.metavar or action.dest}{'...' if action.nargs == '+' else ''}"
        elif action.required:
            yield _spelling(action)
    yield "[options]"


def _spelling(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    if action.choices:
        return f"{names} {'|'.join(map(str, action.choices))}"
    return f"{names} {action.metavar or action.dest.upper()}{'...' if action.nargs == '+' else ''}"


def _meaning(action: argparse.Action) -> str:
    text = action.help or ""
    if action.required and action.option_strings:
        return f"{text} (required)"
    # Zero is a default worth naming; a switch that is off is not.
    if action.default is None or action.default is False or action.default in ((), "") or "default:" in text:
        return text.strip("()") if text.startswith("(") else text
    return f"{text} (default: {action.default})" if text else f"default: {action.default}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(_cell(text) for text in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("%%", "%")


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "official-checkpoints": official_table,
    "command-line": cli_reference,
}
"""What a mark's name stands for."""


def rewritten(text: str) -> str:
    """A page with its generated parts as they should be.

    Raises:
        KeyError: a mark has a name that nothing is made for.
    """
    return _PART.sub(
        lambda part: f"<!-- generated: {part['name']} -->\n{PARTS[part['name']]()}<!-- /generated -->", text
    )


def pages() -> list[Path]:
    """The README and everything under `docs/`."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main(check: bool) -> int:
    """Rewrite all pages, or, to check, only name those that would change; then the exit status is 1."""
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := rewritten(text)) != text:
            stale.append(page)
            if not check:
                page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)} {'is out of date' if check else 'is rewritten'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rewrite the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="only say what is out of date; exit with 1 if anything is")
    sys.exit(main(parser.parse_args().check))
