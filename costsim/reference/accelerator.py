"""DRAM and a chip that runs one op after another: holds tensors in their formats, measures what moves between the two.

`plan` says which op reads what from where, `numpy_ops` how one op is computed, `execute` which ops run when.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from costsim.formats import hadamard
from costsim.formats.format import Format
from costsim.formats.pack import Packed, pack, unpack
from costsim.formats.quantize import needs_float64, quantize
from costsim.graph.graph import Op
from costsim.graph.kinds import expand
from costsim.reference import ragged
from costsim.reference.numpy_ops import Array
from costsim.reference.plan import Item, Plan, item_name

Values = dict[str, Array]  # by tensor
Clock = Callable[[], float]  # seconds
Compute = Callable[..., tuple[tuple[Array, ...], int]]  # of an op, its inputs and `micro`: as `numpy_ops.run_op`


@dataclass(slots=True)
class Measured:
    """What one op was seen to do in a step."""

    products: int = 0
    seconds: float = 0.0  # in the op itself, by the clock that the accelerator has
    quantized: int = 0  # numbers converted to make copies
    read_bits: dict[str, int] = field(default_factory=dict)  # by name of the tensor or copy
    written_bits: dict[str, int] = field(default_factory=dict)

    def load(self, name: str, bits: int) -> None:
        """So many bits came from DRAM."""
        self.read_bits[name] = self.read_bits.get(name, 0) + bits

    def store(self, name: str, bits: int) -> None:
        """So many bits went to DRAM."""
        self.written_bits[name] = self.written_bits.get(name, 0) + bits


def _storable(x: Array, format: Format) -> Array:
    """Scores masked with minus infinity, for a format that has none: far enough below the others that exp makes 0."""
    if format.holds_infinity:
        return x
    masked = np.isneginf(x)
    if not masked.any():
        return x
    lowest = x[~masked].min() if not masked.all() else 0.0
    return np.where(masked, lowest - 104, x).astype(x.dtype)  # exp(-104) is below the least float32


@dataclass(slots=True)
class Accelerator:
    """DRAM and a chip. Moves are measured if `measure` is set; numbers are the same either way."""

    plan: Plan
    compute: Compute
    dtype: Any  # of formats that need no float64
    measure: bool
    clock: Clock
    values: Values = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)  # by op, or by cast
    _dram: dict[Item, Array | Packed] = field(default_factory=dict)
    _bits: dict[Item, int] = field(default_factory=dict)  # of what is in DRAM as pairs that meet, or as a view
    _chip: dict[Item, Array] = field(default_factory=dict)

    def give(self, name: str, x: Array) -> None:
        """Put a tensor from outside into DRAM, with the copies that the last step's update would have left of it."""
        item: Item = (name, None)
        held = self.values[name] = self._held(item, x)
        self._place(item, x, held)
        maker = self.plan.graph.maker.get(name)
        if maker is not None:
            self._make_copies(maker, {item: held}, Measured())

    def run(self, op: Op, micro: int, counts: bool) -> None:
        """Run one op. `counts` is False where the op only starts a sum of gradients, which is no cost of a step."""
        if self.plan.starts_kernel(op):
            self._chip = {}
        if op.kind.view:
            self._view(op, micro)
            return
        self._cast(op, micro, counts)
        record = self._record(op.name, counts)
        looked_up = [i for i in range(len(op.inputs)) if self._is_looked_up(op, i)]
        inputs = [self._read(op, i, record, whole=i not in looked_up) for i in range(len(op.inputs))]
        start = self.clock()
        results, products = self.compute(op, inputs, micro=micro)
        record.seconds += self.clock() - start
        record.products += products
        for operand in looked_up:
            item = self.plan.loads[op.position, operand]
            format, _ = self.plan.format_of(item)
            if self.measure and format is not None:
                touched = self._touched(op, operand, inputs[operand], results[0])
                rows = (touched.ndim - 1,)  # blocks of what is looked up lie along its rows
                record.load(item_name(item, op.inputs[operand]), pack(touched, format, rows).bits)
        self._leave(op, results, record)
        for item in self.plan.casts.get(op.position, {}):
            if item[1] is not None and item[1].transient:
                del self._dram[item]

    def _touched(self, op: Op, operand: int, x: Array | None, made: Array) -> Array:
        """What a lookup touches: what comes out of it, or, where that is summed up at once, as many elements of x."""
        pattern = op.kind.touched[operand]
        assert pattern is not None
        assert x is not None
        shape = tuple(map(self.plan.graph.size, expand(pattern, op.env)))
        return made if made.size == math.prod(shape) else x.reshape(-1)[: math.prod(shape)].reshape(shape)

    def _view(self, op: Op, micro: int) -> None:
        """Have the results of a view in DRAM, where they are already: numbers as they are held, and no move."""
        operands = [self._fetch((self.plan.graph.root[name], None))[0] for name in op.inputs]
        results, _ = self.compute(op, operands, micro=micro)
        for name, x in zip(op.outputs, results, strict=True):
            item: Item = (name, None)
            self.values[name] = self._dram[item] = x
            format, axes = self.plan.format_of(item)
            if self.measure and format is not None:
                self._bits[item] = pack(self._ready(item, x), format, axes).bits

    def _record(self, name: str, counts: bool) -> Measured:
        """Where to note what an op or a cast does; nowhere that is looked at, if it is no cost of a step."""
        return self.measured.setdefault(name, Measured()) if counts else Measured()

    def _leave(self, op: Op, results: tuple[Array, ...], record: Measured) -> None:
        """Hold the results on chip, and store those in DRAM that another kernel loads."""
        made: dict[Item, Array] = {}
        for name, x in zip(op.outputs, results, strict=True):
            item: Item = (self.plan.graph.root[name], None)
            held = self._held(item, x)
            self.values[name] = made[item] = self._chip[item] = held
            self.values.setdefault(item[0], held)  # a sum of gradients, which the first one starts
            if self.plan.is_stored(name):
                record.store(name, self._place(item, x, held))
        self._make_copies(op, made, record)

    def _make_copies(self, op: Op, made: dict[Item, Array], record: Measured) -> None:
        """Make the copies that go along with what an op makes, and store those that are loaded later."""
        for item, source in self.plan.made.get(op.position, {}).items():
            if source in made:
                x = made[source]
                made[item] = self._chip[item] = self._held(item, x)
                record.quantized += ragged.numbers(self.plan.graph, item[0], x)
                if item in self.plan.loaded:
                    record.store(item_name(item), self._place(item, x, made[item]))

    def _cast(self, op: Op, micro: int, counts: bool) -> None:
        """Make the copies that take a pass of their own before an op; of what does not change in a step, once.

        Transient ones are made each time, and `counts` says whether that is a cost of the step, as of the op.
        """
        graph = self.plan.graph
        for item, source in self.plan.casts.get(op.position, {}).items():
            tensor, copy = graph.tensors[source[0]], item[1]
            assert copy is not None  # a cast makes copies only
            lasts = tensor.role in ("weight", "state") and tensor.name not in graph.producer
            if micro and lasts and not copy.transient:
                continue
            record = self._record(copy.cast_name(item[0], op.name), counts or not copy.transient)
            x, bits = self._fetch(source)
            record.load(item_name(source), bits * (2 if copy.second_read else 1))
            record.store(item_name(item), self._place(item, x, self._held(item, x)))
            record.quantized += ragged.numbers(self.plan.graph, item[0], x)

    def _is_looked_up(self, op: Op, operand: int) -> bool:
        """Whether an op loads only a part of an operand. A copy is made of the whole, and loaded whole."""
        item = self.plan.loads[op.position, operand]
        return op.kind.touched[operand] is not None and item[1] is None and item not in self._chip

    def _read(self, op: Op, operand: int, record: Measured, whole: bool) -> Array | None:
        """An operand as the op sees it: loaded if it is not on chip, through the copies that the op makes itself.

        What of it is loaded is measured here if that is the `whole`.
        """
        item = self.plan.loads[op.position, operand]
        local = self.plan.local.get((op.position, operand), [])
        if item not in self._chip:
            if item not in self._dram:
                return None  # the sum of gradients, before the first
            self._chip[item], bits = self._fetch(item)
            if whole:
                again = sum(copy.second_read for copy in local)
                record.load(item_name(item, op.inputs[operand]), bits * (1 + again))
        x = self._chip[item]
        for copy in local:
            record.quantized += ragged.numbers(self.plan.graph, item[0], x)
            x = self._held((item[0], copy), x)
        return x

    # --- numbers in formats -------------------------------------------------------------------------------------------

    def _ready(self, item: Item, x: Array) -> Array:
        """Numbers in the dtype that the item's format works in, transformed if the copy is."""
        format, _ = self.plan.format_of(item)
        if format is None or format.values != "float":
            return x
        ready = _storable(np.asarray(x) if needs_float64(format) else np.asarray(x, self.dtype), format)
        transform = item[1].transform if item[1] else None
        return hadamard.transformed(ready, *transform)[0] if transform else ready

    def _held(self, item: Item, x: Array) -> Array:
        """Numbers as the item's format holds them."""
        format, axes = self.plan.format_of(item)
        return x if format is None else quantize(self._ready(item, x), format, axes)

    def _place(self, item: Item, x: Array, held: Array) -> int:
        """Put numbers into DRAM, as bits if they are measured; how many bits. `held` is what the format makes of x."""
        format, axes = self.plan.format_of(item)
        if not self.measure or format is None:
            self._dram[item] = held
            return 0
        packed = pack(self._ready(item, x), format, axes)
        self._dram[item] = packed
        if self.plan.graph.ragged(self.plan.graph.tensors[item[0]].dims) is None:
            return packed.bits
        self._bits[item] = ragged.bits(self.plan.graph, item[0], self._ready(item, x), format, axes)
        return self._bits[item]

    def _fetch(self, item: Item) -> tuple[Array, int]:
        """Numbers from DRAM, and how many bits they took."""
        stored = self._dram[item]
        if isinstance(stored, Packed):
            return unpack(stored), self._bits.get(item, stored.bits)
        return stored, self._bits.get(item, 0)
