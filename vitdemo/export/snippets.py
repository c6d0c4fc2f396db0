"""Calls that give again what the page shows: in Python, with curl, on the command line.

The explorer changes layer, head, read-out and patch in the browser, where no server is asked. So texts for attention hold
`LAYER`, `HEAD` and `READOUT`, or those for the attention of a patch `LAYER`, `HEAD` and `POINT`, in their places, for `fill`
here, or `text.replaceAll(...)` there, to put in what is shown.
No value, whatever it holds, can be taken for one of them: everywhere else their first letter is written as an escape.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from vitdemo.options.explain import ExplainRequest


class _Place(str):
    """What the browser replaces."""


LAYER = _Place("\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}layer\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}")
"""A layer's number."""
HEAD = _Place(LAYER.replace("layer", "head"))
"""A head's number, or a fusion."""
READOUT = _Place(LAYER.replace("layer", "readout"))
"""The name of a read-out; empty for each model's own, in `compare`."""
POINT = _Place(LAYER.replace("layer", "point"))
"""Where the patch is, as `X,Y` in pixels of the upright photo."""

MARK = LAYER[0]

NAMELESS = "photo.jpg"
"""What a snapshot or a pasted photo, which has no name, may be saved as."""

_ADDRESS = re.compile(r"\s*https?://", re.IGNORECASE)
_NO_FILE = re.compile(r"-|\s*$|\s*data:|\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
"""How the name of a file must not begin: it would be taken for an option, nothing at all, a data URL, an address."""

Texts = dict[str, str]
"""By `python`, `curl` and `cli`."""


def reproduce_explain(image: str, model: str, request: ExplainRequest, host: str) -> Texts:
    """Calls for one model's map. Python prints it; the others write `map.npz` and `overlay.png`.

    Args:
        image: a file's name or path, or an address, as one would type it.
        model: a name from `available_models()`.
        request: for attention its layer, head and readout are left for `fill`, or, where the readout is "patch", its layer,
            head and point.
        host: where the server is.

    >>> texts = reproduce_explain("cup.jpg", "vit-mini", ExplainRequest("legrad", target="top:2"), "http://localhost:7860")
    >>> print(texts["python"])
    import vitdemo
    <BLANKLINE>
    found = vitdemo.explain('cup.jpg', 'vit-mini', method='legrad', target='top:2')
    print(found.description)
    print(found.map.values)
    """
    chosen = _chosen(request)
    return {
        "python": _python("explain", image, model, chosen, ("found.description", "found.map.values")),
        "curl": _curl("explain", image, {"model": model, **chosen}, host, _KEEP_MAP),
        "cli": _cli("explain", image, {"model": model, **chosen, "raw": "map.npz", "out": "overlay.png"}),
    }


def reproduce_compare(image: str, models: Sequence[str], request: ExplainRequest, host: str) -> Texts:
    """Calls for several models' maps. Python prints them; the others draw `comparison.png` and give the numbers as JSON.

    Args:
        image, request, host: as for `reproduce_explain`; a layer's number is the same for all models.
        models: names from `available_models()`.
    """
    chosen, names = _chosen(request), list(models)
    printed = (
        "[item.description for item in found.explanations]",
        "[item.map.values for item in found.explanations if item.map]",
    )
    return {
        "python": _python("compare", image, names, chosen, printed),
        "curl": _curl("compare", image, {"models": names, **chosen}, host, _KEEP_FIGURE),
        "cli": _cli("compare", image, {"models": ",".join(names), **chosen, "out": "comparison.png"}) + " --json",
    }


def fill(texts: Texts, layer: int, head: int | str, readout: str = "", point: str = "") -> Texts:
    """The texts with what is shown in their places, as the browser does it.

    >>> texts = reproduce_explain("cup.jpg", "vit-mini", ExplainRequest(), "http://localhost:7860")
    >>> fill(texts, 7, "max", "class")["cli"].split("vit-mini")[1]
    ' --layer=7 --head=max --readout=class --raw=map.npz --out=overlay.png'
    """
    shown: dict[str, str] = {LAYER: str(layer), HEAD: str(head), READOUT: readout, POINT: point}
    return {name: re.sub("|".join(shown), lambda found: shown[found[0]], text) for name, text in texts.items()}


def _chosen(request: ExplainRequest) -> dict[str, Any]:
    """What is not the default; for attention with the places that the browser fills in."""
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
    # With "=", neither a value that begins with a dash nor an empty one is taken for something else.
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
"""For bash, in brackets so that a failure ends the call and not the terminal that it was pasted into: hand the photo over,
ask, wait for the answer, fetch the files that it names."""

_UPLOAD = r"""
UPLOADED=$(curl -fsS "$HOST/gradio_api/upload" -F 'files=@-;filename=photo' < {file} | sed 's/^\[//; s/\]$//')"""

_KEEP_MAP = 'curl -fsSg "$(url npz)" -o map.npz\ncurl -fsSg "$(url png)" -o overlay.png'
_KEEP_FIGURE = 'printf \'%s\\n\' "$ANSWER" > comparison.json\ncurl -fsSg "$(url png)" -o comparison.png'


def _curl(call: str, image: str, fields: Mapping[str, Any], host: str, keep: str) -> str:
    source, upload = _source(image), ""
    before, after = '{"image": {"path": ', ', "meta": {"_type": "gradio.FileData"}}'
    if _ADDRESS.match(source):
        before += _json(source)
    else:
        upload = _UPLOAD.format(file=_shell(source))
        # What comes back from an upload forgets the photo's name.
        after = f', "orig_name": {_json(source.rsplit("/", 1)[-1])}' + after
    after += "".join(f", {_json(name)}: {_json(_flat(value))}" for name, value in fields.items()) + "}"
    # The upload was answered in JSON: it goes in as it came.
    data = shlex.quote(before) + '"$UPLOADED"' + shlex.quote(after) if upload else shlex.quote(before + after)
    return _CURL.format(host=_shell(host.rstrip("/")), upload=upload, call=call, data=data, keep=keep)


def _source(image: str) -> str:
    """An address, or the name of a file, so that it is taken for nothing else."""
    if _ADDRESS.match(image):
        return image.strip()
    name = image or NAMELESS
    return f"./{name}" if _NO_FILE.match(name) else name


def _flat(value: Any) -> Any:
    """Points are typed as X,Y where there are no tuples."""
    return ",".join(map(repr, value)) if isinstance(value, tuple) else value


def _literal(value: Any) -> str:
    """A value in Python."""
    if isinstance(value, _Place):
        return {LAYER: value, POINT: f"({value})"}.get(value, f"'{value}'")
    return repr(value).replace(MARK, f"\\u{ord(MARK):04x}")


def _json(value: Any) -> str:
    """A value in JSON, in ASCII but for the places."""
    if isinstance(value, _Place):
        return value if value == LAYER else f'"{value}"'
    if isinstance(value, str):
        # Half a surrogate pair stands for a byte of a name that is not UTF-8; servers refuse JSON with one.
        value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return json.dumps(value)


def _shell(value: Any) -> str:
    """A word for bash. Letters that a terminal would act on, or that hide what comes after them, are written as bytes."""
    text = str(value)
    if isinstance(value, _Place) or (text.isprintable() and MARK not in text):
        return text if isinstance(value, _Place) else shlex.quote(text)
    data = text.encode("utf-8", "surrogateescape")
    return "$'" + "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\{byte:03o}" for byte in data) + "'"
