"""Files that tools outside the tests read: they name the versions that are tested, and commands that exist."""

from __future__ import annotations

import json
import re

import yaml

from vitdemo.settings import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PRE_COMMIT = ROOT / ".pre-commit-config.yaml"


def test_pre_commit_has_the_ruff_that_is_tested() -> None:
    (pinned,) = re.findall(r"^ruff==.+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    hooks = yaml.safe_load(PRE_COMMIT.read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["additional_dependencies"] for hook in hooks if hook["id"].startswith("ruff")] == [[pinned], [pinned]]


def test_one_version_of_biome_everywhere() -> None:
    schema = json.loads((ROOT / "biome.json").read_text(encoding="utf-8"))["$schema"]
    (version,) = re.findall(r"schemas/([\d.]+)/", schema)
    for path in (WORKFLOW, PRE_COMMIT):
        assert re.findall(r"@biomejs/biome@([\d.]+)", path.read_text(encoding="utf-8")) == [version]


def test_the_workflow_calls_targets_of_the_makefile() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = [run.removeprefix("make ") for run in runs if run.startswith("make ")]
    assert sorted(targets) == ["test", "test-all"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
