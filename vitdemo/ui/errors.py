"""What a person reads when something fails: the worded errors of ours, and never anything else."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError
from gradio.utils import get_upload_folder, is_in_or_equal

from vitdemo.errors import ImageError, VitDemoError
from vitdemo.ui.photos import DecodedPhotos, current, using

logger = logging.getLogger("vitdemo")

NOT_UPLOADED = "That file was not uploaded to this server. Upload it, and try again."


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn whatever is raised inside into a `gr.Error`: any other exception would reach the user as `null`."""
    try:
        yield
    except gr.Error:
        raise
    except VitDemoError as error:
        raise worded(str(error)) from None
    except Exception:
        logger.exception("A handler failed")
        raise worded("Something went wrong on the server. It was logged; please try again.") from None


class Page(gr.Blocks):
    """`gr.Blocks` that opens photos with the app's settings, and has words for values that a component cannot take."""

    photos: DecodedPhotos | None = None

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> Any:
        if block_fn.api_visibility == "public":
            # Programs that send a list need not send what they leave open at its end.
            inputs = [*inputs, *(component.value for component in block_fn.inputs[len(inputs) :])]
        for index, (component, value) in enumerate(zip(block_fn.inputs, inputs, strict=False)):
            if in_one_form := getattr(component, "in_one_form", None):
                inputs[index] = in_one_form(value)
        # What fails here fails before any handler runs.
        with user_errors(), using(self.photos or current()):
            try:
                return await super().preprocess_data(block_fn, inputs, *arguments, **options)
            except gr.Error:
                raise
            except InvalidPathError:
                raise worded(NOT_UPLOADED) from None
            except (TypeError, ValueError) as error:
                logger.warning("A value of the wrong form: %s", error)
                raise worded("A value is not of the form that is expected here.") from None


def worded(message: str) -> gr.Error:
    """The page shows messages as HTML, and they may hold what a user typed."""
    return gr.Error(html.escape(message, quote=False), print_exception=False)


def uploaded(path: str) -> str:
    """The path, if it is one that Gradio gave to an upload: what a page sends is not to be believed.

    Raises:
        ImageError: another file of this machine.
    """
    if not path or not is_in_or_equal(path, get_upload_folder()):
        raise ImageError(NOT_UPLOADED)
    return path
