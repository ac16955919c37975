"""From translated ops to what a traced file holds: gradients found, what nobody reads left out, everything named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

from costsim.graph.ops import kind_of
from costsim.models.traced_file import Traced, TracedOp, TracedTensor
from costsim.trace.naming import name_all, name_dims
from costsim.trace.recording import Recording
from costsim.trace.sizes import Size
from costsim.trace.tensors import Emitted, Held
from costsim.trace.translate import translate
from costsim.trace.translator import Translator


def _gradients(t: Translator) -> dict[str, Held]:
    """By parameter: its gradient, with its dims; a copy is made where they lie in another order, as autograd does."""
    found: dict[str, Held] = {}
    for name, value in t.recording.gradients.items():
        view = t.view(value)
        t.at = len(t.recording.calls) - 1
        dims, flat = view.held.dims(), view.flat()
        fits = list(map(id, dims)) == list(map(id, flat)) and view.held not in found.values()
        weight = t.given[name]
        for slot, own in zip(flat, weight.dims(), strict=True):
            t.align([slot], [own])
        if fits and view.held not in t.given.values():
            found[name] = view.held
            continue
        found[name] = t.moved("copy", view.held, view.flat())
    return found


def _live(ops: Sequence[Emitted], wanted: Sequence[Held]) -> list[Emitted]:
    """The ops without views that nobody looks through."""
    read = set(map(id, wanted))
    kept: list[Emitted] = []
    for op in reversed(ops):
        if not kind_of(op.kind).view or any(id(held) in read for held in op.outputs):
            kept.append(op)
            read |= set(map(id, op.inputs))
    return kept[::-1]


def _views_first(ops: Sequence[Emitted]) -> list[Emitted]:
    """The ops, those of a call in a row: views of what other calls made come before what the call does."""
    ordered: list[Emitted] = []
    for _, group in groupby(ops, lambda op: id(op.call)):
        made: set[int] = set()
        first, rest = list[Emitted](), list[Emitted]()
        for op in group:
            early = kind_of(op.kind).view and made.isdisjoint(map(id, op.inputs))
            (first if early else rest).append(op)
            made |= set() if early else set(map(id, op.outputs))
        ordered += first + rest
    return ordered


def _joined(ops: Sequence[Emitted]) -> list[bool]:
    """By op, whether PyTorch does it in one call with the one before.

    A view is nothing that it does, unless it is of what the call has made for itself and goes on with.
    """
    last = {id(op.call): number for number, op in enumerate(ops) if not kind_of(op.kind).view}
    made: dict[int, Emitted] = {}  # by tensor, of what is done: the op
    joins: list[bool] = []
    for number, (before, op) in enumerate(pairwise([None, *ops])):
        assert op is not None
        source = made.get(id(op.inputs[0])) if kind_of(op.kind).view else op
        does = source is not None and source.call is op.call and number <= last.get(id(op.call), -1)
        if does:
            made |= dict.fromkeys(map(id, op.outputs), op)
        joins.append(does and before is not None and before.call is op.call and id(before.outputs[0]) in made)
    return joins


def _note_recomputed(ops: Sequence[Emitted]) -> None:
    """Have each op that runs again know the forward op that it repeats: the next of its kind in its module."""
    forward: dict[tuple[str, str], list[Emitted]] = {}
    for op in ops:
        if op.call.phase == "forward":
            forward.setdefault((op.call.path, op.call.op), []).append(op)
    at: dict[tuple[str, str], int] = {}
    for op in ops:
        key = (op.call.path, op.call.op)
        if op.call.phase == "recompute" and key in forward:
            number = at[key] = at.get(key, -1) + 1
            op.recomputes = forward[key][number % len(forward[key])]
            for again, first in zip(op.outputs, op.recomputes.outputs, strict=False):
                again.remade = first


def assemble(recording: Recording) -> Traced:
    """The traced graph of a recording. Raises InputError for what the graph cannot say."""
    t = translate(recording)
    gradients = _gradients(t)
    loss = t.straight(t.view(recording.loss))
    ops = _views_first(_live(t.emitted, [*gradients.values(), loss]))
    _note_recomputed(ops)
    read = {id(held) for op in ops for held in op.inputs}
    given = [held for held in t.given.values() if id(held) in read or held.role == "weight"]
    name_all(recording, ops, given)
    for name, held in gradients.items():
        weight = t.given[name]
        held.name, held.role, held.layer = f"{weight.name}.grad", "weight_gradient", weight.layer
    tables = _Tables(name_dims(recording, ops, given))
    for held in given:
        tables.add(held)
    rows = tuple([tables.row(op, joins) for op, joins in zip(ops, _joined(ops), strict=True)])
    named = tables.sizes.items()
    return Traced(
        source=recording.source,
        versions=recording.versions,
        examples=recording.examples,
        sizes={
            name: str(size) if size.names else size.number for size, name in named if name not in recording.examples
        },
        counted=recording.counted,
        dims=tuple(tables.dims),
        kinds=tuple(tables.kinds),
        tensors=tuple(tables.tensors),
        given=len(given),
        ops=rows,
        loss=tables.numbers[id(loss)],
        gradients={t.given[name].name: tables.numbers[id(held)] for name, held in gradients.items()},
    )


class _Tables:
    """The tables of a file, and the numbers that things have in them."""

    def __init__(self, sizes: Mapping[Size, str]) -> None:
        self.sizes = sizes  # the name of a dim by its size
        self.dims: dict[tuple[str, ...], int] = {}
        self.kinds: dict[str, int] = {}
        self.tensors: list[TracedTensor] = []
        self.numbers: dict[int, int] = {}  # of tensors, by identity

    def add(self, held: Held, role: str = "") -> None:
        """Add a tensor; the role is that of results that have none of their own."""
        dims = tuple(self.sizes[slot.axis.itself.size] for slot in held.dims())
        number = self.dims.setdefault(dims, len(self.dims))
        remade = None if held.remade is None else self.numbers.get(id(held.remade))
        self.numbers[id(held)] = len(self.tensors)
        role = held.role or role
        self.tensors.append(TracedTensor(held.name, number, role, held.values, held.layer, remade))

    def row(self, op: Emitted, joins: bool) -> TracedOp:
        """An op, whose results are added; `joins` the call of the op before."""
        for held in op.outputs:
            self.add(held, "gradient" if op.call.phase == "backward" else "activation")
        inputs, outputs = (tuple([self.numbers[id(held)] for held in some]) for some in (op.inputs, op.outputs))
        kind = self.kinds.setdefault(op.kind, len(self.kinds))
        recomputes = op.recomputes.name if op.recomputes else None
        place = (op.call.phase, op.layer, op.gemm, op.params, recomputes, joins or None)
        return TracedOp(op.name, kind, inputs, outputs, *place)
