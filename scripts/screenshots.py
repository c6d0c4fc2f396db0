"""Take the documentation's pictures anew: `python -m scripts.screenshots URL [NAME ...]` on a running app."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageSequence
from playwright.sync_api import Page

from tests.browser.driver import film, launched, opened
from vitdemo.settings import ASSETS

SHOTS = [
    ("compare", 1440, 1020, "light", "Compare", "Sunflower"),
    ("compare-dark", 1440, 1020, "dark", "Compare", "Kangaroo"),
    ("compare-phone", 390, 1500, "light", "Compare", "Crocodile"),
    ("explain-dark", 1440, 1000, "dark", "Explain", "Pyramid"),
    ("explain-phone", 390, 1500, "dark", "Explain", "Crab"),
    ("mae", 1440, 1000, "light", "Explain", "Sunflower"),
    ("segment", 1440, 1000, "light", "Segment", "Crab"),
    ("segment-phone", 390, 1500, "dark", "Segment", "Crab"),
    ("inside", 1440, 900, "light", "Inside", "Sunflower"),
    ("live", 1440, 900, "light", "Live", "Sunflower"),
    ("train", 1440, 1000, "light", "Train", "Kangaroo"),
    ("models", 1440, 900, "light", "Models", "Sunflower"),
]


def main(url: str, only: Sequence[str] = ()) -> None:
    """All shots, or those of these names."""
    folder = ASSETS / "screenshots"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, launched(film(Path(temporary) / "film.mjpeg")) as browser:
        for name, width, height, scheme, tab, example in SHOTS:
            if only and name not in only:
                continue
            with opened(browser, width, height, color_scheme=scheme) as context:
                page = context.new_page()
                page.goto(f"{url}?tab=explain&model=mae-mini" if name == "mae" else url)
                page.wait_for_function("window.vitdemoOpened")
                # The camera's tab and the list of models have no photo.
                page.locator("#examples").get_by_role("button", name=example).click()
                page.evaluate("window.settled()")
                page.get_by_role("tab", name=tab).click()
                page.evaluate("window.settled()")
                if tab == "Inside":
                    page.locator("#inside .vd-steps [data-step=layers]").click()
                    page.evaluate("window.settled()")
                    # The layer after which it has just been decided.
                    page.locator("#inside [name=read]").fill("6")
                if tab == "Live":
                    page.locator("#live .vd-start").click()
                    page.locator("#live [data-model]").wait_for()
                if name == "explain-dark":
                    page.locator("#explained .vd-heads summary").click()
                page.mouse.move(0, 0)
                if name == "mae":
                    page.locator("#rebuilt").scroll_into_view_if_needed()
                # Colours that are on their way to others are not what a person sees.
                page.evaluate("Promise.all(document.getAnimations().map((one) => one.finished.catch(() => {})))")
                page.screenshot(path=folder / f"{name}.png")


@contextmanager
def sunflower(url: str, models: str) -> Iterator[Page]:
    """Compare with these models on the first example."""
    with (
        tempfile.TemporaryDirectory() as temporary,
        launched(film(Path(temporary) / "film.mjpeg")) as browser,
        opened(browser, 1440, 1000) as context,
    ):
        page = context.new_page()
        page.goto(f"{url}?image=sunflower&models={models}")
        page.wait_for_function("window.vitdemoOpened")
        page.evaluate("window.settled()")
        yield page


def layers(url: str) -> None:
    """The attention of three models through their layers, as **Save animation** makes it, made small for the README."""
    with sunflower(url, "vit-mini,dino-mini,hybrid-mini") as page:
        with page.expect_download() as download:
            page.locator("#compared").get_by_role("button", name="Save animation").click()
        with Image.open(download.value.path()) as film_of_layers:
            frames = [
                frame.convert("RGB").resize(_small(frame.size)) for frame in ImageSequence.Iterator(film_of_layers)
            ]
            pace = film_of_layers.info["duration"]
        palette = frames[0].quantize(128)
        first, *others = [frame.quantize(palette=palette) for frame in frames]
        path = ASSETS / "screenshots" / "layers.gif"
        first.save(path, save_all=True, append_images=others, duration=pace, loop=0, optimize=True)


def _small(size: tuple[int, int], width: int = 720) -> tuple[int, int]:
    return width, round(size[1] * width / size[0])


def preview(url: str) -> None:
    """What other sites show of a link: the models side by side, 1200 x 630."""
    with sunflower(url, "vit-mini,dino-mini,beit-mini") as page:
        # The panels alone, as if they were the page.
        page.evaluate(PANELS)
        page.set_viewport_size({"width": 1200, "height": 630})
        page.evaluate("window.settled()")
        page.screenshot(path=ASSETS / "preview.jpg", type="jpeg", quality=85)


PANELS = """() => {
    const cover = document.createElement("div");
    cover.id = "cover";
    cover.style.cssText = "position:fixed;inset:0;z-index:99999;background:#fff;display:grid;align-content:center;padding:0 60px";
    const heading = document.createElement("h1");
    heading.textContent = "What Vision Transformers see";
    heading.style.cssText = "font:650 46px system-ui,sans-serif;color:#0f172a;margin:0 0 24px;text-align:center";
    const row = document.createElement("div");
    row.style.cssText = "display:grid;grid-template-columns:repeat(3,1fr);gap:32px;font:600 22px system-ui;color:#0f172a";
    for (const panel of [...document.querySelectorAll("#compared .vd-panel")]) {
        const one = document.createElement("div"), image = new Image();
        image.src = panel.querySelector("canvas").toDataURL();
        image.style.cssText = "width:100%;height:330px;object-fit:cover;border-radius:8px;display:block";
        const words = document.createElement("p");
        words.textContent = `${panel.querySelector(".vd-best .vd-label")?.textContent ?? ""}`;
        words.style.cssText = "margin:10px 0 0";
        const name = document.createElement("p");
        name.textContent = panel.getAttribute("aria-label");
        name.style.cssText = "margin:2px 0 0;font-weight:400;color:#475569";
        one.append(image, words, name);
        row.append(one);
    }
    cover.append(heading, row);
    document.body.append(cover);
}"""


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
    if not sys.argv[2:]:
        layers(sys.argv[1])
        preview(sys.argv[1])
