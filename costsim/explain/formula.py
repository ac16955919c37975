"""Numbers that say how they came about: a formula in symbols, with values, the result, its unit and source."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Number = int | float


class Part(NamedTuple):
    """A factor of a formula: its symbol and its value; `under`: a divisor, below the line."""

    symbol: str
    value: Number
    under: bool = False


Term = Sequence[Part]


@dataclass(frozen=True, slots=True)
class Step:
    """One number: its name, the formula in symbols and with values, the result (None: not defined) and the source."""

    what: str
    formula: str
    values: str
    result: Number | str | None
    unit: str
    source: str

    @property
    def whole(self) -> int:
        """The result, where it is an exact integer."""
        assert isinstance(self.result, int), self
        return self.result


def shown(value: Number) -> str:
    """A number as formulas print it: integers in full, others to 12 digits."""
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def _value(term: Term) -> Number:
    """The product of a term's parts; an integer as long as nothing stands below the line."""
    above = math.prod(part.value for part in term if not part.under)
    below = [part.value for part in term if part.under]
    return above / math.prod(below) if below else above


def _product(term: Term, text: Callable[[Part], str]) -> str:
    """A term as text, with `text` for each part."""
    above = " * ".join(text(part) for part in term if not part.under) or "1"
    below = [text(part) for part in term if part.under]
    if not below:
        return above
    return f"{above} / {below[0]}" if len(below) == 1 else f"{above} / ({' * '.join(below)})"


def worked(what: str, terms: Sequence[Term], unit: str, source: str, largest: bool = False) -> Step:
    """A step whose formula, values and result all come from the same parts: a sum of products, or the `largest`."""
    values = [_value(term) for term in terms]
    formula, numbers = (
        [_product(term, text) for term in terms] or ["0"]
        for text in (lambda part: part.symbol, lambda part: shown(part.value))
    )
    if largest:
        return Step(what, f"max({', '.join(formula)})", f"max({', '.join(numbers)})", max(values), unit, source)
    return Step(what, " + ".join(formula), " + ".join(numbers), sum(values), unit, source)


def nothing(what: str, unit: str, why: str) -> Step:
    """A number that is 0, and why."""
    return Step(what, "0", "0", 0, unit, why)


def undefined(what: str, formula: str, unit: str, why: str) -> Step:
    """A number that is not defined, and why."""
    return Step(what, formula, "n/a", None, unit, why)
