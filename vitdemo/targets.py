"""Which class a user means."""

from __future__ import annotations

from vitdemo.errors import OptionError
from vitdemo.types import ModelOutput, ModelSpec


def resolve_target(target: int | str, spec: ModelSpec, output: ModelOutput) -> int:
    """The index of a class named by its label, its index, or its rank as "top:K" (from 1).

    Raises:
        OptionError: no such class, or a label that several classes have; the message lists them.
    """
    if output.logits is None:
        raise OptionError(f"{spec.name} has no classifier, so it has no target classes.")
    count = len(spec.labels)
    text = str(target).strip()
    if text.startswith("top:"):
        rank = _whole_number(text.removeprefix("top:"))
        if rank is None or not 1 <= rank <= count:
            raise OptionError(f"Target {text!r} is not a rank: use top:1 to top:{count}.")
        return int(output.logits.topk(rank).indices[-1])
    index = _whole_number(text)
    if index is not None:
        if not 0 <= index < count:
            raise OptionError(f"There is no class {index}: {spec.name} has classes 0 to {count - 1}.")
        return index
    wanted = text.casefold().replace("_", " ")
    found = [index for index, label in enumerate(spec.labels) if wanted in _spellings(label)]
    if not found:
        raise OptionError(f"{spec.name} has no class {text!r}.{_near(wanted, spec)}")
    if len(found) > 1:
        listed = ", ".join(f"{i} ({spec.labels[i]})" for i in found)
        raise OptionError(f"{text!r} means several classes; give the index instead: {listed}.")
    return found[0]


def _spellings(label: str) -> tuple[str, ...]:
    plain = label.casefold().replace("_", " ")
    return (plain, *plain.split(", "))


def _whole_number(text: str) -> int | None:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        return None
    # Python refuses to read thousands of digits; that many are out of range in any case.
    return int(text) if len(digits) <= 18 else 10**18


def _near(wanted: str, spec: ModelSpec) -> str:
    near = [label for label in spec.labels if wanted in label.casefold() or label.casefold() in wanted][:5]
    return f" Near: {', '.join(near)}." if near else ""
