"""What a person reads when something fails: the worded errors of ours, and never anything else."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.blocks import Block
from gradio.exceptions import InvalidPathError
from gradio_client import utils as client_utils

from vitdemo.engine.left import working_for
from vitdemo.errors import VitDemoError
from vitdemo.ui.fair_queue import FairQueue
from vitdemo.ui.given import NOT_UPLOADED, files_in
from vitdemo.ui.photos import DecodedPhotos, current, using

if TYPE_CHECKING:
    from vitdemo.ui.choose_runs import ChooseRuns
    from vitdemo.ui.training_runs import TrainingRuns

logger = logging.getLogger("vitdemo")


class WordedError(gr.Error):
    """One whose message is ours, with all else in it escaped."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn whatever is raised inside into a `WordedError`: Gradio's own may hold what a user sent, any other would be `null`."""
    try:
        yield
    except WordedError:
        raise
    except gr.Error as error:
        raise worded(error.message) from None
    except VitDemoError as error:
        raise worded(str(error)) from None
    except Exception:
        logger.exception("A handler failed")
        raise worded("Something went wrong on the server. It was logged; please try again.") from None


class Page(gr.Blocks):
    """`gr.Blocks` that opens photos with the app's settings, and has words for values that a component cannot take."""

    photos: DecodedPhotos | None = None
    training: TrainingRuns | None = None
    choosing: ChooseRuns | None = None
    """Both where there is a tab for it."""

    async def preprocess_data(self, block_fn: BlockFunction, inputs: list[Any], *arguments: Any, **options: Any) -> Any:
        if block_fn.api_visibility == "public":
            # Programs that send a list need not send what they leave open at its end.
            inputs = [*inputs, *(getattr(component, "value", None) for component in block_fn.inputs[len(inputs) :])]
        for index, (component, value) in enumerate(zip(block_fn.inputs, inputs, strict=False)):
            if in_one_form := getattr(component, "in_one_form", None):
                inputs[index] = in_one_form(value)
        # What fails here fails before any handler runs.
        with user_errors(), using(self.photos or current()):
            for block, value in zip(block_fn.inputs, inputs, strict=False):
                _refuse_urls(block, value)
            try:
                return await super().preprocess_data(block_fn, inputs, *arguments, **options)
            except gr.Error:
                raise
            except InvalidPathError:
                raise worded(NOT_UPLOADED) from None
            except (TypeError, ValueError) as error:
                # Its first line: what follows repeats all that was sent.
                logger.warning("A value of the wrong form: %s", str(error).partition("\n")[0][:300])
                raise worded("A value is not of the form that is expected here.") from None

    async def process_api(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        assert isinstance(self._queue, FairQueue)
        has_left = partial(self._queue.has_left, options.get("event_id"))
        with user_errors(), working_for(has_left):
            return await super().process_api(*arguments, **options)

    def close(self, *arguments: Any, **options: Any) -> None:
        for runs in (self.training, self.choosing):
            if runs is not None:
                runs.close()
        super().close(*arguments, **options)

    def queue(self, *arguments: Any, **options: Any) -> Page:
        super().queue(*arguments, **options)
        self._queue = FairQueue(self._queue)
        return self


def _refuse_urls(block: Block, value: Any) -> None:
    """Gradio fetches what is given as a file at an address, whatever the component, and past our own checks."""
    own_checks = type(block).async_move_resource_to_block_cache is not Block.async_move_resource_to_block_cache
    if not own_checks and any(client_utils.is_http_url_like(path) for path in files_in(value)):
        raise worded("Only an image may be given as an address.")


def worded(message: str) -> WordedError:
    """The page shows messages as HTML, and they may hold what a user typed."""
    return WordedError(html.escape(message, quote=False), print_exception=False)
