"""Time and energy of a compiled step on a device: the roofline of each kernel, for any policy of a space.

The same figures as `roofline.spend` gives for one policy, as tables. Floats begin here: all counts are exact integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from costsim.cost.collectives import Message
from costsim.cost.kernels import Gemm, Kernel, Kernels, Pair
from costsim.cost.measure import Measure, total_of
from costsim.cost.parts import Pass
from costsim.cost.terms import Condition, Sum, Terms
from costsim.devices.energy import DRAM, PICO, TABLES, mac_pj
from costsim.devices.links import HIDDEN, time_of
from costsim.devices.measured import Pace, measured_cast
from costsim.devices.profile import Hardware, Rate
from costsim.devices.roofline import Rates
from costsim.errors import InputError
from costsim.names import LinkOverlap
from costsim.policy.space import Outcomes

_ALWAYS = Outcomes((), (0,), (True,))


class Timed:
    """A compiled step on a device."""

    def __init__(self, kernels: Kernels, device: Hardware, overlap: bool, links: LinkOverlap = "none") -> None:
        """`links`: which messages hide behind the rest of a step."""
        self.kernels, self.device, self.overlap, self.rates = kernels, device, overlap, Rates(device)
        self.hidden = HIDDEN[links]

    def _lacks(self, what: str, figure: str) -> InputError:
        return InputError(f"--hardware {self.device.name}: its profile has no {figure}, so no {what} is known")

    # --- time ---

    @cached_property
    def _seconds(self) -> tuple[float, float]:
        """Seconds of an operation on elements, and of a bit moved. Raises InputError if the profile lacks a figure."""
        device = self.device
        vector, bandwidth = device.vector_op_per_s, device.dram_bytes_per_s
        if not vector and self._vector_ops:
            raise self._lacks("time", "vector_op_per_s")
        if not bandwidth:
            raise self._lacks("time", "dram_bytes_per_s")
        vector_s = 1 / (vector * device.vector_efficiency) if vector else 0.0
        return vector_s, 1 / (8 * bandwidth * device.dram_efficiency)

    @property
    def _vector_ops(self) -> bool:
        """Whether some policy has operations on elements."""
        of = self.kernels
        tables = [each.counts[..., 0] for kernel in of.kernels for each in kernel.moved.tables]
        others = [each.counts[..., 0] for kernel in of.kernels for each in kernel.moved.alternatives]
        before = [one for _, each in of.before for passes in each.values for one in passes]
        passes = [one.counts[0] for one in (*before, *(one for _, _, one in of.if_any))]
        return any(np.any(each) for each in (*tables, *others)) or any(passes)

    def _passes(self, total: Sum, value: Callable[[Pass], float]) -> None:
        """Add what quantize kernels take."""
        for number, of in self.kernels.before:
            total.add(of, [[number * sum(map(value, passes))] for passes in of.values])
        for number, conditions, one in self.kernels.if_any:
            total.add_if_any(conditions, [number * value(one)])

    def rate(self, pair: Pair) -> Rate | None:
        """The multiplier that a pair runs on; None if there is none."""
        chosen = self.rates[pair]
        return None if chosen is None else chosen[0]

    @cached_property
    def barred(self) -> frozenset[Condition]:
        """For which policies some pair of formats does not run."""
        found = set()
        for kernel in self.kernels.kernels:
            for gemm in kernel.gemms:
                lacking = [self.rate(pair) is None for pair in gemm.pairs.values]
                if any(lacking):
                    found.add(Condition(gemm.pairs.variables, tuple([lacking[i] for i in gemm.pairs.which])))
        return frozenset(found)

    @property
    def unsupported(self) -> set[str]:
        """The pairs of formats that do not run, whoever chooses them."""
        pairs = {pair for kernel in self.kernels.kernels for gemm in kernel.gemms for pair in gemm.pairs.values}
        return {f"{a.name} x {b.name} + {sums.name}" for a, b, sums in pairs if self.rate((a, b, sums)) is None}

    def by_pair(self, gemm: Gemm, value: Callable[[Rate], float]) -> list[float]:
        """What a GEMM takes with each of its pairs; the least with any where one does not run."""
        rates = [self.rate(pair) for pair in gemm.pairs.values]
        known = [None if rate is None else value(rate) for rate in rates]
        least = min((each for each in known if each is not None), default=0.0)
        return [least if each is None else each for each in known]

    def time(self) -> Measure:
        """Seconds of a step, under which messages that hide are a floor. Raises InputError if a figure is lacking."""
        space, total, maxima = self.kernels.space, Sum(), list[Terms]()
        for kernel in self.kernels.kernels:
            paces = self.rates.paces(self.kernels.graph, [each.op for each in kernel.ops])
            if paces is not None:
                self._measured(kernel, paces, total)
                continue
            busy = self._busy(kernel)
            longest = self._longest(busy) if not kernel.messages else None if self.overlap else (1, 1, 1)
            if kernel.messages:
                busy = self._sending(kernel, busy)
            if longest is None:
                maxima.append(busy)
            else:
                total.include(_weighted(busy, longest))
            self._launches(kernel, self.device.launch_s, total)
        self._passes(total, self._pass_s)
        seen = Measure(space, _floats(total.terms(space)), tuple(maxima), barred=self.barred)
        if not (hidden := self._hidden()).tables:
            return seen
        return Measure(space, Terms(space, (), ()), barred=self.barred, floored=((seen, hidden),))

    def _longest(self, busy: Terms) -> Sequence[int] | None:
        """Which of two columns take their time: the longer, if that is one and the same under every policy."""
        if not self.overlap:
            return 1, 1
        less, more = _bounds(_weighted(busy, (1, -1)))
        return (1, 0) if less >= 0 else (0, 1) if more <= 0 else None

    def _busy(self, kernel: Kernel) -> Terms:
        """Seconds of computing and of moving, in a column each, of all kernels that are alike."""
        both = Sum()
        both.include(kernel.moved, kernel.number * np.array(self._seconds))
        for gemm in kernel.gemms:
            taken = self.by_pair(gemm, partial(self.rates.mac_s, macs=gemm.macs, runs=gemm.runs, pace=None))
            both.add(gemm.pairs, [[kernel.number * gemm.macs * each, 0.0] for each in taken])
        return _floats(both.terms(kernel.moved.space))

    def _sending(self, kernel: Kernel, busy: Terms) -> Terms:
        """Seconds of computing, of moving and of messages that are waited for, in a column each."""
        three = Sum()
        three.include(_mixed(busy, [[1, 0, 0], [0, 1, 0]]))
        for messages in kernel.messages:
            of = [0.0 if message.axis in self.hidden else self._message_s(message) for message in messages.values]
            three.add(messages, [[0.0, 0.0, kernel.number * seconds] for seconds in of])
        return _floats(three.terms(kernel.moved.space))

    def _message_s(self, message: Message) -> float:
        """Seconds of a message. Raises InputError where no links join its ranks."""
        link_s = time_of(message, self.device.links)
        if link_s is None:
            raise self._lacks("time", f"links that join {message.ranks} ranks of {message.axis}")
        return link_s

    def _hidden(self) -> Terms:
        """Seconds of the messages that hide behind the rest of a step."""
        total = Sum()
        for kernel in self.kernels.kernels:
            for messages in kernel.messages:
                of = [self._message_s(message) if message.axis in self.hidden else 0.0 for message in messages.values]
                total.add(messages, [[kernel.number * seconds] for seconds in of])
        return _floats(total.terms(self.kernels.space))

    def _measured(self, kernel: Kernel, paces: Sequence[Pace], total: Sum) -> None:
        """Add what kernels that are alike take, whose kinds were measured."""
        for each, pace in zip(kernel.ops, paces, strict=True):
            total.include(_weighted(each.moved, [0.0, kernel.number * pace.bit_s]))
            for gemm in each.gemms:
                taken = self.by_pair(gemm, partial(self.rates.mac_s, macs=gemm.macs, runs=gemm.runs, pace=pace))
                total.add(gemm.pairs, [[kernel.number * gemm.macs * each_s] for each_s in taken])
        self._launches(kernel, max(pace.launch_s for pace in paces), total)

    def _launches(self, kernel: Kernel, launch_s: float, total: Sum) -> None:
        """Add the launches of kernels that are alike: of those that run only if they move something, then."""
        launched = [kernel.number * kernel.runs * launch_s]
        if kernel.always or kernel.moved.tables:
            total.add(_ALWAYS, [launched])
            return
        conditions = {condition for each in kernel.moved.alternatives for condition in each.conditions}
        outcomes = [Outcomes(c.variables, tuple(map(int, c.holds)), (False, True)) for c in sorted(conditions)]
        total.add_if_any(outcomes, launched)

    def _pass_s(self, one: Pass) -> float:
        times = measured_cast(one.copy, self.rates.kernels)
        if times is not None:
            return one.runs * times.seconds(0, (one.elements, one.elements))
        compute, dram = (n * each for n, each in zip(one.counts, self._seconds, strict=True))
        return (max(compute, dram) if self.overlap else compute + dram) + one.runs * self.device.launch_s

    # --- energy ---

    def energy(self) -> Measure:
        """Joules of a step. Raises InputError if the profile lacks a figure."""
        device, total = self.device, Sum()
        table, dram = TABLES.get(device.energy_table or ""), DRAM.get(device.memory)
        if table is None or dram is None:
            raise self._lacks("energy", "energy_table" if table is None else f"energy of {device.memory}")
        joules = (table.vector_op_pj * PICO, (table.sram_pj_per_bit + dram.pj_per_bit) * PICO)
        for kernel in self.kernels.kernels:
            total.include(_weighted(kernel.moved, [kernel.number * each for each in joules]))
            for gemm in kernel.gemms:
                taken = self.by_pair(gemm, lambda rate: mac_pj(table, rate.a, rate.b, rate.accumulator)[0] * PICO)
                total.add(gemm.pairs, [[kernel.number * gemm.macs * each] for each in taken])
        self._passes(total, lambda one: _dot(one.counts, joules))
        of_work = Measure(self.kernels.space, _floats(total.terms(self.kernels.space)), barred=self.barred)
        return of_work if device.static_w is None else total_of([of_work, device.static_w * self.time()])


def _dot(counts: Sequence[int], weights: Sequence[float]) -> float:
    return sum(n * weight for n, weight in zip(counts, weights, strict=True))


def _weighted(terms: Terms, weights: Sequence[float]) -> Terms:
    """The columns of terms as one, each so many times."""
    return _mixed(terms, [[weight] for weight in weights])


def _mixed(terms: Terms, weights: Sequence[Sequence[float]]) -> Terms:
    """Other columns: by column that there is, how many times it is in each of them."""
    matrix: Any = np.array(weights, object)
    tables = tuple(each._replace(counts=each.counts @ matrix) for each in terms.tables)
    return Terms(terms.space, tables, tuple(each._replace(counts=each.counts @ matrix) for each in terms.alternatives))


def _floats(terms: Terms) -> Terms:
    return Terms(
        terms.space,
        tuple(table._replace(counts=table.counts.astype(np.float64)) for table in terms.tables),
        tuple(each._replace(counts=each.counts.astype(np.float64)) for each in terms.alternatives),
    )


def _bounds(terms: Terms) -> tuple[float, float]:
    """Of one column: no policy has less, and none more."""
    less = more = 0.0
    for table in terms.tables:
        less, more = less + float(table.counts.min()), more + float(table.counts.max())
    for _, counts in terms.alternatives:
        less, more = less + min(0.0, float(counts[0])), more + max(0.0, float(counts[0]))
    return less, more
