"""The Space, rehearsed: the folder that is pushed, installed in an environment of its own, and visited by page and client.

To make the environment takes minutes. `VITDEMO_SPACE_PYTHON` names a Python that has what a Space installs, and is used instead.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from packaging.version import Version
from playwright.sync_api import Browser, Page, Route, expect

from scripts import space
from tests.browser.acts import best_labels, example, open_tab, wait_for_new_result
from tests.browser.driver import Watched, film, launched, opened
from tests.packaging.scheduler import Scheduler
from vitdemo.registry import embedded_models

pytestmark = [pytest.mark.thorough, pytest.mark.browser, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
COMPARED = ["vit-mini", "deit-mini", "beit-mini", "dino-mini", "hybrid-mini"]
START = 240
"""Seconds that a Space may take to start on a machine that does other things, too."""

VARIABLES = {
    "SYSTEM": "spaces",
    "SPACE_ID": "me/vitdemo",
    "SPACE_HOST": "me-vitdemo.hf.space",
    "SPACE_AUTHOR_NAME": "me",
    "SPACE_REPO_NAME": "vitdemo",
    "SPACE_TITLE": "vitdemo",
    "CPU_CORES": "2",
    "MEMORY": "16Gi",
    "ACCELERATOR": "none",
    "GRADIO_ALLOW_FLAGGING": "never",
    "GRADIO_NUM_PORTS": "1",
    "PYTHONUNBUFFERED": "1",
}
"""What a Space's process finds (https://huggingface.co/docs/hub/spaces-overview#helper-environment-variables)."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("space") / "app"
    space.build(built)
    return built


@pytest.fixture(scope="module")
def python(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Python in an environment that is installed as a Space's is: its gradio, `spaces`, then the requirements."""
    if ready := os.environ.get("VITDEMO_SPACE_PYTHON"):
        return ready
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    # Not the bound on torch, which is there for ZeroGPU: the versions that are tested, of which there is a build for the CPU.
    asked = (folder / "requirements.txt").read_text(encoding="utf-8")
    (home / "asked.txt").write_text(re.sub("^torch.*$", "torch", asked, flags=re.MULTILINE), encoding="utf-8")
    python = str(home / "bin" / "python")
    version = space.front_matter(folder)["sdk_version"]
    packages = [f"gradio=={version}", "spaces", "-r", str(home / "asked.txt"), "-c", str(ROOT / "constraints.txt")]
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return python


@dataclass
class Running:
    """A Space that runs."""

    url: str
    log: Path
    pid: int


@contextmanager
def started(python: str, folder: Path, home: Path, script: str = "app.py", **variables: str) -> Iterator[Running]:
    """The Space as its container starts it, except that it listens on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = kept | VARIABLES | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": port, **variables}
    running = Running(f"http://127.0.0.1:{port}/", home / "log.txt", 0)
    with running.log.open("wb") as log:
        process = subprocess.Popen([python, script], cwd=folder, env=environment, stdout=log, stderr=log)
    running.pid = process.pid
    try:
        until = time.monotonic() + START
        while True:
            try:
                urllib.request.urlopen(running.url, timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, running.log.read_text(encoding="utf-8")
                assert time.monotonic() < until, running.log.read_text(encoding="utf-8")
                time.sleep(0.3)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def on_cpu(python: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(python, folder, tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Scheduler]:
    with Scheduler() as scheduler:
        yield scheduler


@pytest.fixture(scope="module")
def on_zero(
    python: str, folder: Path, scheduler: Scheduler, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """With the real `spaces`; see `lent_gpu.py`."""
    home = tmp_path_factory.mktemp("home")
    (home / "cgroup").write_text("1:devices:/space\n", encoding="ascii")
    with started(
        python,
        folder,
        home,
        str(Path(__file__).with_name("lent_gpu.py")),
        SPACES_ZERO_GPU="true",
        SPACES_ZERO_DEVICE_API_URL=scheduler.url,
        ZEROGPU_PROC_SELF_CGROUP_PATH=str(home / "cgroup"),
        ZEROGPU_OFFLOAD_DIR=str(home / "tensors"),
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def lending(request: pytest.FixtureRequest) -> None:
    if "on_zero" in request.fixturenames:
        scheduler: Scheduler = request.getfixturevalue("scheduler")
        scheduler.status, scheduler.kills = 200, False
        scheduler.asked.clear()
        scheduler.released.clear()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with launched(film(tmp_path_factory.mktemp("camera") / "film.mjpeg")) as browser:
        yield browser


ABOUT: dict[str, Any] = {
    "https://huggingface.co/api/spaces/me/vitdemo": {"id": "me/vitdemo", "author": "me", "likes": 0, "sdk": "gradio"},
    **{
        f"https://huggingface.co/api/{kind}/me/avatar": {"avatarUrl": "data:image/gif;base64,R0lGODlhAQABAAAAACw="}
        for kind in ("users", "organizations")
    },
}
"""What the header of a Space asks huggingface.co."""


@contextmanager
def visited(browser: Browser, running: Running) -> Iterator[Watched]:
    """The page, and at its end the assurance that nothing was wrong with it, and that it asked no other host for anything.

    But for the header of a Space: Gradio puts it over a page that is opened at its own address, with the fonts of that header.
    """
    foreign: list[str] = []

    def answered(route: Route) -> None:
        url = route.request.url
        if url.startswith(running.url):
            route.continue_()
        elif url in ABOUT:
            route.fulfill(json=ABOUT[url])
        elif url.startswith("https://fonts.googleapis.com/"):
            route.fulfill(body="", content_type="text/css")
        else:
            foreign.append(url)
            route.abort()

    with opened(browser) as context:
        context.route(re.compile("^https?://"), answered)
        watched = Watched(context.new_page(), running).open()  # type: ignore[arg-type]
        yield watched
        watched.settle()
        assert (watched.complaints, foreign) == ([], [])


@pytest.fixture(scope="module")
def cup(folder: Path) -> Any:
    return handle_file(folder / "assets" / "examples" / "cup.jpg")


def say(running: Running) -> str:
    return running.log.read_text(encoding="utf-8", errors="replace")


def test_the_bound_on_torch_can_be_met_with_the_python_of_the_space(folder: Path, tmp_path: Path) -> None:
    """By the index alone: what is resolved here is not installed."""
    version = str(space.front_matter(folder)["python_version"])
    options = ["--dry-run", "--no-deps", "--ignore-installed", "--only-binary=:all:", "--python-version", version]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(tmp_path)]
    done = subprocess.run(
        [*command, "-r", str(folder / "requirements.txt")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"^Would install .*\btorch-([\d.]+)", done.stdout, re.MULTILINE)
    assert found is not None
    assert Version("2.8") <= Version(found[1]) < Version("2.12")


def test_a_visit_on_the_cpu_runs_every_tab(on_cpu: Running, browser: Browser) -> None:
    with visited(browser, on_cpu) as watched:
        page = watched.page
        assert len(best_labels(page)) == len(COMPARED)
        expect(page.locator("#footer")).to_contain_text("Runs on: CPU.")
        wait_for_new_result(page, lambda: example(page, 2).click())
        open_tab(page, "Explain")
        expect(page.locator("#explained .vd-picture canvas").first).to_be_visible()
        open_tab(page, "Segment")
        expect(page.locator("#segmented canvas").first).to_be_visible()
        open_tab(page, "Models")
        expect(page.get_by_role("button", name="Download google/vit-base-patch16-224", exact=True)).to_be_visible()
        expect(page.locator("#add-model")).to_have_count(0)


def journey(client: Client, cup: Any) -> list[str]:
    """Every endpoint once; returns where each ran."""
    names = {one["name"] for one in client.predict(api_name="/models")}
    assert {spec.name for spec in embedded_models()} <= names
    (classified,) = client.predict(cup, models=["vit-mini"], api_name="/classify")
    compared, figure = client.predict(cup, models=COMPARED, api_name="/compare")
    explained, overlay, arrays = client.predict(cup, model="beit-mini", method="legrad", api_name="/explain")
    rebuilt, _ = client.predict(cup, api_name="/reconstruct")
    segmented, _, archive = client.predict(cup, method="foreground", api_name="/segment")
    for path in (figure, overlay, arrays, archive):
        assert Path(path).stat().st_size > 1000
    return [one["dtype"] for one in (*classified["results"], *compared["results"], explained, rebuilt, segmented)]


def test_a_client_gets_all_endpoints_on_the_cpu(on_cpu: Running, cup: Any) -> None:
    client = Client(on_cpu.url, verbose=False)
    assert set(journey(client, cup)) == {"fp32"}
    client.close()
    assert "A handler failed" not in say(on_cpu)


def test_on_zerogpu_the_space_reports_its_start_and_each_call_of_a_client_is_one_loan(
    on_zero: Running, scheduler: Scheduler, cup: Any
) -> None:
    assert scheduler.reported.wait(5)
    client = Client(on_zero.url, verbose=False)
    # In bf16, as models are loaded for a GPU.
    assert set(journey(client, cup)) == {"bf16"}
    client.close()
    assert len(scheduler.asked) == 5
    assert max(scheduler.asked) <= 10
    assert scheduler.released == [False] * 5


def test_on_zerogpu_gradients_work_after_the_cpu_was_used(on_zero: Running, scheduler: Scheduler, cup: Any) -> None:
    client = Client(on_zero.url, verbose=False)

    def explained() -> Any:
        return client.predict(cup, model="vit-mini", method="relevance", target="top:2", api_name="/explain")[0]

    client.predict("CPU", api_name="/run_on")
    on_cpu = explained()
    assert (on_cpu["dtype"], scheduler.asked) == ("fp32", [])
    client.predict("GPU", api_name="/run_on")
    entry = client.predict(cup, model="vit-mini", method="grad-cam", target="top:3", api_name="/explain")[0]
    assert (entry["dtype"], len(scheduler.asked)) == ("bf16", 1)
    client.close()


TOKEN = "a." + base64.urlsafe_b64encode(b"{}").decode() + ".b"


@pytest.mark.parametrize(
    ("status", "kills", "headers", "said"),
    [
        (429, False, {"x-ip-token": TOKEN}, r"5 s are asked for, 2 s are left\. Try again in 4:00:00"),
        (429, False, {}, "shared by all visitors who are not signed in is used up"),
        (401, False, {}, "has expired. Reload the page"),
        (503, False, {}, "No GPU became free"),
        (500, False, {}, "does not answer"),
        (200, True, {}, "its process ended, before there was an answer"),
    ],
    ids=["quota", "shared-quota", "expired", "busy", "down", "killed"],
)
def test_what_goes_wrong_on_zerogpu_is_worded_with_an_offer_that_works(
    on_zero: Running, scheduler: Scheduler, cup: Any, status: int, kills: bool, headers: dict[str, str], said: str
) -> None:
    client = Client(on_zero.url, verbose=False, headers=headers)
    if kills:  # a worker that is warm is not asked again whether it may begin: it is ended first
        end_workers(on_zero.pid)
    scheduler.status, scheduler.kills = status, kills
    with pytest.raises(Exception, match=rf"{said}.*call /run_on with CPU"):
        client.predict(cup, models=["cnn-mini"], api_name="/classify")
    client.predict("CPU", api_name="/run_on")
    (found,) = client.predict(cup, models=["cnn-mini"], api_name="/classify")
    assert found["results"][0]["dtype"] == "fp32"
    client.close()


def end_workers(parent: int) -> None:
    """Those processes that the Space has forked."""
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    for pid in done.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    time.sleep(0.5)


def test_a_visit_on_zerogpu_costs_a_loan_for_each_photo_and_none_on_the_cpu(
    on_zero: Running, scheduler: Scheduler, browser: Browser
) -> None:
    with visited(browser, on_zero) as watched:
        page: Page = watched.page
        expect(page.locator("#footer")).to_contain_text("Runs on: ZeroGPU.")
        assert scheduler.asked == [], "to open the page costs nobody's quota"
        wait_for_new_result(page, lambda: example(page, 2).click())
        watched.settle()
        assert len(scheduler.asked) == 1
        assert len(best_labels(page)) == len(COMPARED)

        scheduler.status = 429
        example(page, 3).click()
        expect(page.get_by_text("Or choose CPU under Run on").first).to_be_visible()
        asked = len(scheduler.asked)
        wait_for_new_result(page, lambda: page.locator("#run-on").get_by_label("CPU", exact=True).check())
        wait_for_new_result(page, lambda: example(page, 4).click())
        watched.settle()
        assert len(scheduler.asked) == asked

        open_tab(page, "Live")
        expect(page.get_by_text("There is no Live on this server")).to_be_visible()
        open_tab(page, "Models")
        expect(page.get_by_text("Others cannot be fetched here")).to_be_visible()
        assert page.get_by_role("button", name=re.compile("^Download")).count() == 0
