"""Widths per layer or tensor from a CSV file, for those that come out of somebody's own search.

The first column names layers or tensors, the others give the numbers of that name in a policy: with the header
`layer,bits` and `numbers: {bits: 16}` in the policy, `fixed<bits>` is fixed4 where the file says 4, fixed16 where it
says nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from costsim.errors import InputError, nearest, one_line
from costsim.inputs import files

_SUBJECTS = ("layer", "tensor")  # what rows may be of


@dataclass(frozen=True, slots=True, eq=False)
class Widths:
    """A table of widths."""

    path: str
    by: str  # layer or tensor: what rows are of
    columns: tuple[str, ...]  # names of a policy's numbers
    rows: Mapping[str, tuple[int, ...]]  # by layer or tensor: a number for each column
    lines: Mapping[str, int]  # by layer or tensor: where its row stands in the file

    def error(self, name: str, message: str) -> InputError:
        """The error for the row of a layer or tensor."""
        return InputError(f"{self.path}:{self.lines[name]}: {message}")

    def numbers(self, layer: str, tensor: str) -> tuple[int, ...]:
        """The numbers for a tensor of a layer; none if the table has no row for it."""
        return self.rows.get(layer if self.by == "layer" else tensor, ())

    def check_names(self, names: Collection[str]) -> None:
        """Raise InputError for a row whose layer or tensor is not one of these."""
        for name in self.rows:
            if name not in names:
                raise self.error(name, f"unknown {self.by} {one_line(name)!r}{nearest(name, names)}")


def read_widths(path: Path) -> Widths:
    """Read a CSV file with a header like `layer,bits` or `tensor,w,x`. Raises InputError with file and line."""
    (_, header), *lines = files.read_csv(path) or [(1, [])]
    columns = tuple(header[1:])
    if not columns or header[0] not in _SUBJECTS or len(set(header)) < len(header) or not all(columns):
        raise InputError(
            f"{path}:1: expected a header like layer,bits or tensor,bits, got {one_line(','.join(header))!r}"
        )
    rows: dict[str, tuple[int, ...]] = {}
    places: dict[str, int] = {}
    for line, row in lines:
        at = f"{path}:{line}"
        name, *numbers = row
        whole = all(number.isascii() and number.isdigit() and len(number) <= 6 for number in numbers)
        if len(numbers) != len(columns) or not whole:
            expected = f"a {header[0]} and {len(columns)} whole number{'s' * (len(columns) > 1)}"
            raise InputError(f"{at}: expected {expected}, got {one_line(','.join(row))!r}")
        if name in rows:
            raise InputError(f"{at}: {header[0]} {one_line(name)!r} stands on line {places[name]} already")
        rows[name] = tuple(map(int, numbers))
        places[name] = line
    if not rows:
        raise InputError(f"{path}: no rows under the header")
    return Widths(str(path), header[0], columns, rows, places)
