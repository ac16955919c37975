"""The Hadamard transform of blocks: a rotation that spreads what is large over its block before that is rounded.

Both operands of a product are transformed in the same blocks along what it sums over: the matrix is orthogonal, so the
product is the same as without. Random signs are flips of bits and 1 / sqrt(n) goes into the scales: neither is counted,
and the reference draws no signs. Sources: QuaRot, arXiv:2404.00456; NVFP4 pre-training, arXiv:2509.25149.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from costsim.errors import InputError, one_line

if TYPE_CHECKING:
    from costsim.formats.elements import Array

NONE = "none"  # in place of a transform: undoes it
LARGEST = 2**15  # elements of a block, as in fast-hadamard-transform


def block_of(name: str) -> int:
    """The elements of a block of `hadamard16` and the like; 0 of `none`. Raises InputError.

    >>> block_of("hadamard16")
    16
    """
    if name == NONE:
        return 0
    match = re.fullmatch(r"hadamard([0-9]{1,6})", name, re.ASCII)
    block = int(match[1]) if match else 0
    if not 2 <= block <= LARGEST or block & (block - 1):
        expected = f"expected hadamardN, N a power of two from 2 to {LARGEST}, or {NONE}"
        raise InputError(f"{expected}, got {one_line(name)!r}")
    return block


def adds_per_element(block: int) -> int:
    """Additions and subtractions of the fast transform, n log2 n a block of n, for each element.

    Source: the fast Walsh-Hadamard transform, Fino and Algazi, IEEE Transactions on Computers, 1976.
    """
    return block.bit_length() - 1


def transformed(x: Array, block: int, axes: Sequence[int]) -> tuple[Array, int]:
    """The numbers, transformed in blocks along these axes, flattened in this order; how many additions that took.

    The blocks divide what lies along the axes.
    """
    import numpy as np

    last = tuple(range(x.ndim - len(axes), x.ndim))
    moved = np.moveaxis(x, tuple(axes), last)
    blocks: Any = moved.reshape(-1, block)
    half, adds = 1, 0
    while half < block:
        pairs = blocks.reshape(-1, block // (2 * half), 2, half)
        above, below = pairs[:, :, 0], pairs[:, :, 1]
        blocks = np.stack((above + below, above - below), axis=2)
        half, adds = 2 * half, adds + blocks.size
    root = math.isqrt(block)
    blocks = blocks / (root if root * root == block else math.sqrt(block))
    return np.moveaxis(blocks.astype(x.dtype, copy=False).reshape(moved.shape), last, tuple(axes)), adds
