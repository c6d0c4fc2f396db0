"""The GPU suite where there is no GPU: it says so; its steps run at tiny sizes; its arithmetic and its page are right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from scripts.gpu import environment, report
from scripts.gpu import step as steps
from scripts.gpu.__main__ import BENCHES, CHECKS, Plan, run_phase
from scripts.gpu.flops import by_hand, counted, mfu, peak_of
from scripts.gpu.results import DONE, FAILED, LATE, ROOT, Result, code_digest, read
from scripts.gpu.rig import Rig, percentile, spread
from scripts.gpu.serving import length, shared
from tests import tiny
from vitdemo.engine.devices import is_out_of_memory, sent
from vitdemo.models.loading import load_model
from vitdemo.registry import spec_from_folder

CPU = torch.device("cpu")
REHEARSED = {"VITDEMO_GPU_DEVICE": "cpu", "VITDEMO_GPU_TINY": "1"}


@pytest.fixture(scope="module")
def recorded() -> list[tuple[str, Result]]:
    """A run on an imagined GPU: round numbers, to be found again on the page."""
    whole = json.loads((Path(__file__).parent / "gpu" / "imagined_results.json").read_text(encoding="utf-8"))
    return [(phase, Result(**found)) for phase, found in whole]


# Without a GPU


@pytest.mark.thorough
def test_without_a_gpu_make_gpu_says_so_and_ends_with_0_and_writes_nothing(tmp_path: Path) -> None:
    if torch.cuda.is_available() or environment.listed_gpus():
        pytest.skip("there is a GPU here")
    page = tmp_path / "page.md"
    command = [
        sys.executable,
        "-m",
        "scripts.gpu",
        "check",
        "bench",
        "--out",
        str(tmp_path / "out"),
        "--page",
        str(page),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "There is no NVIDIA GPU here" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_makefile_runs_both_halves() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "-n", "gpu", "PYTHON=py"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("py ")] == [
        "py -m scripts.gpu check",
        "py -m scripts.gpu bench",
    ]


def test_what_runs_before_anything_is_installed_needs_nothing_but_python() -> None:
    code = "import scripts.gpu.__main__, sys; print([name for name in ('torch', 'numpy', 'vitdemo') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_every_step_and_every_check_that_is_planned_exists() -> None:
    assert set(BENCHES) == set(steps.STEPS)
    assert {f"test_{name}" for name in CHECKS} == {path.stem for path in (ROOT / "tests" / "gpu").glob("test_*.py")}
    assert set(CHECKS) == set(report.CHECKS)


# The environment


def test_what_an_environment_lacks_is_told_with_the_reason() -> None:
    found = environment.missing(sys.executable, ["numpy>=2", "numpy>=99", "nosuchpackage>=1"])
    assert [name for name, _ in found] == ["numpy>=99", "nosuchpackage>=1"]
    assert found[0][1].startswith("is 2.")
    assert found[1][1] == "is not there"
    assert environment.missing(sys.executable, environment.required()) == []


def test_a_torch_that_is_there_is_not_pinned() -> None:
    pinned, kept = environment.constraints(keep_torch=False), environment.constraints(keep_torch=True)
    assert [line for line in pinned.splitlines() if line not in kept.splitlines()] == ["torch==2.13.0"]


@pytest.mark.thorough
def test_an_environment_made_over_another_has_its_packages(tmp_path: Path) -> None:
    venv.create(tmp_path / "own", with_pip=False, symlinks=True)
    own = tmp_path / "own" / "bin" / "python"
    environment._see(own, environment.facts(sys.executable)["paths"])
    done = subprocess.run(
        [str(own), "-c", "import safetensors, sys; print(sys.prefix)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == str(tmp_path / "own"), done.stderr


def test_where_nothing_can_be_installed_only_what_one_step_needs_may_lack() -> None:
    said: list[str] = []
    go_on = environment._with_what_is_there
    assert go_on("py", True, [("gradio>=6.31,<7", "is not there")], said.append) == "py"
    assert (
        go_on("py", True, [("gradio>=6", "is not there"), ("transformers>=5.23,<6", "is 5.17.0")], said.append) is None
    )
    assert go_on("py", False, [], said.append) is None
    assert "transformers>=5.23,<6 is 5.17.0" in said[1]


# Arithmetic


def test_counted_operations_are_those_of_a_count_by_hand(tmp_path: Path) -> None:
    tiny.save(tmp_path / "vit", "vit")
    model = load_model(spec_from_folder(tmp_path / "vit"), CPU, torch.float32)
    expected = by_hand(model.network.config, 32)
    assert counted(model, torch.zeros(1, 3, 32, 32)) == expected
    assert counted(model, torch.zeros(5, 3, 32, 32)) == 5 * expected


def test_a_vit_b_16_takes_35_billion_operations() -> None:
    # Its multiplications and additions are commonly given as 17.6 billion pairs.
    assert by_hand(transformers.ViTConfig(num_labels=1000), 224) == pytest.approx(2 * 17.58e9, rel=2e-3)


def test_mfu_is_operations_over_the_peak() -> None:
    assert mfu(35.16e9, 10_000, 989.5) == pytest.approx(0.3553, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("A100-SXM4-40GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 366.5),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("cpu", None),
    ],
)
def test_only_known_gpus_have_a_peak(name: str, peak: float | None) -> None:
    found = peak_of(name)
    assert (found and found.tflops) == peak
    assert found is None or found.source.startswith("https://www.nvidia.com/")


def test_times_that_overlap_count_once() -> None:
    kernels, copies = [(0.0, 4.0), (3.0, 6.0), (10.0, 12.0)], [(5.0, 7.0), (11.0, 11.5)]
    assert length(kernels) == 8
    assert shared(copies, kernels) == pytest.approx(1.5)
    assert shared(copies, []) == 0
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert spread([2.0]) == {"median": 2.0, "q1": 2.0, "q3": 2.0}
    assert [percentile([4.0, 1.0, 3.0, 2.0], share) for share in (0.0, 0.5, 0.95, 1.0)] == [1.0, 3.0, 4.0, 4.0]


# What the suite found out about the engine


def test_elsewhere_than_on_cuda_pixels_are_left_as_they_are() -> None:
    pixels = torch.randn(1, 3, 4, 4)
    assert sent(pixels, CPU, torch.bfloat16) is pixels


@pytest.mark.parametrize("library", ["CUBLAS", "CUDNN"])
def test_a_library_without_memory_for_itself_is_a_device_without_memory(library: str) -> None:
    assert is_out_of_memory(RuntimeError(f"CUDA error: {library}_STATUS_ALLOC_FAILED when calling `create(handle)`"))
    assert not is_out_of_memory(RuntimeError(f"CUDA error: {library}_STATUS_NOT_SUPPORTED"))


# Results


def test_figures_are_on_disk_as_soon_as_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def broken(rig: Rig) -> Iterator[tuple[str, Any]]:
        yield "first", 1
        seen.append(read(tmp_path, "users"))
        raise ValueError("no more")

    monkeypatch.setitem(steps.STEPS, "users", broken)
    result = steps.run("users", Rig(CPU, True), tmp_path, {"device": "x"})
    assert (seen[0].figures, seen[0].state) == ({"first": 1}, "unfinished")
    assert (result.state, result.figures, result.identity) == (FAILED, {"first": 1}, {"device": "x"})
    assert "no more" in result.error
    assert read(tmp_path, "users") == result
    (tmp_path / "users.json").write_text('{"step": "us', encoding="utf-8")
    assert read(tmp_path, "users") is None


@pytest.mark.thorough
def test_a_phase_goes_on_where_it_was_and_a_step_that_takes_too_long_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    class Told(Plan):
        def steps(self, phase: str) -> list[str]:
            return ["bench-one", "bench-two", "bench-three"]

        def command(self, step: str) -> list[str]:
            name = step.split("-")[1]
            ran.append(name)
            result = f"Result({name!r}, figures={{'a': 1}}).write(Path({str(self.out / 'bench')!r}))"
            after = {"one": "", "two": "; import time; time.sleep(60)", "three": "; raise SystemExit('it broke')"}[name]
            return [
                self.python,
                "-c",
                f"from pathlib import Path; from scripts.gpu.results import Result; {result}{after}",
            ]

    def go(identity: dict[str, str]) -> tuple[bool, str]:
        said: list[str] = []
        fine = run_phase(Told(sys.executable, "cpu", True, tmp_path, identity, False), "bench", 60, said.append)
        return fine, "\n".join(said)

    monkeypatch.setattr("scripts.gpu.__main__.LIMITS", {"bench": 4.0})
    fine, words = go({"code": "a", "date": "1"})
    assert not fine
    assert "bench-two: over its time" in words
    assert "it broke" in words
    found = {name: read(tmp_path / "bench", name) for name in ("one", "two", "three")}
    assert {name: one and (one.state, one.figures) for name, one in found.items()} == {
        "one": (DONE, {"a": 1}),
        "two": (LATE, {"a": 1}),
        "three": (FAILED, {"a": 1}),
    }
    assert ran == ["one", "two", "three"]
    monkeypatch.setattr("scripts.gpu.__main__.LIMITS", {"bench": 0.1})
    go({"code": "a", "date": "2"})
    assert ran[3:] == ["two", "three"], "what is done is done, on whichever day"
    go({"code": "b", "date": "2"})
    assert ran[5:] == ["one", "two", "three"], "other code is measured anew"


def test_without_time_a_step_is_left_for_the_next_call(tmp_path: Path) -> None:
    said: list[str] = []
    plan = Plan(sys.executable, "cpu", True, tmp_path, {}, False, ("bench-tap", "bench-live"))
    assert run_phase(plan, "bench", 1.0, said.append)
    assert said == ["No time left for bench-tap, bench-live: the same command goes on there."]


def test_the_code_has_a_digest(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    before = code_digest(tmp_path)
    (tmp_path / "scripts" / "a.py").write_text("1")
    assert code_digest(tmp_path) != before


# The page


def test_the_page_has_the_device_and_every_figure(recorded: list[tuple[str, Result]]) -> None:
    text = report.page(recorded)
    assert "| NVIDIA H200 | 150 GB | 580.0 | 2.13.0+cu130 | 13.0 | 3.12.3 | 2026-01-02 |" in text
    for words in (
        "rehearsal",
        "Not complete",
        "another machine",
    ):
        assert words not in text
    for line in (
        "| bf16 and fp16 against fp32, every family | 4 | 0 | 0 | 30 s |",
        "| vit-mini | bf16, with fp32 there | 0.9990 | 0.0500 | 0.0100 | 100% |",
        "| vit-mini | fp32, with fp32 on the CPU | 0.9999 | 0.0010 | 0.0020 | 100% |",
        "Tiny random networks of 2 kinds in bf16: largest difference of a row 0.0300, of logits 0.0200.",
        "gave the same bits with attention.",
        "Other bits: legrad (beit-mini-bf16); the largest relative difference was 1.0e-03.",
        "- twenty users share: jobs 60, forwards 12, difference 0.01",
        "35.16 x 10^9 operations per image as counted by torch, 35.16 by hand.",
        "Peak of NVIDIA H200: 989.5 TFLOPS, dense bf16 ([NVIDIA](https://www.nvidia.com/en-us/data-center/h200/)).",
        "| as it is | 256 | 10,000 | 25.60 | 35.5% |",
        "| compiled | 256 | 12,500 | 20.48 | 44.4% |",
        "| ViT-B/16, 224 px, batch 64 | rows of the class token | 1.10 (1.00 to 1.20) | 90 |",
        "| bf16 | 0.40 (0.35 to 0.45) | 40 | 100 |",
        "| vit-mini | 2.0 / 2.5 | 9.0 / 9.5 |",
        "| vit-mini, 20 | 1,500.0 | 6.5 | 12.0 | 20.0 |",
        "| vit-mini, 4 | 80.0 | 45.0 | 60.0 | 3.0 |",
        "77 MB of bf16 pixels: 5.0 GB/s as they are, 12.0 GB/s with page-locked memory, conversion from fp32 included.",
        "| rows | 500.0 | 300.0 | 20.0 | 15.0 | 5.0 |",
        "| vit-mini | 1.05 (1.00 to 1.10) |",
    ):
        assert line in text, f"{line}\n\n{text}"


def test_the_page_says_what_failed_what_is_not_known_and_that_a_rehearsal_is_one(
    recorded: list[tuple[str, Result]],
) -> None:
    parts = {f"{phase}-{result.step}": result for phase, result in recorded}
    own = {
        **parts["bench-throughput"].identity,
        "device": "cpu (x86_64)",
        "driver": "none",
        "sizes": "tiny",
        "date": "2026-02",
    }
    users = Result("users", FAILED, 3, {"test_a": {"outcome": "failed", "words": "assert 1 <= 0"}}, identity=own)
    figures = {
        "peak": {"device": "NVIDIA X", "tflops": None, "source": None},
        "plain 1": {"batch": 1, "images per second": 10.0, "ms": 100.0, "mfu": None},
        "compiled": {"fault": "RuntimeError: no compiler"},
    }
    speed = Result("throughput", LATE, 9, figures, identity=own)
    text = report.page([("check", users), ("bench", speed), ("bench", parts["bench-live"])])
    for line in (
        "**A rehearsal: these figures say nothing about any GPU.**",
        "**Not complete: check users (failed), bench throughput (over its time).**",
        "Of another machine, or of another state of the code: bench live.",
        "- failed in users: `test_a`: `assert 1 <= 0`",
        "The peak of NVIDIA X is not known here, so that MFU is left out.",
        "| as it is | 1 | 10 | 100.00 |  |",
        "`torch.compile` failed: `RuntimeError: no compiler`.",
    ):
        assert line in text, f"{line}\n\n{text}"


# Rehearsals on the CPU


@pytest.mark.thorough
def test_checks_are_skipped_in_words_without_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/gpu/test_tap.py",
    ]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("VITDEMO_GPU")}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "there is no GPU here that CUDA can use" in done.stdout
    assert done.stdout.startswith("sss ")


@pytest.mark.thorough
@pytest.mark.parametrize("name", BENCHES)
def test_every_benchmark_runs_at_a_tiny_size_and_has_its_part_of_the_page(name: str, tmp_path: Path) -> None:
    result = steps.run(name, Rig(CPU, tiny=True), tmp_path, {"date": "2026-01-02"})
    assert result.state == DONE, result.error
    text = report.page([("bench", result)])
    assert text.count("## ") == 1
    assert text.count("\n| ") >= 4, "the table of the device, and one of figures"


@pytest.mark.thorough
@pytest.mark.timeout(400)
def test_every_check_passes_on_the_cpu_or_says_that_it_needs_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    variables = {**os.environ, **REHEARSED, "VITDEMO_GPU_OUT": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    results = [read(tmp_path, name) for name in CHECKS]
    assert None not in results
    entries = [entry for result in results if result for entry in result.figures.values()]
    for entry in entries:
        assert entry["outcome"] in ("passed", "skipped")
        assert entry["outcome"] == "passed" or "GPU" in entry["words"] or "rehears" in entry["words"]
    assert sum(entry["outcome"] == "passed" for entry in entries) > 60
    text = report.page([("check", result) for result in results if result])
    assert "| vit-mini | bf16, with fp32 there |" in text
