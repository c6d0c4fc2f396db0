"""What other sites are told of the page, as a program without scripts reads it."""

from __future__ import annotations

import io
import re
from collections import Counter
from html.parser import HTMLParser

import httpx
from PIL import Image

from tests.served import App
from vitdemo.ui.preview import tags


class Metas(HTMLParser):
    """The `meta` elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag == "meta" and (name := named.get("property") or named.get("name")):
            self.found.append((name, named.get("content") or ""))


def test_a_link_to_the_page_is_shown_with_our_title_words_and_picture(app: App) -> None:
    answer = httpx.get(app.url, headers={"accept-encoding": "identity"})
    metas = Metas(answer.text).found
    assert max(Counter(name for name, _ in metas).values()) == 1
    found = dict(metas)
    for name, value in found.items():
        if name.startswith(("og:", "twitter:")):
            assert "gradio" not in value.lower(), name
    assert found["og:title"] == found["twitter:title"] == "vitdemo: what Vision Transformers see"
    assert "Drop a photo" in found["og:description"]
    assert found["og:url"] == app.url
    picture = httpx.get(found["og:image"])
    assert picture.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(picture.content)) as image:
        assert image.size == (1200, 630)
    # Under a sub-path of a proxy nothing else would lead there.
    assert not re.search(r'<(link|script)[^>]+(href|src)="/', answer.text)
    # The page itself is whole.
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "window.gradio_config" in answer.text
    assert httpx.head(app.url).status_code in (200, 405)


def test_behind_a_proxy_the_address_is_the_one_that_visitors_see(app: App) -> None:
    headers = {"X-Forwarded-Host": "demo.example", "X-Forwarded-Proto": "https"}
    found = dict(Metas(httpx.get(app.url, headers=headers).text).found)
    assert found["og:image"] == "https://demo.example/preview.jpg"


def test_a_forged_host_stays_text() -> None:
    assert "<script>" not in tags('https://a"><script>/')
