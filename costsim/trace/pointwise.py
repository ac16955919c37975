"""Appends ops on elements that line up by PyTorch's rules of broadcasting, and reductions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from costsim.graph.ops import FUNCTIONS, OPS
from costsim.trace.recording import Value
from costsim.trace.sizes import Size
from costsim.trace.tensors import Held, Memory, Slot, View, slots_of, values_of
from costsim.trace.translator import Lettered, Translator

Index = tuple[int, int]  # the axis of the result, and which of its dims
PAIR = Size(2)  # of a complex number


def pointwise(t: Translator, function: str, operands: Sequence[Value], made: Value, /, **params: Any) -> None:
    """Append a function of elements that line up, with its dims in the order of the first operand that has them all.

    So does PyTorch, whose results lie in memory as their operands do. Complex numbers are pairs along one axis more.
    """
    shape = (*made.shape, PAIR) if made.is_complex else made.shape
    views = [t.view(operand) for operand in operands]
    if made.is_complex:
        views = [v if x.is_complex else View(v.memory, (*v.axes, ())) for v, x in zip(views, operands, strict=True)]
    index: list[dict[int, Index]] = [{} for _ in views]
    flat: dict[Index, Slot] = {}
    for number, size in enumerate(shape):
        lined = _line_up(t, views, index, number, len(shape))
        lined = lined or [Slot(t.axis(("repeated", number), size))]
        flat |= {(number, k): Slot(slot.axis) for k, slot in enumerate(slots_of(lined))}
    terms = [_term(view, given) for view, given in zip(views, index, strict=True)]
    order = next((term for term in terms if len(term) == len(flat)), list(flat))
    held = Held([flat[i] for i in order], values_of(made), made.dtype)
    _emit(t, function, [view.held for view in views], [*terms, order], held, params)
    t.write(made, held, _axes(flat, len(shape)))


def _line_up(
    t: Translator, views: Sequence[View], index: Sequence[dict[int, Index]], axis: int, rank: int
) -> list[Slot]:
    """Align one axis of all operands, and note the index of each of their slots."""
    lined: list[Slot] = []
    for view, given in zip(views, index, strict=True):
        slots = list(view.axes[axis - rank]) if len(view.axes) >= rank - axis else []
        if not slots_of(slots):
            continue
        if lined:
            t.align(lined, slots)
        lined = lined or slots
        given.update({id(slot): (axis, k) for k, slot in enumerate(slots_of(slots))})
    return lined


def _term(view: View, index: Mapping[int, Index]) -> list[Index]:
    """The indices of the dims of what a view looks at, in its order."""
    return [i for slot in view.held.dims() if (i := index.get(id(slot))) is not None]


def _axes(flat: Mapping[Index, Slot], rank: int) -> list[list[Slot]]:
    """Slots by the axis that their index names, in order."""
    axes: list[list[Slot]] = [[] for _ in range(rank)]
    for i in sorted(flat):
        axes[i[0]].append(flat[i])
    return axes


def reduction(t: Translator, function: str, value: Value, axes: Sequence[int], made: Value, keep: bool) -> None:
    """Append a reduction of a value over some of its axes, which stay with one element each if they are kept."""
    view = t.view(value)
    rank = len(view.axes)
    gone = {axis % rank for axis in axes} if rank else set()
    own = set(map(id, view.held.dims()))
    if any(id(slot) not in own for number in gone for slot in view.axis(number)):  # a sum counts what is repeated
        held = t.moved("copy", view.held, view.flat())
        left = held.dims()
        cut = [[left.pop(0) for _ in view.axis(number)] for number in range(rank)]
        view = View(Memory(held), tuple(map(tuple, cut)))
    index = {id(slot): (number, k) for number in range(rank) for k, slot in enumerate(view.axis(number))}
    flat = {i: Slot(slot.axis) for slot in view.flat() if (i := index[id(slot)])[0] not in gone}
    term = _term(view, index)
    order = [i for i in term if i in flat]
    order += [i for i in flat if i not in order]
    made_of = Held([flat[i] for i in order], values_of(made), made.dtype)
    _emit(t, function, [view.held], [term, order], made_of, {})
    kept = _axes(flat, rank)
    t.write(made, made_of, kept if keep else [axis for number, axis in enumerate(kept) if number not in gone])


def scaled(t: Translator, value: Value, factor: float) -> Value:
    """Append a scaling of a value whose result has no value of its own in the recording; it gets one."""
    made = t.invented(value)
    pointwise(t, "scale", [value], made, factor=float(factor))
    return made


def _emit(
    t: Translator, function: str, helds: list[Held], terms: list[list[Index]], held: Held, params: Mapping[str, Any]
) -> None:
    """Append the row that a function is for these operands, or its equation; the last term is the result's."""
    if row := _row(function, terms[:-1], terms[-1]):
        kind, swapped = row
        t.emit(kind, helds[::-1] if swapped else helds, [held], **params)
        return
    letters = Lettered()
    if function not in FUNCTIONS:  # a row, which takes operands of one shape and order
        helds = [_spread(t, operand, term, terms[-1], held) for operand, term in zip(helds, terms, strict=False)]
        t.emit(function, helds, [held], **params)
        return
    texts = ["".join(letters[i] for i in term) for term in terms]
    t.emit(f"{function} {','.join(texts[:-1])}->{texts[-1]}", helds, [held], **params)


def _spread(t: Translator, operand: Held, term: list[Index], order: list[Index], like: Held) -> Held:
    """An operand with all the dims of a result in its order: by a view, or a copy where it is repeated."""
    if term == order:
        return operand
    letters = Lettered()
    before, after = ("".join(letters[i] for i in each) for each in (term, order))
    made = Held([Slot(slot.axis) for slot in like.slots], operand.values, operand.dtype)
    t.emit(f"{'permute' if len(term) == len(order) else 'copy'} {before}->{after}", [operand], [made])
    return made


def _row(function: str, terms: Sequence[list[Index]], order: list[Index]) -> tuple[str, bool] | None:
    """The row of the table that a function is for operands with these indices; whether they have to be swapped."""
    if all(term == order for term in terms):
        return (function, False) if function in OPS else None
    if function == "sum" and len(terms) == 1 and terms[0][len(terms[0]) - len(order) :] == order:
        return "sum_leading", False
    if function == "mean_of" and terms[0][:-1] == order:
        return "mean", False
    for (whole, part), swapped in (((terms[0], terms[-1]), False), ((terms[-1], terms[0]), True)):
        if len(terms) != 2 or whole != order or not 0 < len(part) < len(order):
            continue
        if function == "add" and order[-len(part) :] == part:
            return "add_bias", swapped
        if function == "mul" and order[-1:] == part:
            return "scale_columns", swapped
        if function == "mul" and order[:-1] == part:
            return "scale_rows", swapped
    return None
