"""Which class a user means."""

from __future__ import annotations

from vitdemo.errors import OptionError
from vitdemo.types import ModelOutput, ModelSpec
from vitdemo.types.labels import spellings


def resolve_target(target: int | str, spec: ModelSpec, output: ModelOutput) -> int:
    """The index of a class, as `parse_target` and the scores of a picture say.

    Raises:
        OptionError: as `parse_target`.
    """
    index, rank = parse_target(target, spec)
    if index is not None:
        return index
    assert output.logits is not None
    return int(output.logits.topk(rank).indices[-1])


def parse_target(target: int | str | None, spec: ModelSpec) -> tuple[int | None, int]:
    """A class named by its label, its index, or its rank as "top:K" (from 1): index and rank; without an index, the rank counts.

    Raises:
        OptionError: no such class, or a label that several classes have; the message lists them.
    """
    if target is None:
        return None, 1
    if not spec.labels:
        raise OptionError(f"{spec.name} has no classifier, so it has no target classes.")
    count = len(spec.labels)
    text = str(target).strip()
    if text.startswith("top:"):
        rank = _whole_number(text.removeprefix("top:"))
        if rank is None or not 1 <= rank <= count:
            raise OptionError(f"Target {text!r} is not a rank: use top:1 to top:{count}.")
        return None, rank
    index = _whole_number(text)
    if index is not None:
        if not 0 <= index < count:
            raise OptionError(f"There is no class {index}: {spec.name} has classes 0 to {count - 1}.")
        return index, 1
    wanted = text.casefold().replace("_", " ")
    found = [index for index, label in enumerate(spec.labels) if wanted in _spellings(label)]
    if not found:
        raise OptionError(f"{spec.name} has no class {text!r}.{_near(wanted, spec)}")
    if len(found) > 1:
        listed = ", ".join(f"{i} ({spec.labels[i]})" for i in found)
        raise OptionError(f"{text!r} means several classes; give the index instead: {listed}.")
    return found[0], 1


def _spellings(label: str) -> tuple[str, ...]:
    plain = [name.casefold().replace("_", " ") for name in spellings(label)]
    return (*plain, *plain[0].split(", "))


def _whole_number(text: str) -> int | None:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        return None
    # Python refuses to read thousands of digits; that many are out of range in any case.
    return int(text) if len(digits) <= 18 else 10**18


def _near(wanted: str, spec: ModelSpec) -> str:
    near = [label for label in spec.labels if wanted in label.casefold() or label.casefold() in wanted][:5]
    return f" Near: {', '.join(near)}." if near else ""
