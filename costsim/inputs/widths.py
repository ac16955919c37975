"""Widths per layer or tensor from a CSV file, for those that come out of somebody's own search.

The first column names layers or tensors, the others give the numbers of that name in a policy: with the header
`layer,bits` and `numbers: {bits: 16}` in the policy, `fixed<bits>` is fixed4 where the file says 4, fixed16 where it
says nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from costsim.errors import MAX_FAULTS, InputError, nearest, one_line, refuse
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
        return files.row_error(self.path, self.lines[name], message)

    def numbers(self, layer: str, tensor: str) -> tuple[int, ...]:
        """The numbers for a tensor of a layer; none if the table has no row for it."""
        return self.rows.get(layer if self.by == "layer" else tensor, ())

    def check_names(self, names: Collection[str]) -> None:
        """Raise InputError for all rows whose layer or tensor is not one of these."""
        unknown = [name for name in self.rows if name not in names]
        near = {name: nearest(name, names) for name in unknown[:MAX_FAULTS]}  # more are not told, and it takes time
        refuse(self.error(name, f"unknown {self.by} {one_line(name)!r}{near.get(name, '')}") for name in unknown)


def read_widths(path: Path) -> Widths:
    """Read a CSV file with a header like `layer,bits` or `tensor,w,x`. Raises InputError for all wrong lines."""
    (_, header), *lines = files.read_csv(path) or [(1, [])]
    columns, errors = tuple(header[1:]), []
    right = bool(columns) and header[0] in _SUBJECTS and len(set(header)) == len(header) and all(columns)
    if not right:
        expected = "expected a header like layer,bits or tensor,bits"
        errors.append(files.row_error(path, 1, f"{expected}, got {one_line(','.join(header))!r}"))
    elif not lines:
        errors.append(InputError(f"{path}: no rows under the header"))
    subject = header[0] if header and header[0] in _SUBJECTS else "layer or tensor"
    rows: dict[str, tuple[int, ...]] = {}
    places: dict[str, int] = {}
    for line, (name, *numbers) in lines:
        whole = all(number.isascii() and number.isdigit() and len(number) <= 6 for number in numbers)
        if not whole or (right and len(numbers) != len(columns)):
            some = f"{len(columns)} whole number{'s' * (len(columns) > 1)}" if right else "whole numbers"
            expected = f"expected a {subject} and {some}"
            errors.append(files.row_error(path, line, f"{expected}, got {one_line(','.join((name, *numbers)))!r}"))
        if name in places:
            errors.append(
                files.row_error(path, line, f"{subject} {one_line(name)!r} stands on line {places[name]} already")
            )
        rows[name] = tuple(map(int, numbers)) if whole else ()
        places.setdefault(name, line)
    refuse(errors)
    return Widths(str(path), header[0], columns, rows, places)
