"""Words of policies for a part of something: layers of a stack (`last 15%`), a moment of a run (`90%`, `5000`)."""

import math
import re
from fractions import Fraction
from typing import Any, NamedTuple

from costsim.errors import one_line
from costsim.inputs.section import WrongError

_PERCENT = r"(?P<percent>[0-9]{1,3}(\.[0-9]{1,6})?)\s?%"
_NUMBER = r"[0-9]{1,9}"


def spelled(value: Any) -> Any:
    """A whole number as text, as files may have either; what is neither stays."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def or_integer(json_schema: Any) -> Any:
    """Of the JSON schema of a text: that or a whole number."""
    return {"anyOf": [{"type": "integer"}, json_schema]}


# --- layers -----------------------------------------------------------------------------------------------------------


def _layers(span: str) -> re.Match[str] | None:
    return re.fullmatch(rf"(?P<one>-?{_NUMBER})|(?P<end>first|last) (?:(?P<number>{_NUMBER})|{_PERCENT})", span)


def layers_of(span: str) -> str:
    """A span of layers as it is spelled. Raises WrongError."""
    match = _layers(span)
    if match is None or (match["percent"] and not 0 < Fraction(match["percent"]) <= 100) or match["number"] == "0":
        expected = "expected a layer's number (from 0 on, or from -1 back), first N, last N, first N% or last N%"
        raise WrongError(f"{expected}, got {one_line(span)!r}")
    return span


def layers_in(span: str, number: int) -> range:
    """The layers of a stack of so many that a span selects; a share of them is rounded up.

    >>> layers_in("last 15%", 12), layers_in("first 2", 12), layers_in("-1", 12)
    (range(10, 12), range(0, 2), range(11, 12))
    """
    match = _layers(span)
    assert match is not None  # as `layers_of` has it
    if match["one"]:
        layer = int(match["one"]) + (number if match["one"].startswith("-") else 0)
        return range(layer, layer + 1) if 0 <= layer < number else range(0)
    share = Fraction(match["percent"] or 0) / 100
    some = min(number, math.ceil(share * number) if match["percent"] else int(match["number"]))
    return range(some) if match["end"] == "first" else range(number - some, number)


# --- moments ----------------------------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """A step of a run: after so many steps, or after a share of all."""

    share: Fraction | None
    step: int = 0

    def __str__(self) -> str:
        return f"step {self.step}" if self.share is None else f"{float(100 * self.share):g}%"

    @property
    def at(self) -> Fraction | int:
        """What moments of a sort are ordered by."""
        return self.step if self.share is None else self.share


def moment(text: str) -> Moment:
    """The moment that is so spelled. Raises WrongError."""
    share = re.fullmatch(_PERCENT, text)
    if share and Fraction(share["percent"]) <= 100:
        return Moment(Fraction(share["percent"]) / 100)
    if re.fullmatch(_NUMBER, text):
        return Moment(None, int(text))
    raise WrongError(f"expected a share of the run (90%) or a step (5000), got {one_line(text)!r}")


def moment_of(text: str) -> str:
    """A moment as it is spelled. Raises WrongError."""
    moment(text)
    return text
