"""The running app as an agent uses it: the official client, over streamable HTTP."""

from __future__ import annotations

import base64
import inspect
import io
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import anyio
import httpx
import numpy as np
import pytest
from mcp import ClientSession, types
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from tests.hostile import REFUSED
from tests.served import App, serving
from vitdemo.errors import SettingsError
from vitdemo.options.methods import METHODS
from vitdemo.options.segment import METHODS as SEGMENTATIONS
from vitdemo.registry import get_spec, ready_models
from vitdemo.settings import ROOT, Settings
from vitdemo.ui import mcp_server
from vitdemo.ui.answers import answers
from vitdemo.ui.mcp_tools import MAX_IMAGE_BYTES, MAX_SIDE, jpeg

EXAMPLES = ROOT / "assets" / "examples"
CUP = "data:image/jpeg;base64," + base64.b64encode((EXAMPLES / "cup.jpg").read_bytes()).decode()
READY = [spec.name for spec in ready_models()]
TOOLS = {"classify", "compare", "explain", "segment", "models"}

Result = TypeVar("Result")


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The running app, open to agents."""
    with serving(tmp_path_factory.mktemp("gradio"), mcp=True) as served:
        yield served


def talk(app: App, use: Callable[[ClientSession], Awaitable[Result]]) -> Result:
    """Connect as a client does, and use the session."""

    async def connected() -> Result:
        async with (
            streamable_http_client(f"{app.url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            started = await session.initialize()
            assert started.serverInfo.name == "vitdemo"
            assert "Vision Transformers" in (started.instructions or "")
            return await use(session)

    # In a thread of its own: the browser's tests keep a loop in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(anyio.run, connected).result()


def call(app: App, name: str, **arguments: Any) -> types.CallToolResult:
    return talk(app, lambda session: session.call_tool(name, arguments))


def parts(result: types.CallToolResult) -> tuple[Any, bytes | None]:
    """JSON and picture of an answer."""
    assert not result.isError, result.content
    first, *others = result.content
    assert isinstance(first, types.TextContent)
    if not others:
        return json.loads(first.text), None
    (second,) = others
    assert isinstance(second, types.ImageContent)
    assert second.mimeType == "image/jpeg"
    return json.loads(first.text), base64.b64decode(second.data)


def words(result: types.CallToolResult) -> str:
    """What an answer says is wrong."""
    assert result.isError
    (only,) = result.content
    assert isinstance(only, types.TextContent)
    assert "Traceback" not in only.text
    assert str(ROOT) not in only.text
    return only.text


def steady(entry: Any) -> Any:
    """Without times, which differ from call to call."""
    if isinstance(entry, dict):
        return {key: steady(value) for key, value in entry.items() if key != "ms"}
    return [steady(item) for item in entry] if isinstance(entry, list) else entry


def test_the_tools_are_these_and_each_parameter_is_described(agents: App) -> None:
    tools = {tool.name: tool for tool in talk(agents, lambda session: session.list_tools()).tools}
    assert set(tools) == TOOLS
    asked = answers(agents.pipeline)
    for name, tool in tools.items():
        properties = tool.inputSchema["properties"]
        assert list(properties) == list(inspect.signature(asked[name]).parameters)
        assert tool.inputSchema["required"] == (["image"] if name != "models" else [])
        assert len(tool.description or "") > 60
        for parameter, its in properties.items():
            assert len(its["description"]) > 10, (name, parameter)
            assert "empty means" in its["description"] or "default" in its or parameter in ("image", "method"), (
                parameter
            )
    assert tools["explain"].inputSchema["properties"]["model"]["enum"] == READY
    assert tools["compare"].inputSchema["properties"]["models"]["items"]["enum"] == READY
    assert tools["explain"].inputSchema["properties"]["method"]["enum"] == list(METHODS)
    assert tools["segment"].inputSchema["properties"]["method"]["enum"] == list(SEGMENTATIONS)


@pytest.mark.thorough
def test_defaults_of_the_schemas_are_those_of_the_answers(agents: App) -> None:
    async def both(session: ClientSession) -> None:
        for tool in (await session.list_tools()).tools:
            if tool.name == "models":
                continue
            its = tool.inputSchema["properties"]
            defaults = {name: field["default"] for name, field in its.items() if "default" in field}
            bare = parts(await session.call_tool(tool.name, {"image": CUP}))
            full = parts(await session.call_tool(tool.name, {"image": CUP, **defaults}))
            assert steady(bare[0]) == steady(full[0]), tool.name
            assert bare[1] == full[1]

    talk(agents, both)


@pytest.mark.thorough
@pytest.mark.parametrize("image", [CUP, "{url}preview.jpg"], ids=["data URL", "URL"])
def test_classify_gives_the_labels_of_the_pipeline(agents: App, image: str) -> None:
    address = image.format(url=agents.url)
    (entry,), picture = parts(call(agents, "classify", image=address, models=["vit-mini", "cnn-mini"], top_k=2))
    photo = agents.pipeline.open(address)
    assert picture is None
    assert entry["image"] == ("preview.jpg" if "{" in image else "")
    for result, name in zip(entry["results"], ("vit-mini", "cnn-mini"), strict=True):
        expected = agents.pipeline.classify([photo], get_spec(name), top_k=2)[0].labels
        assert [label["label"] for label in result["labels"]] == [label.label for label in expected]
        assert result["labels"][0]["score"] == pytest.approx(expected[0].score, rel=1e-3)


@pytest.mark.parametrize(
    ("tool", "options", "size"),
    [
        ("explain", {"model": "dino-mini", "layer": 0, "head": 2}, (400, 400)),
        ("explain", {"method": "relevance", "target": "cup"}, (400, 400)),
        ("segment", {"method": "parts", "parts": 3}, (600, 400)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_map_comes_as_json_and_as_a_picture(
    agents: App, tool: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    result = call(agents, tool, image=CUP, **options)
    entry, picture = parts(result)
    text = result.content[0].text  # type: ignore[union-attr]
    assert "\n" not in text
    assert ": " not in text.replace(entry.get("description", "-"), "").replace(entry.get("note", "-"), "")
    assert picture is not None
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == size
    if "head" in options:
        assert (entry["model"], entry["layer"], entry["head"]) == ("dino-mini", 0, 2)
    if "target" in options:
        assert entry["target"]["label"] == "cup"


def test_compare_shows_several_models_in_one_figure(agents: App) -> None:
    entry, picture = parts(call(agents, "compare", image=CUP, models=["vit-mini", "dino-mini"]))
    assert [result["model"] for result in entry["results"]] == ["vit-mini", "dino-mini"]
    assert entry["agreement"][0]["models"] == ["vit-mini", "dino-mini"]
    assert picture is not None
    with Image.open(io.BytesIO(picture)) as figure:
        assert figure.width > 600


def test_models_lists_what_can_be_used(agents: App) -> None:
    entry, _ = parts(call(agents, "models"))
    assert [model["name"] for model in entry] == READY
    assert all(model["methods"] for model in entry if model["name"] != "mae-mini")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("explain", {"model": "resnet-9000"}, "Unknown model 'resnet-9000'. Choose from: vit-mini"),
        ("explain", {"model": "facebook/dinov2-base"}, "facebook/dinov2-base is not on this machine"),
        ("classify", {"models": ["vit-mini", "<b>"]}, "Unknown model '<b>'"),
        ("explain", {"method": "magic"}, "Unknown method 'magic'. Choose from: attention"),
        ("segment", {"method": "magic"}, "Choose from: attention, foreground"),
        ("explain", {"layer": 99}, "There is no layer 99"),
        ("explain", {"layer": "last"}, "layer must be a whole number, not 'last'"),
        ("explain", {"layer": 1.5}, "layer must be a whole number, not '1.5'"),
        ("explain", {"faithfulness": "perhaps"}, "faithfulness must be true or false"),
        ("segment", {"tau": [0.5]}, "tau must be a number"),
        ("segment", {"objects": 1e30}, "The number of objects must be 1 to 10"),
        ("explain", {"colour": "red"}, "There is no argument 'colour'. Use: image, model"),
        ("explain", {"target": "unicorn", "method": "relevance"}, "has no class 'unicorn'"),
        ("explain", {"point": "here", "method": "similarity"}, "The point 'here' is not X,Y"),
        ("explain", {"image": None}, "Give the image as a URL"),
        ("explain", {"image": "/etc/passwd"}, "cannot be read from here"),
        ("explain", {"image": "file:///etc/passwd"}, "cannot be read from here"),
        ("explain", {"image": "http://169.254.169.254/latest/meta-data"}, "not public"),
        ("explain", {"image": "http://[::1]/a.png"}, "not public"),
        ("explain", {"image": "https://nowhere.invalid/cup.jpg"}, "The host was not found"),
        ("explain", {"image": "{url}gradio_api/info"}, "Not a readable image"),
        ("explain", {"image": "{url}static/none.jpg"}, "404"),
        ("explain", {"image": "data:image/png;base64,iVBORw0KGgo="}, "cut off"),
        ("explain", {"image": "data:image/png;base64," + "A" * 13_400_000}, "10 MB"),
        ("reconstruct", {}, "There is no tool 'reconstruct'. Use: classify"),
        ("on_compare", {}, "There is no tool"),
    ],
)
def test_what_is_wrong_is_said_in_words(agents: App, tool: str, arguments: dict[str, Any], expected: str) -> None:
    given = {"image": CUP, **arguments}
    if isinstance(given["image"], str):
        given["image"] = given["image"].replace("{url}", agents.url)
    before = agents.forwards
    assert expected in words(call(agents, tool, **given))
    assert agents.forwards == before


def test_files_that_are_no_images_are_refused_without_a_forward_pass(agents: App) -> None:
    before = agents.forwards

    async def all_of_them(session: ClientSession) -> None:
        for case in REFUSED:
            image = "data:image/png;base64," + base64.b64encode(case.data).decode()
            said = words(await session.call_tool("classify", {"image": image}))
            assert (case.refusal or "") in said or "There is no image" in said, case.file

    talk(agents, all_of_them)
    assert agents.forwards == before


@pytest.mark.thorough
def test_an_overlay_of_megabytes_is_reduced(agents: App) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1600, 2400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=70)
    assert buffer.tell() > 2_000_000
    image = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    _, picture = parts(call(agents, "explain", image=image))
    assert picture is not None
    assert 100_000 < len(picture) <= MAX_IMAGE_BYTES


def test_a_picture_keeps_its_size_as_long_as_it_fits() -> None:
    plain = Image.new("RGB", (MAX_SIDE, 1000), "navy")
    assert Image.open(io.BytesIO(jpeg(plain))).size == (MAX_SIDE, 1000)
    assert Image.open(io.BytesIO(jpeg(plain.resize((2 * MAX_SIDE, 2000))))).size == (MAX_SIDE, 1000)
    assert Image.open(io.BytesIO(jpeg(Image.new("RGBA", (8000, 1))))).size == (MAX_SIDE, 1)
    assert len(jpeg(plain, limit=10)) < 2000


def test_urls_are_not_fetched_where_the_settings_forbid_it(agents: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.pipeline, "settings", Settings(url_input=False))
    assert "URLs are not fetched here" in words(call(agents, "classify", image=f"{agents.url}preview.jpg"))


@pytest.mark.thorough
def test_a_client_that_leaves_takes_nothing_with_it(agents: App, caplog: pytest.LogCaptureFixture) -> None:
    question = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "segment", "arguments": {"image": CUP, "refine": True}},
    }
    headers = {"Accept": "application/json, text/event-stream"}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{agents.url}gradio_api/mcp/", json=question, headers=headers, timeout=0.05)
        (entry,), _ = parts(call(agents, "classify", image=CUP))
    assert entry["results"][0]["labels"]
    assert not [record for record in caplog.records if record.exc_info]


def test_a_server_that_is_busy_says_so(agents: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.pipeline, "settings", Settings(max_queue=0))
    assert "busy" in words(call(agents, "models"))


def test_a_browser_is_told_what_the_address_is_for(agents: App) -> None:
    answer = httpx.get(f"{agents.url}gradio_api/mcp/", headers={"Accept": "text/html"})
    assert answer.status_code == 200
    assert "give this address to an MCP client" in answer.text


def test_the_page_and_the_hub_are_told_of_the_tools(agents: App) -> None:
    assert httpx.get(f"{agents.url}config").json()["mcp_server"] is True
    assert {tool["name"] for tool in httpx.get(f"{agents.url}gradio_api/mcp/schema").json()} == TOOLS


def test_without_being_asked_to_the_app_is_no_mcp_server(app: App) -> None:
    assert httpx.get(f"{app.url}config").json()["mcp_server"] is False
    for path in ("", "schema"):
        assert httpx.get(f"{app.url}gradio_api/mcp/{path}").status_code == 404


def test_on_a_space_mcp_is_on_unless_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not mcp_server.wanted(Settings())
    monkeypatch.setenv("SPACE_ID", "someone/vitdemo")
    assert mcp_server.wanted(Settings())
    assert not mcp_server.wanted(Settings(mcp=False))


@pytest.mark.thorough
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("SPACE_ID", "someone/vitdemo")
    assert not mcp_server.wanted(Settings())
    with pytest.raises(SettingsError, match="pip install"):
        mcp_server.wanted(Settings(mcp=True))
