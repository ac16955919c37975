"""Runs a graph in NumPy: the ops that the cost model counts, in the same order, on real numbers in real formats.

Without an assignment every tensor is held as it is computed. With one, every tensor is held in its stored format, every
read goes through its copies, and what crosses between DRAM (packed bits) and the chip is measured: multiplications from
the shapes of the arrays that are handed to matmul, traffic from the lengths of the buffers loaded and stored. Nothing
here reads the cost model or the work that op kinds declare.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from costsim.formats.format import Format
from costsim.formats.pack import Packed, pack, unpack
from costsim.formats.quantize import needs_float64, quantize
from costsim.graph.autodiff import AFTER_FORWARD
from costsim.graph.graph import Graph, Op
from costsim.policy.assign import Assignment, Copy

Array = np.ndarray[Any, Any]
Values = dict[str, Array]
Clock = Callable[[], float]
Item = tuple[str, Copy | None]  # what lies in DRAM: a tensor (by the name of its memory), or a copy of it


# --- ops --------------------------------------------------------------------------------------------------------------


@cache
def _as_matmul(equation: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, int, int, int]]:
    """How to turn an einsum equation of two operands into a batch of matrix products.

    The axes of x in the order (batch, rows, summed), those of w as (batch, summed, columns), those of the result
    (batch, rows, columns) in the order that the equation wants, and how many there are of each.
    """
    operands, y = equation.split("->")
    x, w = operands.split(",")
    batch = [letter for letter in x if letter in w and letter in y]
    summed = [letter for letter in x if letter in w and letter not in y]
    rows = [letter for letter in x if letter not in w]
    columns = [letter for letter in w if letter not in x]
    made = batch + rows + columns
    return (
        tuple(x.index(letter) for letter in batch + rows + summed),
        tuple(w.index(letter) for letter in batch + summed + columns),
        tuple(made.index(letter) for letter in y),
        (len(batch), len(rows), len(summed), len(columns)),
    )


def contract(equation: str, x: Array, w: Array, dtype: Any = None) -> tuple[Array, int]:
    """A contraction by matrix products (BLAS), and the multiplications done: the sizes of what matmul was given.

    Sums are made in the dtype of the operands, or in `dtype`: float64 sums products of few bits exactly.
    """
    of_x, of_w, of_y, (batch, rows, summed, _) = _as_matmul(equation)
    x, w = x.transpose(of_x), w.transpose(of_w)
    stack, m, n = x.shape[:batch], x.shape[batch : batch + rows], w.shape[batch + summed :]
    a = x.reshape(math.prod(stack), math.prod(m), -1)
    b = w.reshape(math.prod(stack), -1, math.prod(n))
    if dtype is not None:
        a, b = a.astype(dtype), b.astype(dtype)
    y = np.matmul(a, b)
    products = a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2]
    return y.reshape(*stack, *m, *n).transpose(of_y), products


def run_op(
    graph: Graph, op: Op, inputs: Sequence[Array | None], *, seed: int, step: int, micro: int, dtype: Any = None
) -> tuple[tuple[Array, ...], int]:
    """The results of one op, in the order of its outputs, and the multiplications that a matrix product took."""
    if op.kind.is_contraction and all(x is not None and x.dtype != object for x in inputs):
        x, w = inputs
        result, products = contract(op.kind.name, x, w, dtype)  # type: ignore[arg-type]
        return (result,), products
    runtime = {
        "shape": graph.shape(op.outputs[0]),
        "step": step,
        "key": (seed, step, micro, zlib.crc32(op.original.encode())),
    }
    given = {name: runtime[name] for name in op.kind.runtime}
    result = op.kind.run(*inputs, **op.params, **given)
    return (result if isinstance(result, tuple) else (result,)), 0


# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Measured:
    """What one op was seen to do in a step."""

    products: int = 0
    seconds: float = 0.0  # in the op itself, by the clock that `run` was given
    quantized: int = 0  # numbers converted to make copies
    read_bits: dict[str, int] = field(default_factory=dict)  # by name of the tensor or copy
    written_bits: dict[str, int] = field(default_factory=dict)

    def load(self, name: str, bits: int) -> None:
        """So many bits came from DRAM."""
        self.read_bits[name] = self.read_bits.get(name, 0) + bits

    def store(self, name: str, bits: int) -> None:
        """So many bits went to DRAM."""
        self.written_bits[name] = self.written_bits.get(name, 0) + bits


@dataclass(slots=True)
class Run:
    """What a run left: every tensor (of the last micro-batch), every loss, and by op (and cast) what was measured."""

    values: Values
    losses: list[float]
    measured: dict[str, Measured]

    def weights(self, graph: Graph) -> Values:
        """The weights and states that the next step starts from."""
        updated = (t for t in graph.tensors.values() if t.alias is not None and t.role in ("weight", "state"))
        return {str(tensor.alias): self.values[tensor.name] for tensor in updated}


# --- who reads what ---------------------------------------------------------------------------------------------------


class _Plan:
    """What each op loads, which copies it makes, and what has to go to DRAM because another kernel loads it."""

    def __init__(self, graph: Graph, assignment: Assignment | None, group: Sequence[int]) -> None:
        self.graph = graph
        self.loads: dict[tuple[int, int], Item] = {}
        self.local: dict[tuple[int, int], list[Copy]] = {}  # copies that an op makes for itself
        self.made: dict[int, dict[Item, Item]] = {}  # by op: copies made along with what it makes, and from what
        self.casts: dict[int, dict[Item, Item]] = {}  # by op: copies made by a pass before it, and from what
        cast: set[Item] = set()
        first: dict[Item, Item] = {}  # equal copies are one, whose name the first reader gives
        for op in graph.ops:
            for i, name in enumerate(op.inputs):
                item: Item = (graph.root[name], None)
                maker = graph.maker.get(name)
                for copy in assignment.chain(op, i) if assignment else ():
                    made = first.setdefault((item[0], copy), (item[0], copy))
                    if copy.placement == "on_chip":
                        self.local.setdefault((op.position, i), []).append(copy)
                        continue
                    if copy.placement == "at_producer" and maker is not None:
                        self.made.setdefault(maker.position, {})[made] = item
                    elif made not in cast:
                        cast.add(made)
                        self.casts.setdefault(op.position, {})[made] = item
                    item = made
                self.loads[op.position, i] = item
        self.loaded: set[Item] = set()
        self._find_loaded(group)
        self.replaced = {source for made in self.made.values() for source in made.values()}

    def _find_loaded(self, group: Sequence[int]) -> None:
        """Play the kernels through: what is not on chip when an op wants it is loaded."""
        on_chip: set[Item] = set()
        for op in self.graph.ops:
            if op.position == 0 or group[op.position] != group[op.position - 1]:
                on_chip = set()
            self.loaded.update(self.casts.get(op.position, {}).values())
            for i in range(len(op.inputs)):
                item = self.loads[op.position, i]
                if item not in on_chip:
                    self.loaded.add(item)
                on_chip.add(item)
            on_chip.update((self.graph.root[name], None) for name in op.outputs)
            on_chip.update(self.made.get(op.position, {}))

    def is_stored(self, name: str) -> bool:
        """Whether a result goes to DRAM: somebody loads it, it is an update in place, or nobody reads it at all."""
        item: Item = (self.graph.root[name], None)
        in_place = self.graph.tensors[name].alias is not None
        unread = name not in self.graph.readers and item not in self.replaced
        return in_place or unread or item in self.loaded


# --- the machine ------------------------------------------------------------------------------------------------------


def _storable(x: Array, format: Format) -> Array:
    """Scores masked with minus infinity, for a format that has none: far enough below the others that exp makes 0."""
    if format.family == "float" and not format.scales and format.top == "ieee":
        return x
    masked = np.isneginf(x)
    if not masked.any():
        return x
    lowest = x[~masked].min() if not masked.all() else 0.0
    return np.where(masked, lowest - 104, x).astype(x.dtype)  # exp(-104) is below the least float32


class _Machine:
    """DRAM and a chip. Moves are measured if `measure` is set; numbers are the same either way."""

    def __init__(
        self,
        graph: Graph,
        assignment: Assignment | None,
        group: Sequence[int],
        dtype: Any,
        measure: bool,
        exact: bool,
        clock: Clock | None,
    ) -> None:
        self.graph, self.assignment, self.group = graph, assignment, group
        self.dtype, self.measure, self.exact, self.clock = dtype, measure, exact, clock
        self.plan = _Plan(graph, assignment, group)
        self.dram: dict[Item, Array | Packed] = {}
        self.chip: dict[Item, Array] = {}
        self.values: Values = {}
        self.measured: dict[str, Measured] = {}
        self.partly: list[tuple[int, Item]] = []  # operands of the op that runs, of which only a part is loaded

    def format_of(self, item: Item) -> tuple[Format | None, tuple[int, ...] | None]:
        """The format of an item, and the axes along which its blocks lie."""
        if item[1] is not None:
            return item[1].format, item[1].axes
        return (self.assignment.format(item[0]) if self.assignment else None), None

    def ready(self, item: Item, x: Array) -> Array:
        """Numbers in the dtype that the item's format works in."""
        format, _ = self.format_of(item)
        if format is None or format.values != "float":
            return x
        return _storable(np.asarray(x) if needs_float64(format) else np.asarray(x, self.dtype), format)

    def held(self, item: Item, x: Array) -> Array:
        """Numbers as the item's format holds them."""
        format, axes = self.format_of(item)
        return x if format is None else quantize(self.ready(item, x), format, axes)

    def place(self, item: Item, x: Array, held: Array) -> int:
        """Put numbers into DRAM, as bits if they are measured; how many bits. `held` is what the format makes of x."""
        format, axes = self.format_of(item)
        if not self.measure or format is None:
            self.dram[item] = held
            return 0
        packed = pack(self.ready(item, x), format, axes)
        self.dram[item] = packed
        return packed.bits

    def fetch(self, item: Item) -> tuple[Array, int]:
        """Numbers from DRAM, and how many bits they took."""
        found = self.dram[item]
        return (unpack(found), found.bits) if isinstance(found, Packed) else (found, 0)

    def given(self, name: str, x: Array) -> None:
        """A tensor from outside, and the copies of it that the last step's update would have left."""
        item = (name, None)
        held = self.values[name] = self.held(item, x)
        self.place(item, x, held)
        maker = self.graph.maker.get(name)
        if maker is not None:
            self.make_copies(maker, {item: held}, Measured())

    def make_copies(self, op: Op, known: dict[Item, Array], seen: Measured) -> None:
        """Make the copies that go along with what an op makes, and store those that are loaded later."""
        for item, source in self.plan.made.get(op.position, {}).items():
            if source in known:
                x = known[source]
                known[item] = self.chip[item] = self.held(item, x)
                seen.quantized += x.size
                if item in self.plan.loaded:
                    seen.store(_name(item), self.place(item, x, known[item]))

    def cast(self, op: Op, micro: int) -> None:
        """The passes of their own that make copies before an op; of what does not change in a step, once."""
        for item, source in self.plan.casts.get(op.position, {}).items():
            tensor = self.graph.tensors[source[0]]
            if micro and tensor.role in ("weight", "state") and tensor.name not in self.graph.producer:
                continue
            seen = self.measured.setdefault(f"{_name(item)}.cast", Measured())
            x, bits = self.fetch(source)
            copy = item[1]
            seen.load(_name(source), bits * (2 if copy is not None and copy.second_read else 1))
            seen.store(_name(item), self.place(item, x, self.held(item, x)))
            seen.quantized += x.size

    def read(self, op: Op, operand: int, seen: Measured) -> Array | None:
        """An operand as the op sees it: loaded if it is not on chip, through the copies that the op makes itself."""
        item = self.plan.loads[op.position, operand]
        if item not in self.chip:
            if item not in self.dram:
                return None  # the sum of gradients, before the first
            self.chip[item], bits = self.fetch(item)
            if op.kind.touched[operand] is None or item[1] is not None:
                local = self.plan.local.get((op.position, operand), [])
                again = sum(copy.second_read for copy in local)
                seen.load(_name(item, op.inputs[operand]), bits * (1 + again))
            else:
                self.partly.append((operand, item))
        x = self.chip[item]
        for copy in self.plan.local.get((op.position, operand), []):
            seen.quantized += x.size
            x = self.held((item[0], copy), x)
        return x

    def step(self, op: Op, seed: int, step: int, micro: int, counts: bool) -> None:
        """Run one op; what it does is measured if that is the cost of a step (and not of starting one)."""
        if op.position == 0 or self.group[op.position] != self.group[op.position - 1]:
            self.chip = {}
        self.cast(op, micro)
        seen = self.measured.setdefault(op.name, Measured()) if counts else Measured()
        self.partly = []
        inputs = [self.read(op, i, seen) for i in range(len(op.inputs))]
        dtype = np.float64 if self.exact else None
        start = self.clock() if self.clock else 0.0
        results, products = run_op(self.graph, op, inputs, seed=seed, step=step, micro=micro, dtype=dtype)
        seen.seconds += self.clock() - start if self.clock else 0.0
        seen.products += products
        for operand, part in self.partly:
            # What a lookup touches is what comes out of it.
            format, axes = self.format_of(part)
            if self.measure and format is not None:
                seen.load(_name(part, op.inputs[operand]), pack(results[0], format, axes).bits)
        known: dict[Item, Array] = {}
        for name, result in zip(op.outputs, results, strict=True):
            item: Item = (self.graph.root[name], None)
            held = self.held(item, result)
            self.values[name] = known[item] = self.chip[item] = held
            self.values.setdefault(item[0], held)  # a sum of gradients, which the first one starts
            if self.plan.is_stored(name):
                seen.store(name, self.place(item, result, held))
        self.make_copies(op, known, seen)


def _name(item: Item, tensor: str | None = None) -> str:
    return f"{tensor or item[0]}{item[1].label if item[1] else ''}"


def run(
    graph: Graph,
    weights: Mapping[str, Array],
    batches: Iterable[Mapping[str, Array]],
    *,
    assignment: Assignment | None = None,
    group: Sequence[int] | None = None,
    seed: int = 0,
    step: int = 1,
    measure: bool = False,
    exact: bool = False,
    forward_only: bool = False,
    clock: Clock | None = None,
) -> Run:
    """Run one training step: forward and backward once per micro-batch in `batches`, then the update.

    `weights` holds weights and states by name, each batch the data tensors. Missing states start at 0, the gradient of
    the loss is 1. `group` says which ops are one kernel (by position, default each for itself), `measure` whether
    tensors are packed to bits and counted, `exact` that products are summed in float64; `forward_only` ends at the
    loss. A `clock`, in seconds, times each op, without holding and packing. The dtype is that of the weights. Raises
    KeyError for a missing tensor, ValueError if the number of batches is not the graph's or numbers are not finite
    where a format must have them so.
    """
    floats = [x.dtype for x in weights.values() if x.dtype.kind == "f"]
    dtype = np.result_type(*floats) if floats else np.dtype(np.float32)
    group = range(len(graph.ops)) if group is None else group
    machine = _Machine(graph, assignment, group, dtype, measure, exact, clock)
    for tensor in graph.tensors.values():
        if tensor.name in graph.producer or tensor.alias is not None:
            continue
        if tensor.role == "weight" or tensor.name in weights:
            machine.given(tensor.name, weights[tensor.name])
        elif tensor.role == "state":
            machine.given(tensor.name, np.zeros(graph.shape(tensor.name), dtype))
        elif tensor.role == "gradient":
            machine.given(tensor.name, np.ones(graph.shape(tensor.name), dtype))
    losses = []
    done = 0
    for micro, batch in enumerate(batches):
        for tensor in graph.tensors.values():
            if tensor.role == "data" and tensor.name not in graph.producer:
                machine.given(tensor.name, batch[tensor.name])
        for op in graph.ops:
            if op.phase == "forward" or (op.phase in AFTER_FORWARD and not forward_only):
                starts = micro < graph.micro_batches - op.times  # the first gradient is the sum: nothing to add yet
                machine.step(op, seed, step, micro, counts=not starts)
        losses += [float(machine.values[op.outputs[0]]) for op in graph.ops if op.kind.name == "cross_entropy"]
        done += 1
    if done != graph.micro_batches:
        raise ValueError(f"the graph takes {graph.micro_batches} micro-batches, got {done}")
    for op in () if forward_only else graph.ops:
        if op.phase == "update":
            machine.step(op, seed, step, 0, counts=True)
    return Run(machine.values, losses, machine.measured)


def execute(
    graph: Graph, weights: Mapping[str, Array], batches: Iterable[Mapping[str, Array]], *, seed: int = 0, step: int = 1
) -> Values:
    """Every tensor after one training step in plain floating point, without any format: see `run`."""
    return run(graph, weights, batches, seed=seed, step=step).values
