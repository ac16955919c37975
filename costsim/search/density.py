"""How often combinations of assumptions come to which ratios: counts on a grid of their logarithms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 24  # of the grid in an octave: 2.9 % apart
_OCTAVES = 10  # on either side of 1; what lies farther off is counted at the edge
_SIDE = 2 * _OCTAVES * STEPS + 1


class Density:
    """Of two figures the counts of pairs of ratios; of any other number those of each figure by itself."""

    def __init__(self, figures: int) -> None:
        self.paired = figures == 2
        self.counts = np.zeros((1, _SIDE, _SIDE) if self.paired else (figures, _SIDE, 1), np.int64)

    def add(self, ratios: Sequence[NDArray[Any]], defined: NDArray[np.bool_], sizes: Sequence[int]) -> None:
        """Count the combinations of arrays, some of whose axes stand for all their cases; `sizes` are those."""
        shape = np.broadcast_shapes(defined.shape, *(array.shape for array in ratios))
        known = np.broadcast_to(defined, shape)
        times = prod(size for size, own in zip(sizes, shape, strict=True) if own == 1)
        places = [_places(np.broadcast_to(array, shape)[known]) for array in ratios]
        cells = [places[0] * _SIDE + places[1]] if self.paired else places
        for counts, cell in zip(self.counts, cells, strict=True):
            flat = counts.reshape(-1)
            flat += times * np.bincount(cell, minlength=flat.size)

    def cells(self, i: int = 0) -> Iterator[tuple[float, float, int]]:
        """Where combinations are: two ratios (of a figure by itself one, and 1), and how many are nearest to them."""
        for x, y in np.argwhere(self.counts[i]).tolist():
            yield _ratio(x), _ratio(y) if self.paired else 1.0, int(self.counts[i, x, y])


def _places(ratios: NDArray[Any]) -> NDArray[np.int64]:
    with np.errstate(divide="ignore"):
        steps: NDArray[np.float64] = np.rint(STEPS * np.log2(ratios.astype(float)))
    return np.clip(steps + _SIDE // 2, 0, _SIDE - 1).astype(np.int64)


def _ratio(place: int) -> float:
    return float(2 ** ((place - _SIDE // 2) / STEPS))
