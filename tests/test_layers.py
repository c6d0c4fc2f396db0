"""The layers of the house: a module imports only from the layers below its own, or from its own folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitdemo.settings import ROOT

LAYERS = {
    "errors": 0,
    "settings": 0,
    "threads": 0,
    "interrupt": 0,
    "types": 0,
    "options": 1,
    "images": 2,
    "registry": 2,
    "attribution": 2,
    "inspection": 2,
    "rendering": 2,
    "models": 3,
    "segmentation": 3,
    "export": 3,
    "cluster": 3,
    "engine": 4,
    "training": 4,
    "pipeline": 5,
    "evaluation": 6,
    "ui": 7,
    "cli": 8,
    "__init__": 9,
    "__main__": 9,
}
"""Layer of each folder or module at the top of the package, as in docs/architecture.md."""


def violations(package: Path) -> list[str]:
    """Every import of the package that points up, or sideways out of its folder, in words."""
    found = []
    modules = {_name(path, package): path for path in sorted(package.rglob("*.py"))}
    for module, path in modules.items():
        if _layer(module) is None:
            found.append(f"{module}: {path.name} is in no layer. Add {_room(module)!r} to LAYERS in {__file__}.")
            continue
        for line, target in _imports(path, module, modules):
            layer, below = _layer(module), _layer(target)
            if below is None:
                continue  # it is reported for itself
            assert layer is not None
            edge = f"{module} (layer {layer}), line {line}, imports {target} (layer {below})"
            if below > layer:
                found.append(f"{edge}: that points up.")
            elif below == layer and _folder(module, modules) != _folder(target, modules):
                found.append(f"{edge}: inside a layer, imports stay in one folder.")
    return found


def _name(path: Path, package: Path) -> str:
    parts = list(path.relative_to(package.parent).with_suffix("").parts)
    # The package's own __init__ is a layer of its own; those of its folders are the folders.
    if parts[-1] == "__init__" and len(parts) > 2:
        parts.pop()
    return ".".join(parts)


def _room(module: str) -> str:
    return module.split(".")[1]


def _layer(module: str) -> int | None:
    return LAYERS.get(_room(module))


def _folder(module: str, modules: dict[str, Path]) -> str:
    """The room that is a folder; all modules at the top of the package share one."""
    room = f"{module.split('.')[0]}.{_room(module)}"
    return room if modules[room].stem == "__init__" and _room(module) != "__init__" else ""


def _imports(path: Path, module: str, modules: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """Line and module of each import inside the package, wherever in the file it stands."""
    package = module.split(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
                if here[-1:] == ["__init__"]:
                    here.pop()
                here = here[: len(here) - node.level + 1]
                base = ".".join([*here, *([node.module] if node.module else [])])
            # `from package import name`: a module of that name, or something that the package itself holds.
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names]
        else:
            continue
        for name in dict.fromkeys(names):
            target = f"{package}.__init__" if name == package else name
            if target in modules:
                yield node.lineno, target
            elif name.startswith(f"{package}."):
                raise AssertionError(f"{module}, line {node.lineno}: there is no module {name}")


def test_no_module_imports_from_a_layer_above_its_own() -> None:
    found = violations(ROOT / "vitdemo")
    assert not found, "\n" + "\n".join(found)


def test_every_room_of_the_package_is_seen() -> None:
    rooms = {_room(_name(path, ROOT / "vitdemo")) for path in (ROOT / "vitdemo").rglob("*.py")}
    assert rooms >= {"__init__", "__main__", "errors", "engine", "pipeline", "ui"}


def _package(root: Path, files: dict[str, str]) -> Path:
    package = root / "house"
    for name in ("__init__.py", "errors.py", "registry.py", "pipeline.py", "engine/__init__.py", *files):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(files.get(name, ""), encoding="utf-8")
    return package


@pytest.mark.parametrize(
    "source",
    [
        "from house.pipeline import Pipeline",
        "from house import pipeline",
        "import house.pipeline as up",
        "from . import pipeline",
        "from .pipeline import Pipeline",
        "def late():\n    from house.pipeline import Pipeline",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.pipeline import Pipeline",
        "try:\n    import house.pipeline\nexcept ImportError:\n    pass",
    ],
)
def test_an_upward_import_is_caught_in_every_form(tmp_path: Path, source: str) -> None:
    (found,) = violations(_package(tmp_path, {"registry.py": source}))
    assert "house.registry (layer 2)" in found
    assert "house.pipeline (layer 5)" in found
    assert "points up" in found


def test_an_upward_import_out_of_a_folder_is_caught(tmp_path: Path) -> None:
    (found,) = violations(_package(tmp_path, {"engine/local.py": "from ..pipeline import Pipeline"}))
    assert "house.engine.local (layer 4)" in found


@pytest.mark.parametrize("source", ["import house", "from house import __version__"])
def test_what_the_package_itself_holds_is_above_every_module(tmp_path: Path, source: str) -> None:
    (found,) = violations(_package(tmp_path, {"cli.py": source}))
    assert "house.__init__ (layer 9)" in found


def test_a_sideways_import_out_of_a_folder_is_caught(tmp_path: Path) -> None:
    files = {"attribution/__init__.py": "", "attribution/maps.py": "import house.registry", "registry.py": ""}
    (found,) = violations(_package(tmp_path, files))
    assert "house.attribution.maps (layer 2)" in found
    assert "one folder" in found


def test_a_sideways_import_into_a_folder_is_caught(tmp_path: Path) -> None:
    files = {"attribution/__init__.py": "", "registry.py": "from house.attribution import METHODS"}
    (found,) = violations(_package(tmp_path, files))
    assert "house.registry (layer 2)" in found


def test_imports_downwards_inside_a_folder_and_between_top_modules_of_a_layer_are_fine(tmp_path: Path) -> None:
    files = {
        "__init__.py": "def lazy():\n    from house.pipeline import Pipeline",
        "pipeline.py": "from house import engine, errors\nimport torch",
        "settings.py": "from house.errors import SettingsError",
        "ui/__init__.py": "",
        "ui/app.py": "from .components.photo import Photo\nfrom house.pipeline import Pipeline",
        "ui/components/__init__.py": "",
        "ui/components/photo.py": "from house.ui.errors import words",
        "ui/errors.py": "from ..errors import VitDemoError",
    }
    assert violations(_package(tmp_path, files)) == []


def test_a_new_module_must_be_given_a_layer(tmp_path: Path) -> None:
    (found,) = violations(_package(tmp_path, {"cellar.py": ""}))
    assert "Add 'cellar' to LAYERS" in found


def test_an_import_of_a_module_that_does_not_exist_is_caught(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"no module house\.gone"):
        violations(_package(tmp_path, {"registry.py": "import house.gone"}))
