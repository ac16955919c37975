"""Appends products of matrices as einsum equations, and says which GEMM of its layer each is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from costsim.names import Gemm
from costsim.trace.recording import Call, Value
from costsim.trace.tensors import Held, Slot, View, values_of
from costsim.trace.translator import Lettered, Translator

Index = tuple[str, int, int]  # batch, summed, row or column; the number of the axis; which of its dims


class Axes(NamedTuple):
    """Of the two operands of a product: the axes of its batch, and those summed over; the others are rows, columns."""

    batch: tuple[tuple[int, int], ...]
    summed: tuple[tuple[int, int], ...]


MATRIX = Axes((), ((1, 0),))
BATCHED = Axes(((0, 0),), ((2, 1),))


def product(t: Translator, x: View, w: View, axes: Axes, made: Value) -> None:
    """Append a contraction, whose result has batch, rows and columns in this order."""
    for a, b in (*axes.batch, *axes.summed):
        if x.axis(a) and w.axis(b):
            t.align(x.axes[a], w.axes[b])
    indices = _indices(x, axes, 0, "row"), _indices(w, axes, 1, "column")
    own: dict[tuple[str, int], list[Slot]] = {}  # of the result, by name and number of the axis
    own |= {("batch", place): x.axis(a) or w.axis(b) for place, (a, b) in enumerate(axes.batch)}
    own |= {("row", number): x.axis(number) for number in _free(x, axes, 0)}
    own |= {("column", number): w.axis(number) for number in _free(w, axes, 1)}
    y = [(*name, k) for name, axis in own.items() for k in range(len(axis))]
    slots = [[Slot(slot.axis) for slot in axis] for axis in own.values()]
    held = Held([slot for axis in slots for slot in axis], values_of(made), made.dtype)
    operands = _operands(t, (x, w), indices, y)
    _emit(t, operands, y, held)
    t.look(made, held, slots)


def _free(view: View, axes: Axes, side: int) -> list[int]:
    """The axes of an operand that are rows or columns."""
    taken = {pair[side] for pair in (*axes.batch, *axes.summed)}
    return [number for number in range(len(view.axes)) if number not in taken]


def _indices(view: View, axes: Axes, side: int, free: str) -> dict[int, Index]:
    """By slot of an operand: its index."""
    named = [("batch", place, pair[side]) for place, pair in enumerate(axes.batch)]
    named += [("summed", place, pair[side]) for place, pair in enumerate(axes.summed)]
    named += [(free, number, number) for number in _free(view, axes, side)]
    return {id(slot): (name, place, k) for name, place, n in named for k, slot in enumerate(view.axis(n))}


Operand = tuple[Held, list[Index]]


def _operands(
    t: Translator, views: tuple[View, View], indices: tuple[dict[int, Index], dict[int, Index]], y: Sequence[Index]
) -> tuple[Operand, Operand]:
    """The tensors and the indices of their dims; a copy of one that is repeated along an index found nowhere else."""
    terms = [[index[id(slot)] for slot in view.held.dims()] for view, index in zip(views, indices, strict=True)]
    made: list[Operand] = []
    for side, (view, index) in enumerate(zip(views, indices, strict=True)):
        others = {*terms[1 - side]}, {*y}
        repeated = [index[id(slot)] for slot in view.flat() if index[id(slot)] not in terms[side]]
        if all(i in others[0] and i in others[1] for i in repeated):
            made.append((view.held, terms[side]))
        else:
            made.append((t.moved("copy", view.held, view.flat()), [index[id(slot)] for slot in view.flat()]))
    return made[0], made[1]


def _emit(t: Translator, operands: tuple[Operand, Operand], y: Sequence[Index], held: Held) -> None:
    """Append the equation, with the operands in the order that its GEMM has them."""
    a, b = operands
    gemm: Gemm = "forward"
    call = t.recording.calls[t.at]
    if call.phase == "backward":
        gemm, swapped = _gradient_of(t, call, a[0], b[0])
    else:
        swapped = a[0].role == "weight" and b[0].role != "weight"
    if swapped:
        a, b = b, a
    if call.phase != "backward":
        t.products[t.at] = (a[0], b[0])
    letters = Lettered()
    texts = ["".join(letters[i] for i in term) for term in (a[1], b[1], y)]
    t.emit(f"{texts[0]},{texts[1]}->{texts[2]}", [a[0], b[0]], [held], gemm)


def _gradient_of(t: Translator, call: Call, a: Held, b: Held) -> tuple[Gemm, bool]:
    """Which GEMM of its layer a product of the backward is, and whether its operands are to be swapped.

    A dgrad multiplies the gradient and the layer's second operand, a wgrad the first one and the gradient.
    """
    x, w = t.products.get(-1 if call.forward is None else call.forward, (None, None))
    for operand, swapped in ((b, False), (a, True)):
        if w is not None and w in (operand, operand.remade):
            return "dgrad", swapped
    for operand, swapped in ((a, False), (b, True)):
        if x is not None and x in (operand, operand.remade):
            return "wgrad", swapped
    return "dgrad", False
