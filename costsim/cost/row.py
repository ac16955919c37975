"""What is counted: a row for ops that are alike, and what each moves; which scopes hold an op."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from costsim.cost.collectives import Message
from costsim.cost.laws import Additions, Law
from costsim.formats.format import Format
from costsim.graph.graph import Op
from costsim.names import Scope
from costsim.policy.assign import Copy


class Move(NamedTuple):
    """Bits that cross the DRAM interface for one op, of one tensor or copy, over a whole training step."""

    slot: int  # which tensor: of the op's inputs, then outputs
    copy: Copy | None  # of it, None: the tensor itself
    role: str  # of the tensor whose values they are
    read_bits: int
    written_bits: int
    elements: int  # moved in either direction

    def tensor(self, op: Op) -> str:
        """The name of what is moved: a tensor's or a copy's."""
        name = (op.inputs + op.outputs)[self.slot]
        return f"{name}{self.copy.label}" if self.copy else name


class Row(NamedTuple):
    """What each of some ops that are alike costs, over all its runs in a training step."""

    ops: list[Op]
    cast: Move | None  # set on the quantize kernel that makes this copy for the op
    kind: str
    phase: str
    gemm: str | None
    role: str  # of the result
    macs: int
    summed: int  # products in each sum of a GEMM, else 0
    pair: tuple[Format, Format, Format] | None  # operands and accumulator of the MACs
    additions: Additions  # of the products, by the format of their sums: as many as MACs of a GEMM
    vector: Mapping[str, int]  # operations on elements, by name; `quantize` is one conversion to another format
    moves: tuple[Move, ...]
    messages: tuple[Message, ...] = ()  # to other ranks

    def cost(self, law: Law) -> int | None:
        """What the MACs of an op cost under a law; None if it is not defined for them."""
        return law.cost(*self.pair[:2], self.summed, self.macs, self.additions) if self.pair else 0

    @property
    def pair_name(self) -> str:
        """The formats of the MACs, for tables."""
        if self.pair is None:
            return "no MACs"
        a, b, accumulator = self.pair
        return f"{a.name} x {b.name} + {accumulator.name}"

    @property
    def gemm_name(self) -> str:
        """Which product of a layer this is, for tables: of the forward only what is not made again for the backward."""
        return "no GEMM" if self.gemm is None else "recompute" if self.phase == "recompute" else self.gemm

    def name(self, op: Op) -> str:
        """The op's name, or that of the quantize kernel before it."""
        if self.cast is None or self.cast.copy is None:
            return op.name
        return self.cast.copy.cast_name((op.inputs + op.outputs)[self.cast.slot], op.name)

    def result(self, op: Op) -> str:
        """The tensor that is made or copied; groupings by tensor give the op's work to it."""
        return (op.inputs + op.outputs)[self.cast.slot] if self.cast else op.outputs[0]


def narrowest_scope(op: "Op | Row") -> Scope:
    """The first scope that an op is in; each scope holds those before it.

    `gemm`: matrix products; `layer`: all ops of forward and backward; `step`: the update too.
    """
    return "gemm" if op.gemm is not None else "step" if op.phase == "update" else "layer"


def moves_by_name(row: Row, op: Op) -> dict[str, tuple[int, int]]:
    """Bits read and bits written for one op of a row, by tensor or copy."""
    moved: dict[str, tuple[int, int]] = {}
    for move in row.moves:
        name = move.tensor(op)
        read, written = moved.get(name, (0, 0))
        moved[name] = (read + move.read_bits, written + move.written_bits)
    return moved


def each_op(rows: Iterable[Row]) -> list[tuple[Op, Row]]:
    """Every op with its row, in the order of the graph."""
    return sorted(((op, row) for row in rows for op in row.ops), key=lambda pair: pair[0].position)
