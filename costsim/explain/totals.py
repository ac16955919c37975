"""A total of a run taken apart: the sum over phases, and the parts by kind, layer and op, the largest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from costsim.cost.laws import LAWS
from costsim.cost.memory import of_policy
from costsim.cost.totals import Total, group, sum_rows
from costsim.devices.profile import Hardware
from costsim.devices.spent import Spent
from costsim.errors import InputError
from costsim.explain.formula import Number, Part, Step, undefined, worked
from costsim.run.counted import CountedPolicy
from costsim.run.job import Job
from costsim.run.simulate import Result, execute
from costsim.run.timing import time_kernels

MOST = 10  # parts that are listed one by one


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a total."""

    name: str
    value: Number
    share: float


@dataclass(frozen=True, slots=True)
class Parts:
    """A total by one way to group it: the largest parts, the rest as one; they add up to the total.

    Of a reduction: what is saved, which is less than nothing for a part that takes more than the baseline's.
    """

    by: str
    shares: tuple[Share, ...]
    what: str = ""  # if it is not the total that is explained
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A total of one policy, on a device where it depends on one."""

    policy: str
    device: str | None
    explained: tuple[Step, ...]
    parts: tuple[Parts, ...]


COUNTED: Mapping[str, tuple[str, Callable[[Total], int | None]]] = {
    "macs": ("MAC", lambda total: total.macs),
    "arithmetic_cost": ("", lambda total: total.arithmetic_cost),
    "dram_bits": ("bit", lambda total: total.dram_bits),
    "dram_read_bits": ("bit", lambda total: total.read_bits),
    "dram_written_bits": ("bit", lambda total: total.written_bits),
}
RATIOS = {"arithmetic_reduction": "arithmetic_cost", "dram_reduction": "dram_bits"}
SPENT = {"time_s": "s", "energy_j": "J"}
TOTALS = (*COUNTED, *RATIOS, *SPENT, "peak_memory_bytes")


def _shares(by: str, values: Mapping[str, Number]) -> Parts:
    """The largest parts, and the rest summed; parts of nothing are left out."""
    ordered = sorted(((name, value) for name, value in values.items() if value), key=lambda part: -part[1])
    total = sum(value for _, value in ordered)
    listed, rest = (ordered, []) if len(ordered) <= MOST + 1 else (ordered[:MOST], ordered[MOST:])
    if rest:
        listed = [*listed, (f"{len(rest)} others", sum(value for _, value in rest))]
    return Parts(by, tuple(Share(name, value, _part(value, total)) for name, value in listed))


def _part(value: Number, total: Number) -> float:
    """A share, of integers that may be too large for floats too."""
    return float(Fraction(value) / Fraction(total))


def _sum_of_phases(result: Result, counted: CountedPolicy, name: str) -> Step:
    """The total as a sum over phases: the steps of each times the cost of a step."""
    unit, value = COUNTED[name]
    law = result.job.convention.law
    unit = unit or LAWS[law].unit
    terms = []
    for i, phase in enumerate(counted.phases, 1):
        each = value(sum_rows(phase.rows, law))
        if each is None:
            pairs = ", ".join(sorted(counted.total.unpriced))
            return undefined(
                name, "steps * a step's", unit, f"law {law} is defined for {LAWS[law].defined}; not {pairs}"
            )
        terms.append([Part(f"steps of phase {i}", phase.steps), Part("a step's", each)])
    source = f"law {law}: {LAWS[law].source}" if name == "arithmetic_cost" else "the sum over the policy's phases"
    return worked(name, terms, unit, source)


def _counted(result: Result, name: str) -> Iterator[Section]:
    value = COUNTED[name][1]
    for counted in result.policies:
        step = _sum_of_phases(result, counted, name)
        parts = []
        for by in ("kind", "layer", "op") if step.result is not None else ():
            groups = group(counted.weighted_rows(), by, result.job.convention.law)
            parts.append(_shares(by, {part or "none": value(total) or 0 for part, total in groups.items()}))
        yield Section(counted.policy.name, None, (step,), tuple(parts))


def _ratio(result: Result, name: str) -> Iterator[Section]:
    """How many times less than the baseline: both totals, and their quotient."""
    total = RATIOS[name]
    base = _sum_of_phases(result, result.baseline, total)
    for counted in result.policies:
        divisor = _sum_of_phases(result, counted, total)
        names = f"{total} of {result.baseline.policy.name}", f"{total} of {counted.policy.name}"
        steps = [
            Step(symbol, step.formula, step.values, step.result, step.unit, step.source)
            for symbol, step in zip(names, (base, divisor), strict=True)
        ]
        if base.result is None or not divisor.result:
            steps.append(
                undefined(name, " / ".join(names), "x", "one of the totals is not defined, or nothing is left")
            )
        else:
            terms = [[Part(names[0], base.whole), Part(names[1], divisor.whole, under=True)]]
            steps.append(worked(name, terms, "x", f"the baseline is {result.baseline.policy.name}"))
        yield Section(counted.policy.name, None, tuple(steps), tuple(_saved(result, counted, total, base.unit)))


def _saved(result: Result, counted: CountedPolicy, total: str, unit: str) -> Iterator[Parts]:
    """Where the difference to the baseline comes from: by role, and by which of the three GEMMs it is."""
    value, law = COUNTED[total][1], result.job.convention.law
    for by in ("role", "gemm"):
        before, now = (group(policy.weighted_rows(), by, law) for policy in (result.baseline, counted))
        values = [(name, value(before.get(name, Total())), value(now.get(name, Total()))) for name in before | now]
        saved = {name: a - b for name, a, b in values if a is not None and b is not None}
        whole = sum(saved.values())
        if len(saved) == len(values) and whole:
            parts = _shares(by, saved)
            yield Parts(by, parts.shares, f"saved of {total}", unit)


def _spent(result: Result, name: str) -> Iterator[Section]:
    """Time or energy on each device. Kernels take these as a whole, so each counts with its first op."""
    job = result.job
    for counted in result.policies:
        for device in job.hardware:
            yield _spent_on(job, counted, device, result.spent[counted.policy.name, device.name], name)


def _spent_on(job: Job, counted: CountedPolicy, device: Hardware, spent: Spent, name: str) -> Section:
    phases: list[Number | None] = []
    groups: dict[str, dict[str, Number]] = {"kind": {}, "layer": {}, "op": {}}
    for phase in counted.phases:
        total = Spent()
        for kernel, each in time_kernels(job, phase, device, each=True):
            total += each
            row, op = kernel.first
            for by, key in (("kind", row.kind), ("layer", op.layer or "none"), ("op", row.name(op))):
                groups[by][key] = groups[by].get(key, 0) + phase.steps * (getattr(each, name) or 0)
        phases.append(getattr(total, name))
    source = f"kernels of a step on {device.name}, each a roofline; a kernel counts with its first op"
    if None in phases:
        lacking = ", ".join(sorted({*spent.unsupported, *spent.lacks})) or "a figure that the profile lacks"
        step = undefined(name, "steps * a step's", SPENT[name], f"{device.name}: not known, for {lacking}")
        return Section(counted.policy.name, device.name, (step,), ())
    terms = [
        [Part(f"steps of phase {i}", phase.steps), Part("a step's", step_total or 0)]
        for i, (phase, step_total) in enumerate(zip(counted.phases, phases, strict=True), 1)
    ]
    parts = tuple(_shares(by, values) for by, values in groups.items())
    return Section(counted.policy.name, device.name, (worked(name, terms, SPENT[name], source),), parts)


def _peak(result: Result, name: str) -> Iterator[Section]:
    """Peak memory, by component and by tensor."""
    job = result.job
    for counted in result.policies:
        phase, memory = of_policy(job.graph, counted.policy, job.convention.traffic)
        stored = {
            place.name: place.size_bytes for component in memory.components for place in memory.at_peak(component)
        }
        terms = [[Part(component, size)] for component, size in memory.components.items()]
        source = f"bytes live while {memory.peak_op.name} runs, in phase {phase + 1}; whole bytes a tensor or copy"
        parts = (_shares("component", memory.components), _shares("tensor", stored))
        yield Section(counted.policy.name, None, (worked(name, terms, "byte", source),), parts)


_WAYS = (
    (COUNTED, _counted),
    (RATIOS, _ratio),
    (SPENT, _spent),
    (("peak_memory_bytes",), _peak),
)


def explain_total(job: Job, name: str) -> tuple[Result, list[Section]]:
    """Take one of TOTALS apart under each policy. Raises InputError for time and energy without a device."""
    if name in SPENT and not job.hardware:
        raise InputError(f"{name}: time and energy are of a device; name one with --hardware")
    result = execute(job)
    way = next(way for names, way in _WAYS if name in names)
    return result, list(way(result, name))
