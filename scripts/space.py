"""The project as a Hugging Face Space: `python -m scripts.space build FOLDER`, or `publish ORGANISATION/NAME`.

`build` writes the folder that is pushed, and checks it; `publish` builds one, and uploads it with the token of `hf auth login` or
`HF_TOKEN`. docs/hosting.md has the rest.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from vitdemo.errors import VitDemoError
from vitdemo.registry import OFFICIAL

ROOT = Path(__file__).resolve().parents[1]

PARTS = (
    "app.py",
    "vitdemo",
    "docs",
    "assets",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)
"""What a Space needs: the app, and what its README shows and links to."""

NOT = ("assets/screenshots/", "__pycache__", ".pyi")
"""What of it stays out; of the screenshots, those that the README shows come back in."""

INSTALLED = ("gradio", "spaces", "huggingface-hub")
"""Packages that a Space installs itself, of the versions that suit it."""

TORCH = SpecifierSet(">=2.8,<2.12")
"""What ZeroGPU takes (https://huggingface.co/docs/hub/spaces-zerogpu)."""

COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
REQUIRED = ("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file", "python_version", "license")

PYTHONS = ("3.10", "3.12")
"""What ZeroGPU has."""

LONGEST = 60
"""Characters of `short_description`."""

LARGEST = 10_000_000
"""Bytes of a file that git takes on the Hub without LFS."""

MOST = 1_000_000_000
"""Bytes of the files of a Space."""


class SpaceError(VitDemoError):
    """The folder is not what a Space takes, or could not be pushed."""


def build(out: Path) -> list[Path]:
    """Write the folder that is pushed, and check it; returns its files. What an earlier build left there is deleted.

    Raises:
        SpaceError: the folder holds something else, or a Space would not take what was built.
    """
    if out.exists() and any(out.iterdir()):
        if not (out / "vitdemo" / "__init__.py").is_file() or (out / ".git").exists() or (out / "Makefile").exists():
            raise SpaceError(f"{out} holds something else than an earlier build. Choose an empty folder.")
        shutil.rmtree(out)
    for path in files():
        target = out / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (out / "requirements.txt").write_text("\n".join(requirements()) + "\n", encoding="utf-8")
    found = sorted(path for path in out.rglob("*") if path.is_file())
    if faults := [*front_matter_faults(out), *requirement_faults(out), *size_faults(out, found)]:
        raise SpaceError("A Space would not take this:\n- " + "\n- ".join(faults))
    return found


def files() -> Iterator[Path]:
    """Those of the project that a Space needs."""
    shown = re.findall(r"\((assets/screenshots/[\w.-]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    for part in PARTS:
        whole = ROOT / part
        for path in sorted(whole.rglob("*")) if whole.is_dir() else [whole]:
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and (name in shown or not any(one in name for one in NOT)):
                yield path


def requirements() -> list[str]:
    """The project's own, without what a Space installs itself, and with torch as ZeroGPU has it."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    kept = [one for one in asked if one.name.lower().replace("_", "-") not in INSTALLED]
    for one in kept:
        if one.name == "torch":
            one.specifier = TORCH
    return [str(one) for one in kept]


def front_matter(folder: Path) -> dict[str, Any]:
    """The block of YAML at the head of the README.

    Raises:
        SpaceError: there is none.
    """
    found = re.match(r"---\n(.*?)\n---\n", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    values = yaml.safe_load(found[1]) if found else None
    if not isinstance(values, dict):
        raise SpaceError("README.md has no block of YAML between two lines of --- at its head.")
    return values


def front_matter_faults(folder: Path) -> Iterator[str]:
    """What of the README's head a Space would not take, or not understand.

    The keys are those of https://huggingface.co/docs/hub/spaces-config-reference.
    """
    values = front_matter(folder)
    if missing := [key for key in REQUIRED if not values.get(key)]:
        yield f"README.md: {', '.join(missing)} is missing."
    if values.get("sdk") != "gradio":
        yield "README.md: sdk must be gradio."
    for key in ("colorFrom", "colorTo"):
        if values.get(key) not in COLOURS:
            yield f"README.md: {key} must be one of {', '.join(COLOURS)}."
    description = str(values.get("short_description", ""))
    if len(description) > LONGEST:
        yield f"README.md: short_description has {len(description)} characters; the limit is {LONGEST}."
    if not (folder / str(values.get("app_file"))).is_file():
        yield f"README.md: app_file {values.get('app_file')} does not exist."
    if str(values.get("python_version")) not in PYTHONS:
        yield f"README.md: python_version must be one of {', '.join(PYTHONS)}, in quotes."
    if values.get("sdk_version") != pinned("gradio"):
        yield f"README.md: sdk_version must be {pinned('gradio')}, the gradio that is tested (constraints.txt)."
    if "hardware" in values:
        yield "README.md: hardware is ignored; suggested_hardware is for those who duplicate the Space."
    for key in ("models", "preload_from_hub"):
        if unknown := [name for name in values.get(key) or [] if str(name).split(" ")[0] not in OFFICIAL]:
            yield f"README.md: {key} has {', '.join(unknown)}, of which vitdemo knows nothing."


def requirement_faults(folder: Path) -> Iterator[str]:
    """What of the requirements does not suit a Space."""
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = {one.name: one for one in map(Requirement, filter(None, lines))}
    for name in INSTALLED:
        if name in asked:
            yield f"requirements.txt: {name} is installed by the Space itself."
    torch = asked.get("torch")
    versions = [Version(text) for text in ("2.8.0", "2.9.1", "2.10.0", "2.11.0")]
    if torch is None or not all(version in torch.specifier for version in versions):
        yield "requirements.txt: torch 2.8 to 2.11 must be allowed."
    elif Version("2.12.0") in torch.specifier:
        yield "requirements.txt: ZeroGPU has no torch 2.12."


def size_faults(folder: Path, found: Sequence[Path]) -> Iterator[str]:
    """Files over the limits."""
    for path in found:
        if path.stat().st_size > LARGEST:
            yield f"{path.relative_to(folder)} has {path.stat().st_size / 1e6:.1f} MB; over {LARGEST / 1e6:.0f} MB needs LFS."
    if (total := sum(path.stat().st_size for path in found)) > MOST:
        yield f"All files together have {total / 1e9:.2f} GB; the limit is {MOST / 1e9:.0f} GB."


def pinned(name: str) -> str:
    """The version of a package that is tested."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(name)}==(\S+)$", text, re.MULTILINE)
    assert found is not None
    return found[1]


def publish(repo: str, *, private: bool = False, hardware: str | None = None) -> str:
    """Build the Space, create its repository if there is none, and upload; returns the address of the commit.

    Args:
        hardware: of a new Space, such as `cpu-basic`, or `zero-a10g` for ZeroGPU.

    Raises:
        SpaceError: the Hub refused, or could not be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(library_name="vitdemo")
    with tempfile.TemporaryDirectory() as temporary:
        build(Path(temporary))
        try:
            api.create_repo(
                repo, repo_type="space", space_sdk="gradio", private=private, space_hardware=hardware, exist_ok=True
            )
            commit = api.upload_folder(
                repo_id=repo,
                repo_type="space",
                folder_path=temporary,
                commit_message="Publish vitdemo",
                # What a former version had, and this one has not.
                delete_patterns="*",
            )
        except HFValidationError:
            raise SpaceError(f"{repo!r} is not the name of a Space: organisation/name.") from None
        except HfHubHTTPError as error:
            raise SpaceError(_refused(repo, error.response.status_code)) from None
        except Exception as error:
            # Its client's own errors are those of httpx, or of httpx2 where that is installed.
            if not type(error).__module__.startswith("httpx"):
                raise
            raise SpaceError("The Hub could not be reached. What has arrived is kept; try again.") from None
    return str(commit.commit_url)


def _refused(repo: str, status: int) -> str:
    if status == 401:
        return (
            "The Hub does not know your token, or it has expired. Make one that may write, and log in: hf auth login."
        )
    if status == 403:
        return f"Your token may not write to {repo}. Give it that permission, or choose a name of your own account."
    if status == 402:
        return "The Hub asks for a payment for this hardware. Choose --hardware cpu-basic, or a PRO account."
    return f"The Hub refused (status {status}). Try again later."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.space", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("build", help="write the folder that is pushed")
    one.add_argument("folder", type=Path)
    other = commands.add_parser("publish", help="build it, and upload it to the Hub")
    other.add_argument("repo", metavar="ORGANISATION/NAME")
    other.add_argument("--private", action="store_true", help="a new Space is seen by you alone")
    other.add_argument("--hardware", help="of a new Space: cpu-basic, zero-a10g (ZeroGPU), t4-small, ...")
    options = parser.parse_args(arguments)
    try:
        if options.command == "build":
            found = build(options.folder)
            size = sum(path.stat().st_size for path in found)
            print(f"{options.folder}: {len(found)} files, {size / 1e6:.0f} MB")
        else:
            print(publish(options.repo, private=options.private, hardware=options.hardware))
    except SpaceError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
