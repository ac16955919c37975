"""Sizes of traced tensors: whole numbers times names, such as 4 batch tokens; a name may be an expression in brackets.

So products of sizes can be taken apart again, which is what a view does.
"""

import math
from collections import Counter
from typing import NamedTuple


class Size(NamedTuple):
    """A number times some names, sorted; a name as often as it is a factor."""

    number: int
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = [
            f"({name})" if " " in name and len(self.names) + (self.number != 1) > 1 else name for name in self.names
        ]
        return " * ".join([str(self.number)] * (self.number != 1 or not names) + names)

    @property
    def is_one(self) -> bool:
        """Whether there is one element along it."""
        return self == ONE


ONE = Size(1)


def times(a: Size, b: Size) -> Size:
    """The product."""
    return Size(a.number * b.number, tuple(sorted(a.names + b.names)))


def common(a: Size, b: Size) -> Size:
    """The greatest common divisor, of the numbers and of the names."""
    names = (Counter(a.names) & Counter(b.names)).elements()
    return Size(math.gcd(a.number, b.number), tuple(sorted(names)))


def divided(a: Size, b: Size) -> Size:
    """The quotient of a size and one of its divisors."""
    return Size(a.number // b.number, tuple(sorted((Counter(a.names) - Counter(b.names)).elements())))
