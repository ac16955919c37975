"""Figures of recipes: what the source of a policy states that it costs, and what we count in its place.

A figure names a quantity, a row of `QUANTITIES`; a new one is a function of the recipe's side and the baseline's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from costsim.cost.count import stored_bits
from costsim.cost.memory import Memory, of_policy
from costsim.cost.row import each_op
from costsim.cost.totals import Total
from costsim.formats.named import parse_format
from costsim.graph.graph import Graph, Op
from costsim.inputs.schema_policy import OF_A_FORMAT, Figure
from costsim.names import Quantity
from costsim.policy.assign import Assignment, assign
from costsim.policy.load import find_policy, load_policies
from costsim.policy.policy import Policy
from costsim.run.counted import CountedPolicy
from costsim.run.job import Job, Request, prepare
from costsim.run.pretraining import is_linear
from costsim.run.simulate import count_policy

ANY = "gpt2-small"  # where figures are counted that hold for any model, if no workload is at hand


class Side:
    """A policy on a workload: what figures are made of, each worked out once; formats are those of its last phase."""

    def __init__(self, job: Job, policy: Policy) -> None:
        self.job, self.policy = job, policy

    @property
    def graph(self) -> Graph:
        """The training step."""
        return self.job.graph

    @cached_property
    def assignment(self) -> Assignment:
        """The formats at the end of the training."""
        return assign(self.graph, self.policy, len(self.policy.file.phases) - 1)

    @cached_property
    def counted(self) -> CountedPolicy:
        """The whole run, in the workload's scope, law and traffic."""
        return count_policy(self.graph, self.policy, self.job.convention)

    @property
    def total(self) -> Total:
        """What the whole run counts."""
        return self.counted.total

    @cached_property
    def memory(self) -> Memory:
        """What lies in memory during a step."""
        return of_policy(self.graph, self.policy, self.job.convention.traffic)[1]

    def bits(self, names: Iterable[str]) -> int:
        """What so many tensors take as they are stored, without copies."""
        return sum(stored_bits(self.graph, self.assignment, name, None) for name in names)

    @property
    def weights(self) -> int:
        """Bits of all weights."""
        return self.bits(weight.name for weight in self.graph.weights)

    @property
    def states(self) -> int:
        """Bits of the optimizer's states."""
        graph = self.graph
        return self.bits(t.name for t in graph.tensors.values() if t.role == "state" and t.name not in graph.producer)

    @property
    def gradients(self) -> int:
        """Bits of the weights' gradients that the update reads, each once."""
        graph = self.graph
        names = (name for op in graph.ops if op.phase == "update" for name in op.inputs)
        return self.bits({graph.root[name] for name in names if graph.tensors[name].role == "weight_gradient"})


Sides = tuple[Side, Side | None]
Of = Callable[[Side, Side, Figure], Fraction | None]  # of the recipe, the baseline (itself if there is none)


class QuantityOf(NamedTuple):
    """What a figure can be of."""

    command: Literal["run", "memory"]  # which prints it beside its table
    words: str  # as tables print it
    unit: str
    of: Of


def _ratio(part: Callable[[Side], int]) -> Of:
    return lambda ours, base, _: Fraction(part(base), part(ours)) if part(ours) else None


def _arithmetic(ours: Side, base: Side, _: Figure) -> Fraction | None:
    return ours.total.reductions(base.total).arithmetic_reduction


def _dram(ours: Side, base: Side, _: Figure) -> Fraction | None:
    return ours.total.reductions(base.total).dram_reduction


def _kept(side: Side) -> int:
    return sum(place.size_bytes for place in side.memory.activations)


def _bytes_per_parameter(ours: Side, _base: Side, _: Figure) -> Fraction:
    return Fraction(ours.weights + ours.gradients + ours.states, 8 * ours.graph.trainable_parameters)


def _state_bytes_per_parameter(ours: Side, _base: Side, _: Figure) -> Fraction:
    return Fraction(ours.states, 8 * ours.graph.trainable_parameters)


def _weights_and_states(ours: Side, _base: Side, _: Figure) -> Fraction:
    return Fraction(ours.weights + ours.states, 8 * 2**30)


def _bits_per_element(_ours: Side, _base: Side, figure: Figure) -> Fraction:
    return parse_format(figure.format or "").bits_per_element


def _scale_bits(_ours: Side, _base: Side, figure: Figure) -> Fraction:
    format = parse_format(figure.format or "")
    return format.bits_per_element - Fraction(format.element_bits, format.together)


def _macs(side: Side, counts: Callable[[Op], bool], glob: str = "*") -> int:
    """MACs over the run of those ops, both operands of which are in formats named like the glob."""
    return sum(
        phase.steps * row.macs
        for phase in side.counted.phases
        for op, row in each_op(phase.rows)
        if row.pair and counts(op) and all(fnmatchcase(format.name, glob) for format in row.pair[:2])
    )


def _of_linear(side: Side) -> Callable[[Op], bool]:
    """Whether an op is a product of a hidden linear layer, forward or backward; the head is none."""
    return lambda op: op.phase != "update" and is_linear(side.graph, op) and op.layer != "head"


def _share_of_linear(ours: Side, _base: Side, figure: Figure) -> Fraction:
    return Fraction(_macs(ours, _of_linear(ours), figure.format or "*"), _macs(ours, _of_linear(ours)))


def _update_overhead(ours: Side, _base: Side, _: Figure) -> Fraction:
    return Fraction(_macs(ours, lambda op: op.phase == "update"), _macs(ours, _of_linear(ours)))


QUANTITIES: Mapping[Quantity, QuantityOf] = {
    "arithmetic_reduction": QuantityOf("run", "arithmetic, times less", "x", _arithmetic),
    "dram_reduction": QuantityOf("run", "DRAM traffic, times less", "x", _dram),
    "memory_reduction": QuantityOf(
        "memory", "peak memory, times less", "x", _ratio(lambda side: side.memory.peak_bytes)
    ),
    "kept_reduction": QuantityOf("memory", "what the forward keeps, times less", "x", _ratio(_kept)),
    "weight_reduction": QuantityOf("memory", "weights, times less", "x", _ratio(lambda side: side.weights)),
    "state_reduction": QuantityOf("memory", "optimizer states, times less", "x", _ratio(lambda side: side.states)),
    "bytes_per_parameter": QuantityOf(
        "memory", "weights, gradients and states", "byte/parameter", _bytes_per_parameter
    ),
    "state_bytes_per_parameter": QuantityOf("memory", "optimizer states", "byte/parameter", _state_bytes_per_parameter),
    "weights_and_states_gib": QuantityOf("memory", "weights and states", "GiB", _weights_and_states),
    "bits_per_element": QuantityOf("memory", "an element with its share of scales", "bit", _bits_per_element),
    "scale_bits_per_element": QuantityOf("memory", "an element's share of scales", "bit", _scale_bits),
    "share_of_linear_macs": QuantityOf("run", "share of the linear layers' MACs", "", _share_of_linear),
    "update_overhead": QuantityOf("run", "MACs of the update over those of the linear layers", "", _update_overhead),
}


@lru_cache(maxsize=64)  # several figures of a recipe are of one workload
def _side(workload: str, policy: Policy, assignments: tuple[str, ...]) -> Side:
    job = prepare(Request(workload, [policy], baseline=policy, assignments=assignments))
    return Side(job, job.policies[0])


@lru_cache(maxsize=64)
def _named(*names: str | Path) -> Policy:
    """The policy of a name, or that of several files."""
    return load_policies(
        tuple(path for name in names for path in (find_policy(name) if isinstance(name, str) else (name,)))
    )


def whole(policy: Policy, figure: Figure) -> Policy:
    """The recipe; one that only changes others is composed with the baseline of the figure."""
    if policy.complete or figure.baseline is None:
        return policy
    return _named(figure.baseline, Path(policy.document.path))


def fields_of(policy: Policy, figure: Figure) -> tuple[str, ...]:
    """The fields of the workload that a figure is of: its own, or else those of the recipe."""
    return figure.set or (() if figure.quantity in OF_A_FORMAT else policy.file.set)


def measured(policy: Policy, figure: Figure, workload: str = ANY, assignments: tuple[str, ...] = ()) -> float | None:
    """What we count for a figure of a recipe; None if the workload's law is not defined for its formats.

    `workload` and fields of it are for figures that hold for any. Raises InputError if the recipe does not fit.
    """
    where, common = (workload, assignments) if figure.workload is None else (figure.workload, ())
    ours = _side(where, whole(policy, figure), (*common, *fields_of(policy, figure)))
    base = ours
    if figure.baseline is not None:
        base = _side(where, _named(figure.baseline), (*common, *figure.baseline_set))
    value = QUANTITIES[figure.quantity].of(ours, base, figure)
    return None if value is None else float(value)
