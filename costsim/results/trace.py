"""One training step as a timeline in Chrome's trace event format, which Perfetto and chrome://tracing open.

A process is a policy on a device, with a track for compute, one for DRAM traffic, one for what a rank of many sends and
does not hide, and the live memory as counters. Kernels run one after another, each as long as the roofline of all its
runs in the step.
Source: Trace Event Format, Google, docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate, count, islice
from pathlib import Path
from typing import Any, NamedTuple

from costsim.cost.memory import COMPONENTS, Memory, of_phase
from costsim.devices.profile import Hardware
from costsim.devices.roofline import Kernel
from costsim.devices.spent import Spent
from costsim.errors import InputError
from costsim.graph.fusion import group_ops, kernel_starts
from costsim.graph.graph import Graph
from costsim.inputs import files
from costsim.names import Traffic
from costsim.run.counted import CountedPolicy
from costsim.run.simulate import Result
from costsim.run.timing import time_kernels

Event = dict[str, Any]

COMPUTE, DRAM, LINK = 1, 2, 3  # tracks of a process
TRACKS = {COMPUTE: "compute", DRAM: "DRAM"}
OF_RANKS = {LINK: "links"}  # of one of many devices
LIVE, LIVE_TOTAL = "live memory, bytes", "live memory in all, bytes"
_DIGITS = 13  # of the step's time: every time is a whole number of ticks, so that nothing overlaps by rounding


class Live(NamedTuple):
    """The live memory while a kernel runs, in bytes."""

    kernel: int  # the position of its first op in the graph
    parts: tuple[int, ...]  # bytes of each of COMPONENTS


def live_parts(memory: Memory, graph: Graph, traffic: Traffic) -> list[Live]:
    """The live bytes by component, for every kernel of a step in order."""
    starts = kernel_starts(graph, traffic)
    change = {name: [0] * (starts[-1] + 2) for name in COMPONENTS}
    for place in memory.stored:
        change[place.component][place.first] += place.size_bytes
        change[place.component][place.last + 1] -= place.size_bytes
    over_ops = list(zip(*(accumulate(change[name]) for name in COMPONENTS), strict=True))
    return [Live(start, over_ops[start]) for start in starts]


class _Timed(NamedTuple):
    kernel: Kernel
    spent: Spent
    time_s: float
    compute_s: float
    dram_s: float
    sent_s: float  # of its messages, without what is hidden


def _lacking(spent: Spent, counted: CountedPolicy, device: Hardware) -> InputError:
    """The error for a device that lacks a multiplier, or its profile a figure."""
    if spent.lacks:
        return InputError(f"plot trace: {device.name}: the profile has no {', '.join(sorted(spent.lacks))}")
    if spent.unsupported:
        pairs = ", ".join(sorted(spent.unsupported))
        what = f"{device.name} multiplies neither {pairs} nor formats that hold them (policy {counted.policy.name})"
        return InputError(f"plot trace: {what}; --policy and --hardware choose")
    lacks = "DRAM bandwidth" if device.dram_bytes_per_s is None else "vector rate"
    return InputError(f"plot trace: {device.name}: the profile has no {lacks}")


def _timed(result: Result, counted: CountedPolicy, device: Hardware, phase: int) -> list[_Timed]:
    """Every kernel of a step with its times on the device. Raises InputError if the device cannot run one."""
    timed, refused = [], Spent()
    for kernel, spent in time_kernels(result.job, counted.phases[phase], device, each=True):
        if spent.time_s is None or spent.vector_s is None or spent.dram_s is None or spent.link_s is None:
            refused += spent
        else:
            seconds = (spent.mac_s + spent.vector_s, spent.dram_s, spent.link_s - spent.hidden_s)
            timed.append(_Timed(kernel, spent, spent.time_s, *seconds))
    if refused.time_s is None:
        raise _lacking(refused, counted, device)
    return timed


class Clock:
    """Seconds as whole ticks, a tick being a power of ten of a microsecond that fits the length of the step."""

    def __init__(self, step_s: float) -> None:
        power = len(str(int(step_s))) if step_s >= 1 else -int(f"{1 / step_s:e}".partition("e")[2]) if step_s else 0
        self.per_us: int = 10 ** max(0, _DIGITS - 6 - power)

    def ticks(self, seconds: float) -> int:
        """The nearest whole number of ticks."""
        return round(seconds * 1e6 * self.per_us)

    def us(self, ticks: int) -> float:
        """Microseconds, correctly rounded."""
        return ticks / self.per_us


def _args(timed: _Timed) -> Event:
    """What a viewer shows of a kernel that is selected."""
    row, op = timed.kernel.first
    rows, spent = timed.kernel.rows, timed.spent
    return {
        "op": row.name(op),
        "kind": " + ".join(dict.fromkeys(part.kind for part in rows)),
        "phase": row.phase,
        "layer": op.layer,
        "pair": ", ".join(dict.fromkeys(part.pair_name for part in rows if part.macs)) or "no MACs",
        "runs_as": ", ".join(sorted(rate for _, rate in spent.upcast)),
        "macs": spent.macs,
        "vector_ops": spent.vector_ops,
        "read_bits": sum(move.read_bits for part in rows for move in part.moves),
        "written_bits": sum(move.written_bits for part in rows for move in part.moves),
        "bound": spent.bound,
        "runs": timed.kernel.runs,
    }


def _complete(timed: _Timed, start: int, end: int, pid: int, clock: Clock, overlap: bool) -> Iterator[Event]:
    """The events of a kernel between two ticks: after its launches, compute and DRAM traffic."""
    row, op = timed.kernel.first
    ready = min(end, start + clock.ticks(timed.spent.launch_s))
    computed = min(end, ready + clock.ticks(timed.compute_s))
    begins = ready if overlap else computed
    moved = min(end, begins + clock.ticks(timed.dram_s))
    sent = max(ready, end - clock.ticks(timed.sent_s))  # the kernel ends with its messages
    if timed.sent_s:
        pass
    elif timed.dram_s and (not overlap or timed.dram_s >= timed.compute_s):
        moved = end  # the longer of the two, or the last, ends with the kernel, whatever was rounded
    elif timed.compute_s:
        computed = end
    args = _args(timed)
    last = end if timed.sent_s else sent
    for track, since, until in ((COMPUTE, ready, computed), (DRAM, begins, moved), (LINK, sent, last)):
        if until > since:
            times = {"ts": clock.us(since), "dur": clock.us(until - since)}
            yield {"name": row.name(op), "cat": row.phase, "ph": "X", **times, "pid": pid, "tid": track, "args": args}


def _counters(parts: Sequence[int], ts: float, pid: int) -> list[Event]:
    values = {name.replace("_", " "): size for name, size in zip(COMPONENTS, parts, strict=True)}
    return [
        {"name": name, "ph": "C", "ts": ts, "pid": pid, "args": args}
        for name, args in ((LIVE, values), (LIVE_TOTAL, {"bytes": sum(parts)}))
    ]


def _highest(live: Sequence[Live], positions: Sequence[int]) -> list[tuple[int, ...]]:
    """For each kernel that is shown, the fullest memory from it on until the next one: a scope may leave some out."""
    highest: list[tuple[int, ...]] = []
    at = 0
    for following in (*islice(positions, 1, None), None):
        until = at
        while until < len(live) and (following is None or live[until].kernel < following):
            until += 1
        highest.append(max((one.parts for one in live[at:until]), key=sum) if at < until else highest[-1])
        at = until
    return highest


def _process(result: Result, counted: CountedPolicy, device: Hardware, phase: int, pid: int) -> list[Event]:
    job = result.job
    timed = _timed(result, counted, device, phase)
    ends = list(accumulate(one.time_s for one in timed))
    clock = Clock(ends[-1] if ends else 0.0)
    stored = of_phase(job.graph, counted.policy, phase, job.convention.traffic)
    group = group_ops(job.graph, job.convention.traffic)
    lives = live_parts(stored, job.graph, job.convention.traffic)
    in_memory = _highest(lives, [group[one.kernel.first[1].position] for one in timed]) if timed else []
    steps, start = counted.phases[phase].steps, 0
    tracks = TRACKS | (OF_RANKS if job.graph.mesh else {})
    labels = f"phase {phase + 1} of {len(counted.phases)}, {steps} steps"
    events: list[Event] = [
        _named("process_name", pid, {"name": f"{counted.policy.name} on {device.name}"}),
        _named("process_labels", pid, {"labels": labels}),
        _named("process_sort_index", pid, {"sort_index": pid}),
        *(_named("thread_name", pid, {"name": name}, tid) for tid, name in tracks.items()),
    ]
    before: tuple[int, ...] | None = None
    for one, parts, end_s in zip(timed, in_memory, ends, strict=True):
        end = clock.ticks(end_s)
        if parts != before:
            events += _counters(parts, clock.us(start), pid)
        events += _complete(one, start, end, pid, clock, job.overlap)
        before, start = parts, end
    return events + (_counters(before, clock.us(start), pid) if before else [])


def _named(what: str, pid: int, args: Event, tid: int = 0) -> Event:
    return {"name": what, "ph": "M", "ts": 0.0, "pid": pid, "tid": tid, "args": args}


def trace(result: Result, phase: int = 1) -> dict[str, Any]:
    """The trace of one training step, in the given phase (from 1) of each policy, on each device.

    `ts` and `dur` are microseconds from the start of the step. Raises InputError if there is no device, if a policy has
    no such phase, or if a device lacks a pair of formats, a vector rate or a bandwidth.
    """
    job = result.job
    if not job.hardware:
        raise InputError("plot trace: expected a device, --hardware NAME (see costsim list hardware)")
    events: list[Event] = []
    pids = count(1)
    for counted in result.policies:
        most = len(counted.phases)
        if phase > most:
            raise InputError(f"--phase {phase}: policy {counted.policy.name} has {most} phase{'s' if most > 1 else ''}")
        for device in job.hardware:
            events += _process(result, counted, device, phase - 1, next(pids))
    events.sort(key=lambda event: (event["ph"] != "M", event["ts"]))
    convention = job.convention
    about = {
        "workload": job.workload,
        "traffic": convention.traffic_label,
        "scope": convention.scope,
        "overlap": job.overlap,
        "phase": phase,
        "micro_batches": convention.micro_batches,
        "note": "one training step; a kernel of many micro-batches is drawn once, as long as all its runs",
    }
    return {"displayTimeUnit": "ms", "otherData": about, "traceEvents": events}


def save(result: Result, path: Path, phase: int = 1) -> Path:
    """Write a trace into a .json file, an event a line, whole or not at all.

    Raises InputError as `trace`, and for another ending.
    """
    if path.suffix.lower() != ".json":
        raise InputError(f"--out {path}: expected a name that ends in .json, which is what plot trace writes")
    made = trace(result, phase)
    events = ",\n".join(json.dumps(event, separators=(",", ":")) for event in made.pop("traceEvents"))
    head = json.dumps(made, separators=(",", ":"))
    return files.write(path, f'{head[:-1]},"traceEvents":[\n{events}\n]}}\n'.encode())
