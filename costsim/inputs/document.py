"""Documents: plain data with the place of every field."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from costsim.errors import Fault, InputError, one_line

MAX_DEPTH = 32
MAX_EVENTS = 100_000
MAX_ITEMS = 1_000  # of a list, and fields of a section

Where = tuple[Hashable, ...]  # where in a document: keys and list indices


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its data, where each field stands, and fields set from outside (`--set`)."""

    path: str
    data: dict[str, Any]
    marks: Mapping[Where, tuple[int, int]] = field(default_factory=dict)  # 1-based line and column
    overrides: Mapping[Where, str] = field(default_factory=dict)
    shipped: bool = False  # whether it is as costsim ships it, maybe under a case of its own: known to be right

    def place(self, at: Where) -> tuple[int, int]:
        """Line and column of a field, or of the section that it is missing in."""
        while at and at not in self.marks:
            at = at[:-1]
        return self.marks.get(at, (1, 1))

    def error(self, at: Where, message: str) -> InputError:
        """The error for a field: file, line, column, field, message; or the `--set` that touched it."""
        touching = {
            set_at: assignment
            for set_at, assignment in self.overrides.items()
            if all(a == b for a, b in zip(at, set_at, strict=False))
        }
        above = [set_at for set_at in touching if len(set_at) <= len(at)]
        if touching:
            blamed = [touching[max(above, key=len)]] if above else touching.values()
            within = at[len(max(above, key=len)) :] if above else ()
            sets = " ".join(f"--set {one_line(assignment)}" for assignment in blamed)
            return InputError(f"{sets}: {dotted(within)}{message}")
        line, column = self.place(at)
        place = f":{line}:{column}" if self.marks else ""  # what was made in Python has no lines
        return InputError(Fault(f"{self.path}{place}: {dotted(at)}{message}", self.path, line, column))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands for a value that cannot be read, until its section is checked: then all faults are told together."""

    fault: Fault


def unreadable(data: Any) -> Iterator[Fault]:
    """What is wrong with all the values of some data that cannot be read."""
    if isinstance(data, Unreadable):
        yield data.fault
    elif isinstance(data, (dict, tuple, list)):
        for item in data.values() if isinstance(data, dict) else data:
            yield from unreadable(item)


def dotted(at: Where) -> str:
    """A field's name to begin a message with, nothing for the whole document."""
    return ".".join(one_line(part) for part in at) + ": " if at else ""


def tuples(value: Any) -> Any:
    """Lists as tuples, which is what strict sections take, at any depth."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
