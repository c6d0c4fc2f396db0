"""What strangers may ask the running app for: which routes, under which names, from which sites, and how much at once."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import httpx
import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers

from tests.hostile import encode, photo
from tests.served import App
from vitdemo.settings import Settings
from vitdemo.ui.hosts import may_ask, sites
from vitdemo.ui.routes import CLOSED, OPEN, is_open

PHOTO = {"files": ("a.png", encode(photo(), "PNG"))}


def paths_of(server: FastAPI) -> set[str]:
    """Every route, also of routers that are included, without the slash that some have at their end."""

    def walk(routes: list[Any]) -> Iterator[str]:
        for route in routes:
            if hasattr(route, "effective_candidates"):
                yield from walk(route.effective_candidates())
                yield from walk(route.effective_low_priority_routes())
            else:
                yield getattr(route, "path", None) or route.original_route.path

    return {path.rstrip("/") or "/" for path in walk(list(server.routes))}


def test_every_route_of_gradio_is_listed_as_open_or_closed_and_every_listed_one_exists(app: App) -> None:
    found = paths_of(app.page.app)
    assert len(found) > 50
    assert found - OPEN.keys() - CLOSED.keys() == set(), "new routes: open them in vitdemo/ui/routes.py, or close them"
    # The MCP server is not on.
    assert {path for path in OPEN.keys() | CLOSED.keys() if "/mcp" not in path} - found == set()
    assert not OPEN.keys() & CLOSED.keys()


def filled(path: str) -> str:
    return re.sub(r"{\w+(:path)?}", "x", path)


@pytest.mark.parametrize("path", [*CLOSED, "/new", "/gradio_api/new/x"])
def test_closed_and_unknown_routes_are_refused(app: App, path: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        assert httpx.request(method, f"{app.url}{filled(path)[1:]}").status_code == 403
        assert not is_open(f"{filled(path)}/")


class Recorder(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture(scope="module")
def stranger() -> Iterator[str]:
    """Address of a server that must never be asked."""
    server = HTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    "route",
    [
        "file=http://HOST/a.png",
        "file/http://HOST/a.png",
        "file/https://HOST/a.png",
        "file/http%3A%2F%2FHOST/a.png",
        "file%2Fhttp://HOST/a.png",
        "file%3Dhttp://HOST/a.png",
        "f%69le=http://HOST/a.png",
        "file=HTTP://HOST/a.png",
        "file=%20http://HOST/a.png",
        "file=ftp://HOST/a.png",
        "file=//HOST/a.png",
        "proxy=http://HOST/",
        "PROXY=http://HOST/",
    ],
)
def test_no_route_fetches_for_strangers(app: App, stranger: str, monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    # As if that address were a public one, which Gradio's own check lets through.
    import safehttpx

    async def public(host: str) -> str:
        return host

    monkeypatch.setattr(safehttpx, "async_validate_url", public)
    for method in ("GET", "HEAD"):
        assert httpx.request(method, f"{app.url}gradio_api/{route.replace('HOST', stranger)}").status_code == 403
    assert Recorder.asked == []


def test_uploads_and_assets_are_served_as_files(app: App) -> None:
    (path,) = httpx.post(f"{app.url}gradio_api/upload", files=PHOTO).json()
    assert httpx.get(f"{app.url}gradio_api/file={path}").content == PHOTO["files"][1]


def ask(app: App, endpoint: str, **given: Any) -> str:
    """The last event of an answer, as text."""
    url = f"{app.url}gradio_api/call/v2/{endpoint}"
    event = httpx.post(url, json=given).json()["event_id"]
    return httpx.get(f"{url}/{event}", timeout=60).text.strip().rpartition("\n\n")[2]


def uploaded(app: App) -> dict[str, Any]:
    (path,) = httpx.post(f"{app.url}gradio_api/upload", files=PHOTO).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_no_other_value_than_a_photo_makes_the_server_fetch(
    app: App, stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradio import processing_utils

    fetched: list[str] = []

    async def fetch(url: str, *_: Any, **__: Any) -> str:
        fetched.append(url)
        return __file__

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", fetch)
    hidden = {"path": f"http://{stranger}/a.png", "meta": {"_type": "gradio.FileData"}}
    image = uploaded(app)
    for models in ([hidden], hidden, [[{"a": hidden}]]):
        assert "may be given as an address" in ask(app, "classify", image=image, models=models)
    assert fetched == []


def stream_body(app: App, session: str, event_data: Any) -> dict[str, Any]:
    """A frame of Live, as its page sends it."""
    (frame,) = [fn for fn in app.page.fns.values() if fn.connection == "stream"]
    return {"data": ["vit-mini"], "fn_index": frame._id, "session_hash": session, "event_data": event_data}


@pytest.mark.parametrize("path", [__file__, "http://100.64.0.1/a.png", "<form>"])
def test_what_an_event_says_of_itself_names_no_files(app: App, path: str) -> None:
    """Gradio would fetch, copy or name the file that comes back in an answer."""
    body = stream_body(app, "names", {"number": {"path": path, "meta": {"_type": "gradio.FileData"}}})
    answer = httpx.post(f"{app.url}gradio_api/queue/join", json=body)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("That file was not uploaded")


def test_an_event_may_name_what_its_page_has_uploaded(app: App) -> None:
    body = stream_body(app, "uploads", {"number": 1, "image": uploaded(app)})
    answer = httpx.post(f"{app.url}gradio_api/queue/join", json=body)
    assert answer.status_code == 200
    httpx.post(f"{app.url}gradio_api/stream/{answer.json()['event_id']}/close")


EVIL = "https://evil.example"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7860", "evil.example."]
)
def test_a_name_that_is_not_ours_gets_no_answer(app: App, host: str) -> None:
    for path in ("", "config", "gradio_api/queue/status"):
        answer = httpx.get(f"{app.url}{path}", headers={"host": host})
        assert answer.status_code == 403
        assert "VITDEMO_HOSTS" in answer.text


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:1", "192.168.0.7:7860", "[::1]:7860", "[fe80::1]", "app.localhost"]
)
def test_addresses_and_localhost_need_no_list(app: App, host: str) -> None:
    assert httpx.get(f"{app.url}gradio_api/queue/status", headers={"host": host}).status_code == 200


def test_the_machines_own_name_needs_no_list(app: App) -> None:
    import socket

    assert httpx.get(f"{app.url}gradio_api/app_id", headers={"host": f"{socket.gethostname()}:7860"}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "192.168.0.7:7860"])
@pytest.mark.parametrize("origin", [EVIL, "null", "http://127.0.0.1:9", "http://192.168.0.8", "file://"])
def test_pages_of_other_sites_upload_nothing_and_read_nothing(app: App, host: str, origin: str) -> None:
    headers = {"host": host, "origin": origin}
    preflight = {**headers, "access-control-request-method": "POST"}
    answers = [
        httpx.post(f"{app.url}gradio_api/upload", files=PHOTO, headers=headers),
        httpx.post(f"{app.url}gradio_api/queue/join", json={"data": []}, headers=headers),
        httpx.get(f"{app.url}config", headers=headers),
        httpx.options(f"{app.url}gradio_api/upload", headers=preflight),
    ]
    for answer in answers:
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "192.168.0.7:7860", "origin": "http://192.168.0.7:7860"},
        {"host": "localhost", "origin": "https://localhost"},
        # Behind proxies that call this server by its address.
        {"origin": "https://vit.example", "x-forwarded-host": "vit.example"},
        {"origin": "https://vit.example", "sec-fetch-site": "same-origin"},
    ],
)
def test_its_own_page_and_programs_upload(app: App, headers: dict[str, str]) -> None:
    assert httpx.post(f"{app.url}gradio_api/upload", files=PHOTO, headers=headers).status_code == 200


def test_names_of_the_setting_and_of_a_space_may_be_used_and_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_HOST", "me-vit.hf.space,vit.example")
    listed = sites(Settings(hosts=("*.lab.example:7860",)))
    for origin, allowed in (
        ("https://me-vit.hf.space", True),
        ("https://vit.example", True),
        ("http://a.lab.example", True),
        ("http://lab.example", False),
        ("https://you-vit.hf.space", False),
        ("null", False),
    ):
        assert may_ask(Headers({"host": "x.example", "origin": origin}), listed) is allowed
    assert not may_ask(Headers({"host": "x.example", "origin": "null"}), ["*"])


@pytest.mark.parametrize("endpoint", ["classify", "compare"])
def test_a_model_that_is_named_a_thousand_times_runs_once(app: App, endpoint: str) -> None:
    before = app.forwards
    answer = ask(app, endpoint, image=uploaded(app), models=["vit-mini"] * 1000)
    assert answer.startswith("event: complete")
    found = json.loads(answer.partition("data: ")[2])[0]
    assert [one["model"] for one in (found[0] if endpoint == "classify" else found)["results"]] == ["vit-mini"]
    assert app.forwards <= before + 1


@pytest.mark.parametrize("endpoint", ["classify", "compare"])
def test_more_models_than_one_call_may_name_are_refused(app: App, endpoint: str) -> None:
    before = app.forwards
    names = [f"model-{index}" for index in range(17)]
    answer = ask(app, endpoint, image=uploaded(app), models=names)
    assert "17 models were named; the limit is 16" in answer
    assert app.forwards == before


def test_an_answer_that_does_not_exist_is_said_in_words(app: App) -> None:
    answer = httpx.get(f"{app.url}gradio_api/call/classify/nothing")
    assert (answer.status_code, answer.text) == (404, "There is no such answer, or no longer. Ask again.")


@pytest.mark.thorough
def test_no_forward_pass_begins_for_a_client_that_has_left(app: App) -> None:
    url = f"{app.url}gradio_api/call/v2/explain"
    given = {"image": uploaded(app), "model": "vit-mini", "method": "legrad", "faithfulness": True}
    before = app.forwards
    event = httpx.post(url, json=given).json()["event_id"]
    with httpx.stream("GET", f"{url}/{event}"):
        while app.forwards == before:
            time.sleep(0.001)
    time.sleep(0.3)
    begun = app.forwards
    # A whole measurement has 13 of them, for 200 pictures.
    assert begun - before < 6
    time.sleep(0.5)
    assert app.forwards == begun


def sent(app: App, path: str, encoding: str, **headers: str) -> tuple[httpx.Response, int]:
    """The answer, and how many bytes of it travelled."""
    with httpx.stream("GET", f"{app.url}{path}", headers={"accept-encoding": encoding, **headers}) as answer:
        answer.read()
        return answer, answer.num_bytes_downloaded


@pytest.mark.parametrize("path", ["", "config"])
def test_the_page_travels_compressed(app: App, path: str) -> None:
    plain, whole = sent(app, path, "identity")
    for encoding in ("br", "gzip"):
        answer, travelled = sent(app, path, encoding)
        assert answer.headers["content-encoding"] == encoding
        assert answer.content == plain.content
        assert travelled < 0.45 * whole


def test_a_page_that_has_not_changed_does_not_travel_again(app: App) -> None:
    answer, _ = sent(app, "", "br")
    again, travelled = sent(app, "", "br", **{"if-none-match": answer.headers["etag"]})
    assert (again.status_code, travelled) == (304, 0)
    assert sent(app, "", "br", **{"if-none-match": 'W/"other"'})[0].status_code == 200


def test_files_that_never_change_are_kept_by_browsers(app: App) -> None:
    (script,) = re.findall(r'src="\./(assets/[^"]+\.js)"', httpx.get(app.url).text)
    assert httpx.get(f"{app.url}{script}").headers["cache-control"] == "public, max-age=31536000"
    assert httpx.get(f"{app.url}favicon.ico").headers["cache-control"] == "public, max-age=86400"
    assert "cache-control" not in httpx.get(f"{app.url}assets/no.js").headers
    assert "max-age" not in httpx.get(f"{app.url}config").headers.get("cache-control", "")


def test_event_streams_are_not_held_back_by_compression(app: App) -> None:
    event = httpx.post(f"{app.url}gradio_api/call/v2/models", json={}).json()["event_id"]
    answer, _ = sent(app, f"gradio_api/call/v2/models/{event}", "br, gzip")
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-type"].startswith("text/event-stream")
