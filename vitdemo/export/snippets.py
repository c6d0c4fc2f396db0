"""Code snippets that reproduce what the page shows: in Python, with curl, on the command line.

The explorer changes layer, head, read-out and patch in the browser, without a request. So snippets for attention contain the
placeholders `LAYER`, `HEAD` and `READOUT`, or, for the attention of a patch, `LAYER`, `HEAD` and `POINT`, which the browser
replaces. No other value can be mistaken for a placeholder: there, its first character is escaped.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from vitdemo.options.explain import ExplainRequest


class _Placeholder(str):
    """Replaced in the browser."""


LAYER = _Placeholder("\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}layer\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}")
"""Number of the layer."""
HEAD = _Placeholder(LAYER.replace("layer", "head"))
"""Number of the head, or a fusion."""
READOUT = _Placeholder(LAYER.replace("layer", "readout"))
"""Name of the read-out; in `compare`, empty for each model's default."""
POINT = _Placeholder(LAYER.replace("layer", "point"))
"""Centre of the patch, as `X,Y` in pixels of the upright photo."""

MARK = LAYER[0]

DEFAULT_NAME = "photo.jpg"
"""File name for snapshots and pasted photos."""

_URL = re.compile(r"\s*https?://", re.IGNORECASE)
_NOT_A_FILE = re.compile(r"-|\s*$|\s*data:|\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
"""File names that would be mistaken for an option, nothing, a data URL or a URL."""

Texts = dict[str, str]
"""By `python`, `curl` and `cli`."""


def reproduce_explain(image: str, model: str, request: ExplainRequest, host: str) -> Texts:
    """Snippets for one model's map. Python prints it; the others write `map.npz` and `overlay.png`.

    Args:
        image: file name, path or URL.
        model: a name from `available_models()`.
        request: for attention, placeholders replace its layer, head and readout, or, if the readout is "patch", its layer,
            head and point.
        host: URL of the server.

    >>> texts = reproduce_explain("cup.jpg", "vit-mini", ExplainRequest("legrad", target="top:2"), "http://localhost:7860")
    >>> print(texts["python"])
    import vitdemo
    <BLANKLINE>
    found = vitdemo.explain('cup.jpg', 'vit-mini', method='legrad', target='top:2')
    print(found.description)
    print(found.map.values)
    """
    chosen = _options(request)
    return {
        "python": _python("explain", image, model, chosen, ("found.description", "found.map.values")),
        "curl": _curl("explain", image, {"model": model, **chosen}, host, _KEEP_MAP),
        "cli": _cli("explain", image, {"model": model, **chosen, "raw": "map.npz", "out": "overlay.png"}),
    }


def reproduce_compare(image: str, models: Sequence[str], request: ExplainRequest, host: str) -> Texts:
    """Snippets for several models' maps. Python prints them; the others write `comparison.png` and print JSON.

    Args:
        image, request, host: as for `reproduce_explain`; all models use the same layer number.
        models: names from `available_models()`.
    """
    chosen, names = _options(request), list(models)
    printed = (
        "[item.description for item in found.explanations]",
        "[item.map.values for item in found.explanations if item.map]",
    )
    return {
        "python": _python("compare", image, names, chosen, printed),
        "curl": _curl("compare", image, {"models": names, **chosen}, host, _KEEP_FIGURE),
        "cli": _cli("compare", image, {"models": ",".join(names), **chosen, "out": "comparison.png"}) + " --json",
    }


def _options(request: ExplainRequest) -> dict[str, Any]:
    """The options that differ from the defaults; for attention with placeholders."""
    given = dict(vars(request))
    if request.method == "attention":
        given |= {
            "layer": LAYER,
            "head": HEAD,
            **({"point": POINT} if request.readout == "patch" else {"readout": READOUT}),
        }
    elif request.point is not None:
        given["point"] = tuple(map(float, request.point))
    defaults = vars(ExplainRequest())
    return {name: value for name, value in given.items() if value not in (None, "", defaults[name])}


def _python(call: str, image: str, models: str | list[str], chosen: Mapping[str, Any], printed: tuple[str, ...]) -> str:
    options = (f"{name}={_literal(value)}" for name, value in chosen.items())
    arguments = ", ".join([_literal(_source(image)), _literal(models), *options])
    return "\n".join(
        ["import vitdemo", "", f"found = vitdemo.{call}({arguments})", *(f"print({text})" for text in printed)]
    )


def _cli(command: str, image: str, options: Mapping[str, Any]) -> str:
    # With "=", values that are empty or begin with a dash are not misread.
    words = (f"--{name}={_shell(_flat(value))}" for name, value in options.items())
    return " ".join(["python -m vitdemo", command, _shell(_source(image)), *words])


_CURL = r"""(
set -eo pipefail
HOST={host}{upload}
EVENT=$(curl -fsS "$HOST/gradio_api/call/v2/{call}" -H 'Content-Type: application/json' -d {data} \
  | sed 's/.*"event_id": *"\([^"]*\)".*/\1/')
ANSWER=$(curl -fsS "$HOST/gradio_api/call/v2/{call}/$EVENT" | sed -n 's/^data: //p' | tail -n 1)
case "$ANSWER" in '['*) ;; *) printf '%s\n' "$ANSWER" >&2; exit 1 ;; esac
url() {{ printf '%s' "$ANSWER" | grep -o '"url": *"[^"]*\.'"$1"'"' | tail -n 1 | cut -d '"' -f 4; }}
{keep}
)"""
"""For bash, in a subshell so that a failure does not close the terminal: upload the photo, send the request, wait for the
result, download its files."""

_UPLOAD = r"""
UPLOADED=$(curl -fsS "$HOST/gradio_api/upload" -F 'files=@-;filename=photo' < {file} | sed 's/^\[//; s/\]$//')"""

_KEEP_MAP = 'curl -fsSg "$(url npz)" -o map.npz\ncurl -fsSg "$(url png)" -o overlay.png'
_KEEP_FIGURE = 'printf \'%s\\n\' "$ANSWER" > comparison.json\ncurl -fsSg "$(url png)" -o comparison.png'


def _curl(call: str, image: str, fields: Mapping[str, Any], host: str, keep: str) -> str:
    source, upload = _source(image), ""
    before, after = '{"image": {"path": ', ', "meta": {"_type": "gradio.FileData"}}'
    if _URL.match(source):
        before += _json(source)
    else:
        upload = _UPLOAD.format(file=_shell(source))
        # The response to an upload lacks the photo's name.
        after = f', "orig_name": {_json(source.rsplit("/", 1)[-1])}' + after
    after += "".join(f", {_json(name)}: {_json(_flat(value))}" for name, value in fields.items()) + "}"
    # The response to the upload is already JSON.
    data = shlex.quote(before) + '"$UPLOADED"' + shlex.quote(after) if upload else shlex.quote(before + after)
    return _CURL.format(host=_shell(host.rstrip("/")), upload=upload, call=call, data=data, keep=keep)


def _source(image: str) -> str:
    """The URL, or a file name that cannot be mistaken for anything else."""
    if _URL.match(image):
        return image.strip()
    name = image or DEFAULT_NAME
    return f"./{name}" if _NOT_A_FILE.match(name) else name


def _flat(value: Any) -> Any:
    """Points as X,Y, for JSON and the command line."""
    return ",".join(map(repr, value)) if isinstance(value, tuple) else value


def _literal(value: Any) -> str:
    """A value as Python source."""
    if isinstance(value, _Placeholder):
        return {LAYER: value, POINT: f"({value})"}.get(value, f"'{value}'")
    return repr(value).replace(MARK, f"\\u{ord(MARK):04x}")


def _json(value: Any) -> str:
    """A value as JSON, in ASCII except for placeholders."""
    if isinstance(value, _Placeholder):
        return value if value == LAYER else f'"{value}"'
    if isinstance(value, str):
        # A lone surrogate stands for a byte of a file name that is not UTF-8; servers reject it in JSON.
        value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return json.dumps(value)


def _shell(value: Any) -> str:
    """A word for bash. Control characters and others that are not printable are written as octal escapes."""
    text = str(value)
    if isinstance(value, _Placeholder) or (text.isprintable() and MARK not in text):
        return text if isinstance(value, _Placeholder) else shlex.quote(text)
    data = text.encode("utf-8", "surrogateescape")
    return "$'" + "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\{byte:03o}" for byte in data) + "'"
