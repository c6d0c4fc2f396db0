"""What the `spaces` package raises instead of an answer, in words that name a way out.

Its errors are `gr.Error`s told apart by their titles and texts (spaces 0.51, `spaces/zero/client.py` and `wrappers.py`), and
RuntimeErrors where its scheduler does not answer.
"""

from __future__ import annotations

import re

from vitdemo.errors import NoGPUError

OFFER = (
    "Or choose CPU under Run on (over HTTP: call /run_on with CPU): the embedded models then run on this server's "
    "processor, without quota."
)
"""How to go on without a GPU."""

_ASKED = re.compile(r"\((\d+)s requested vs\. (\d+)s left\)")
_WAIT = re.compile(r"Try again in ([^.]+)\.")


def worded(error: BaseException) -> NoGPUError:
    """The reason why no GPU answered, and what a visitor can do."""
    title = str(getattr(error, "title", ""))
    text = str(getattr(error, "message", error))
    return NoGPUError(f"{_reason(title, text)} {OFFER}")


def _reason(title: str, text: str) -> str:
    if title == "ZeroGPU quota exceeded":
        return _quota(text)
    if title == "ZeroGPU pending credits exceeded":
        return "All of your GPU quota is held by tasks of yours that still run. Wait until they have ended."
    if title == "ZeroGPU illegal duration":
        return "This takes longer than a visitor may have a GPU at once. Choose fewer models, or a lower resolution."
    if title == "ZeroGPU queue timeout" or text.startswith("No GPU was available"):
        return "No GPU became free within a minute. Try again later."
    if "Expired ZeroGPU proxy token" in text:
        return "The permission of this page to use a GPU has expired. Reload the page."
    if text == "GPU task aborted":
        return "The GPU was taken back, or its process ended, before there was an answer. Try again."
    if title == "ZeroGPU worker error":
        return "The GPU's process failed. It was logged; try again."
    return "The service that lends GPUs does not answer. Try again later."


def _quota(text: str) -> str:
    if text.startswith("No GPU was available"):
        return "No GPU became free within a minute. Visitors who have signed in to Hugging Face wait less."
    asked, wait = _ASKED.search(text), _WAIT.search(text)
    if asked is None:
        who = "shared by all visitors who are not signed in" if text.startswith("Space app") else "of this account"
        again = f"Try again in {wait[1]}" if wait else "Try again tomorrow"
        return f"The GPU quota {who} is used up. {again}, or sign in to Hugging Face, where there is more."
    return (
        f"Your GPU quota does not suffice: {asked[1]} s are asked for, {asked[2]} s are left. "
        f"Try again in {wait[1] if wait else 'a while'}, or sign in to Hugging Face, where there is more."
    )
