"""What bits cost in quality: a table of somebody's own, a loss for each group of tensors and format."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from costsim.errors import InputError, nearest, one_line, refuse
from costsim.inputs import files

_HEADER = ["group", "format", "loss"]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A table of losses, which add up over groups."""

    path: str
    losses: Mapping[tuple[str, str], Fraction]  # by group and format
    lines: Mapping[tuple[str, str], int]  # of a file; those of a table in Python have none

    def _error(self, key: tuple[str, str], message: str) -> InputError:
        line = self.lines.get(key)
        return InputError(f"{self.path}: {message}") if line is None else files.row_error(self.path, line, message)

    def of(self, groups: Sequence[str], formats: Sequence[str]) -> list[list[Fraction]]:
        """The losses of groups, by format. Raises InputError for all that are missing, and for groups that are none."""
        errors = [
            self._error(key, f"unknown group {one_line(key[0])!r}{nearest(key[0], groups)}")
            for key in self.losses
            if key[0] not in groups
        ]
        for group in groups:
            missing = [format for format in formats if (group, format) not in self.losses]
            if missing:
                errors.append(InputError(f"{self.path}: no loss for group {group} in {', '.join(missing)}"))
        refuse(errors)
        return [[self.losses[group, format] for format in formats] for group in groups]


def of_rows(rows: Iterable[tuple[str, str, float]]) -> Sensitivity:
    """A table of rows of a group, a format and a loss. Raises InputError for a loss that is no finite number."""
    losses = {}
    for group, format, loss in rows:
        if not math.isfinite(loss):
            raise InputError(f"sensitivity: {one_line(group)} in {one_line(format)}: expected a number, got {loss}")
        losses[str(group), str(format)] = Fraction(str(float(loss)))
    return Sensitivity("sensitivity", losses, {})


def read_sensitivity(path: Path) -> Sensitivity:
    """Read a CSV file with the header group,format,loss. Raises InputError for all wrong lines."""
    (_, header), *lines = files.read_csv(path) or [(1, [])]
    if header != _HEADER:
        raise files.row_error(path, 1, f"expected the header group,format,loss, got {one_line(','.join(header))!r}")
    errors: list[InputError] = []
    losses: dict[tuple[str, str], Fraction] = {}
    places: dict[tuple[str, str], int] = {}
    for line, row in lines:
        loss = _number(row[2]) if len(row) == len(_HEADER) else None
        if loss is None:
            errors.append(
                files.row_error(path, line, f"expected a group, a format and a number, got {one_line(','.join(row))!r}")
            )
            continue
        key = (row[0], row[1])
        if key in losses:
            errors.append(
                files.row_error(path, line, f"{one_line(' '.join(key))} stands on line {places[key]} already")
            )
        losses[key], places[key] = loss, line
    if not lines:
        errors.append(InputError(f"{path}: no rows under the header"))
    refuse(errors)
    return Sensitivity(str(path), losses, places)


def csv_text(table: Sensitivity) -> str:
    """A table as the CSV file that `read_sensitivity` reads."""
    rows = [f"{group},{format},{float(loss)!r}" for (group, format), loss in table.losses.items()]
    return "\n".join([",".join(_HEADER), *rows]) + "\n"


def _number(text: str) -> Fraction | None:
    """A decimal number of at most 40 characters, exactly."""
    try:
        return Fraction(text) if len(text) <= 40 and "/" not in text and "_" not in text else None
    except ValueError:
        return None
