"""Every number of one op: formula, values, result, unit and source, for each policy and each phase that differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from costsim.cost.classes import is_counted
from costsim.cost.row import Row, narrowest_scope
from costsim.cost.writes import WRITES
from costsim.errors import InputError, one_line
from costsim.explain.derive import Derived, Deriver, differences
from costsim.explain.formula import Part, Step, undefined, worked
from costsim.explain.readers import Follower
from costsim.graph.fusion import group_ops, grouping
from costsim.graph.graph import Graph, Op
from costsim.names import SCOPES, Scope
from costsim.policy.assign import Assignment, assign
from costsim.policy.policy import Policy
from costsim.policy.schedule import schedule
from costsim.run.counted import CountedPhase, buffer_on
from costsim.run.job import Convention, Job
from costsim.run.simulate import count_step

CAST = ".cast"


@dataclass(frozen=True, slots=True)
class Section:
    """The steps of an op's cost in a training step, for those phases of a policy that give the same numbers."""

    policy: str
    phases: tuple[int, ...]  # from 1
    setup: str
    steps: int  # of the run
    explained: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """An op explained: its place in the graph, the sections, and its totals over each policy's run."""

    name: str
    op: Op
    about: str
    scope: Scope  # in which it was counted: the convention's, or the first that holds it
    sections: tuple[Section, ...]
    runs: dict[str, tuple[Step, ...]]


def _find(graph: Graph, deriver: Deriver, name: str) -> Derived | None:
    """The op of that name, or the quantize kernel; None if there is none under this assignment."""
    if not name.endswith(CAST):
        op = _op_named(graph, name)
        return None if op is None else deriver.op(op)
    readers = [op for op, _ in graph.readers.get(name.partition("@")[0], ())]
    return next((cast for op in readers for cast in deriver.casts(op) if cast.name == name), None)


def _op_of(graph: Graph, name: str) -> Op | None:
    """The op, or of a quantize kernel the first op that reads the tensor; None if there is no such tensor."""
    if name.endswith(CAST):
        readers = graph.readers.get(name.partition("@")[0], ())
        return readers[0][0] if readers else None
    return _op_named(graph, name)


def _op_named(graph: Graph, name: str) -> Op | None:
    """The op of that name; a view is none that does anything."""
    return next((op for op in graph.ops if op.name == name and not op.kind.view), None)


def _unknown(job: Job, name: str, others: tuple[str, ...]) -> InputError:
    names = {op.name for op in job.graph.ops if not op.kind.view} | set(others)
    if "@" in name:
        for policy in job.policies:
            for index in range(len(policy.file.phases)):
                deriver = Deriver(job.graph, assign(job.graph, policy, index), "unfused", job.convention.law)
                names |= {cast.name for op in job.graph.ops for cast in deriver.casts(op)}
    close = get_close_matches(name[:200], sorted(names), n=3, cutoff=0.4)
    close += [other for other in sorted(names) if name in other and other not in close] if name else []
    near = f"; did you mean {', '.join(close[:3])}?" if close else ""
    listed = f"costsim run {job.workload} --by op --scope step lists ops"
    return InputError(f"unknown op {one_line(name)!r}{near} ({listed}; totals: {', '.join(others)})")


def _row(rows: Sequence[Row], derived: Derived) -> Row:
    """The counted row of a derived op."""
    return next(
        row for row in rows for op in row.ops if op.position == derived.op.position and row.name(op) == derived.name
    )


def _device_steps(job: Job, phase: CountedPhase, scope: Scope, derived: Derived) -> Iterator[Step]:
    """Time and energy of the op's kernel on each device; with a buffer of its own, tiled for that."""
    from costsim.devices.links import HIDDEN  # without devices there is no need
    from costsim.explain.devices import Hides, device_steps
    from costsim.run.timing import exposed_share, kernels_on

    group = group_ops(job.graph, grouping(job.convention.traffic, scope))
    for device in job.hardware:
        step = kernels_on(job, phase, device, scope, each=True)
        row = _row([row for kernel in step for row in kernel.rows], derived)
        for kernel in step:
            first, op = kernel.first
            if first is row if row.cast else not first.cast and group[op.position] == group[derived.op.position]:
                break
        if len(kernel.rows) > 1:
            begins = f"the first of them is {first.name(op)}"
            why = f"its ops run together; time and energy on {device.name} are of the whole kernel"
            yield Step("kernel", "", begins, len(kernel.rows), "op", why)
        buffer = buffer_on(job, device) if job.convention.tiled else 0
        hides = Hides(HIDDEN[job.file.parallel.overlap], exposed_share(job, phase, device, scope))
        yield from device_steps(kernel, device, job.overlap, buffer, hides)


def _unasked(convention: Convention, follower: Follower, op: Op) -> Iterator[str]:
    """What a GEMM may write that does not count, by the workload's gemm_writes."""
    for label, role, readers in follower.results(op):
        gemms = WRITES[convention.gemm_writes].readers(True, role)
        by = (reader for reader in readers if gemms is None or reader.gemm in gemms)
        if gemms is not None and not any(is_counted(reader, convention.gemms_left_out) for reader in by):
            yield label


def _explain_phase(job: Job, scope: Scope, assignment: Assignment, name: str) -> tuple[Step, ...] | None:
    """The steps of an op in a phase; None if it has no such quantize kernel.

    What is derived must be what is counted; AssertionError if not, which is a fault of costsim.
    """
    traffic = grouping(job.convention.traffic, scope)
    deriver = Deriver(job.graph, assignment, traffic, job.convention.law)
    derived = _find(job.graph, deriver, name)
    if derived is None:
        return None
    if scope == "gemm":
        unasked = list(_unasked(job.convention, deriver.follower, derived.op))
        derived.drop_writes(unasked, f"scope gemm counts no such writes, by gemm_writes: {job.convention.gemm_writes}")
    phase = count_step(job.graph, assignment, replace(job.convention, scope=scope))
    row = _row(phase.compulsory, derived)
    wrong = differences(derived, row)
    if job.convention.buffer_bytes is not None:
        from costsim.explain.tiling import add_passes  # without a buffer there is nothing to tile

        tiled = _row(phase.rows, derived)
        add_passes(derived, job.graph, row, tiled, job.convention.buffer_bytes)
        wrong += differences(derived, tiled)
    if wrong:
        raise AssertionError("; ".join(wrong))
    derived.add_sums()
    return (*derived.steps, *_device_steps(job, phase, scope, derived)) if job.hardware else tuple(derived.steps)


def _sections(job: Job, scope: Scope, policy: Policy, name: str) -> Iterator[Section]:
    """The phases of a policy, those with the same steps in one section; phases that last no step are left out."""
    alike: dict[tuple[Step, ...], list[tuple[int, int]]] = {}
    for index, steps in enumerate(schedule(policy, job.convention.steps)):
        explained = _explain_phase(job, scope, assign(job.graph, policy, index), name) if steps else None
        if explained is not None:
            alike.setdefault(explained, []).append((index, steps))
    for explained, phases in alike.items():
        setup = " > ".join(dict.fromkeys(policy.setup[index] for index, _ in phases))
        steps = sum(steps for _, steps in phases)
        yield Section(policy.name, tuple(index + 1 for index, _ in phases), setup, steps, explained)


def _over_the_run(sections: list[Section]) -> tuple[Step, ...]:
    """Totals of the run: those of a step, times the steps of each phase."""
    totals = ("MACs", "arithmetic cost", "DRAM bits read", "DRAM bits written", "DRAM bits")
    run: list[Step] = []
    for what in dict.fromkeys(step.what for section in sections for step in section.explained):
        if what not in totals and not what.endswith((", time", ", energy")):
            continue
        summands = [(section, step) for section in sections for step in section.explained if step.what == what]
        terms = []
        for section, step in summands:
            if isinstance(step.result, (int, float)):
                phases = ", ".join(map(str, section.phases))
                terms.append([Part(f"steps in phase {phases}", section.steps), Part("a step's", step.result)])
        name, unit = f"{what} over the run", summands[0][1].unit
        if len(terms) == len(summands):
            run.append(worked(name, terms, unit, "the sum over the phases of the policy"))
        else:
            run.append(undefined(name, "steps * a step's", unit, "not known in every phase"))
    return tuple(run)


def _narrowest(name: str, op: Op, job: Job) -> Scope:
    """The first scope that an op is in; quantize kernels are no GEMMs, and some are left out."""
    narrowest = narrowest_scope(op)
    left_out = name.endswith(CAST) or not is_counted(op, job.convention.gemms_left_out)
    return "layer" if left_out and narrowest == "gemm" else narrowest


def explain(job: Job, name: str, others: tuple[str, ...] = ()) -> Explanation:
    """Explain an op, or a quantize kernel NAME.cast, under each policy of a job.

    `others` are names that the caller takes besides ops. Raises InputError for a name that is none, with the nearest.
    """
    op = _op_of(job.graph, name)
    if op is None:
        raise _unknown(job, name, others)
    scope = max(_narrowest(name, op, job), job.convention.scope, key=SCOPES.index)
    by_policy = {policy.name: list(_sections(job, scope, policy, name)) for policy in job.policies}
    sections = tuple(section for phases in by_policy.values() for section in phases)
    if not sections:
        raise _unknown(job, name, others)
    times = f", {op.times} runs in a step" if op.times != 1 else ""
    kind = "quantize kernel" if name.endswith(CAST) else op.kind.name
    about = f"{kind}; {op.gemm or op.phase}, layer {op.layer or 'none'}{times}"
    runs = {policy: _over_the_run(phases) for policy, phases in by_policy.items() if phases}
    return Explanation(name, op, about, scope, sections, runs)
