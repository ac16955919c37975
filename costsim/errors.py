"""The one error a user meets for bad input, and the nearest valid name that it offers."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple, TypeVar

MAX_MESSAGE = 600
MAX_FAULTS = 20  # that are told at once

T = TypeVar("T")


class Fault(NamedTuple):
    """One thing that is wrong: a line that says what and where, and the place in a file, by which faults are sorted."""

    text: str
    file: str = ""
    line: int = 0
    column: int = 0


class InputError(Exception):
    """Bad input, a line for each fault: where (file, line, column, field), what was expected, the nearest valid name.

    The command line prints the lines and exits with 2; nothing has been written by then.
    """

    def __init__(self, *faults: str | Fault) -> None:
        super().__init__(*faults)
        distinct = dict.fromkeys(Fault(fault) if isinstance(fault, str) else fault for fault in faults)
        order = {file: number for number, file in enumerate(dict.fromkeys(fault.file for fault in distinct))}
        self.faults = sorted(distinct, key=lambda fault: (order[fault.file], fault.line, fault.column))

    def __str__(self) -> str:
        lines = [one_line(fault.text, MAX_MESSAGE) for fault in self.faults[:MAX_FAULTS]]
        more = len(self.faults) - len(lines)
        return "\n".join([*lines, *([f"and {more} more"] if more else [])])


class UnreadError(Exception):
    """What a check meets that reads a field that could not be read: its fault is told, and nothing follows from it."""


def refuse(errors: Iterable[InputError]) -> None:
    """Raise all errors, if there are any, as one."""
    faults = [fault for error in errors for fault in error.faults]
    if faults:
        raise InputError(*faults)


def apart(*checks: Callable[[], Iterable[T]]) -> Iterator[T]:
    """What all checks find. One that reads what could not be read ends there, and the others go on."""
    for check in checks:
        with suppress(UnreadError):
            yield from check()


def together(checks: Iterable[Callable[[], T]], known: Iterable[InputError] = ()) -> list[T]:
    """The results of all checks. Raises InputError with what is known and with what any of them refuses.

    So one fault hides no other. A check that reads what could not be read has no result; then a fault is known.
    """
    results: list[T] = []
    errors = list(known)
    for check in checks:
        try:
            with suppress(UnreadError):
                results.append(check())
        except InputError as error:
            errors.append(error)
    refuse(errors)
    return results


def one_line(text: object, most: int = 60) -> str:
    """Text from a user, fit for a message: control characters are escaped, and at most `most` characters are left."""
    clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: most + 1])
    return clean if len(clean) <= most else f"{clean[: most - 3]}..."


def within(edits: int, name: str, other: str) -> bool:
    """Whether so many edits make one name the other: a letter added, left out, replaced or swapped with the next."""
    if abs(len(name) - len(other)) > edits:
        return False
    same = next((i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), min(len(name), len(other)))
    a, b = name[same:], other[same:]
    if not (edits and a and b):
        return len(a) + len(b) <= edits
    steps = [(a[1:], b[1:]), (a[1:], b), (a, b[1:]), *([(a[2:], b[2:])] if a[:2] == b[1::-1] else [])]
    return any(within(edits - 1, *step) for step in steps)


def near(name: object, valid: Iterable[str]) -> list[str]:
    """The valid names, three at most, that a name may have been meant to be.

    One edit is near, from six letters on two are (as `fuzziness: AUTO` of Elasticsearch has it). So is a name whose
    beginning is: h100-sxm for h100. What stands before a hyphen is taken as meant where names begin so and none that is
    near does: a100-sxm is no h100-sxm, but one of a100-40gb, a100-80gb.
    """
    names, start = sorted(valid), str(name)[:60].lower()
    lengths = (None, len(start)) if len(start) > 2 else (None,)  # all of a valid name, then its beginning
    tries = [(edits, length) for edits in range(1 + (len(start) > 1) + (len(start) > 5)) for length in lengths]
    matches = ([known for known in names if within(edits, start, known.lower()[:length])] for edits, length in tries)
    close = next(filter(None, matches), [])
    family, hyphen, _ = start.partition("-")
    if not hyphen or any(known.lower().startswith(family) for known in close):
        return close[:3]
    return ([known for known in names if known.lower().startswith(f"{family}-")] or close)[:3]


def nearest(name: object, valid: Iterable[str], most: int = 8) -> str:
    """A clause that ends a message: the nearest valid names, if any is near, and up to `most` of the valid names."""
    names = sorted(valid)
    close = near(name, names)
    question = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    known = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return question + (f" (known: {known})" if names and most else "")


def nearest_divisor(size: int, wanted: int) -> int:
    """The number that divides a size and is nearest to the one asked for; of two the lower."""
    return min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: (abs(n - wanted), n))
