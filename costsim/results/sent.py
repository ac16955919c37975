"""What a rank sends to others in a run, as records: by policy, axis of the mesh, collective and role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costsim.cost.collectives import sent_bits
from costsim.cost.totals import Total
from costsim.graph.graph import Graph
from costsim.inputs.schema_workload import Parallel
from costsim.run.counted import CountedPolicy
from costsim.run.simulate import Result

if TYPE_CHECKING:
    from costsim.devices.profile import Hardware

Record = dict[str, Any]


def sent_records(result: Result) -> list[Record]:
    """A row per policy, axis, collective and role of what is sent; none for a step on one device."""
    if not result.job.graph.mesh:
        return []
    return [row for counted in result.policies for row in _of_policy(result, counted)]


def _of_policy(result: Result, counted: CountedPolicy) -> list[Record]:
    graph = result.job.graph
    runs: dict[tuple[str, str, str], int] = {}
    bits: dict[tuple[str, str, str], int] = {}
    for phase in counted.phases:
        for row in phase.rows:
            for message in row.messages:
                role = graph.tensors[row.ops[0].inputs[0]].role
                key = (message.axis, message.collective, role)
                number = len(row.ops) * phase.steps
                runs[key] = runs.get(key, 0) + number * message.times
                bits[key] = bits.get(key, 0) + number * sent_bits(message)
    return [
        {
            "policy": counted.policy.name,
            "axis": axis,
            "ranks": graph.mesh[axis].ranks,
            "collective": collective,
            "role": role,
            "runs": str(runs[axis, collective, role]),
            "sent_bits": str(bits[axis, collective, role]),
        }
        for axis, collective, role in sorted(runs)
    ]


def link_records(result: Result) -> list[Record]:
    """A row per policy, device, axis and link: what a rank sends over it in a run, and how long the link is busy.

    Of messages that the links of a device do not join there is no row.
    """
    if not result.job.graph.mesh or not result.job.hardware:
        return []
    return [row for counted in result.policies for device in result.job.hardware for row in _over(counted, device)]


def _over(counted: CountedPolicy, device: Hardware) -> list[Record]:
    from costsim.devices.links import sent_over  # a run without devices does without

    bits: dict[tuple[str, str], int] = {}
    busy_s: dict[tuple[str, str], float] = {}
    for steps, rows in counted.weighted_rows():
        for number, message in [(steps * len(row.ops), message) for row in rows for message in row.messages]:
            for sent in sent_over(message, device.links) or ():
                key = (message.axis, sent.link.name)
                bits[key] = bits.get(key, 0) + number * sent.bits
                busy_s[key] = busy_s.get(key, 0.0) + number * (sent.moving_s + sent.waiting_s)
    return [
        {
            "policy": counted.policy.name,
            "hardware": device.name,
            "axis": axis,
            "link": link,
            "sent_bits": str(bits[axis, link]),
            "busy_s": busy_s[axis, link],
        }
        for axis, link in sorted(bits)
    ]


def sent_fields(graph: Graph, total: Total) -> Record:
    """Of a total on many devices: what a rank sends, on all axes and on each."""
    if not graph.mesh:
        return {}
    by_axis = {axis: str(n) for axis, n in sorted(total.sent_bits.items())}
    return {"sent_bits": str(sum(total.sent_bits.values())), "sent_bits_by_axis": by_axis}


def describe(parallel: Parallel) -> str:
    """The mesh in words; "" for one device."""
    if parallel.devices == 1:
        return ""
    parts = []
    if parallel.tensor > 1:
        parts.append(f"tensor {parallel.tensor}{'' if parallel.sequence else ' without sequence'}")
    if parallel.context > 1:
        parts.append(f"context {parallel.context}")
    if parallel.data > 1:
        parts.append(f"data {parallel.data}")
    if parallel.zero:
        parts.append(f"zero {parallel.zero}")
    if parallel.secondary > 1:
        parts.append(f"weights once more in each {parallel.secondary} of these")
    if parallel.error_feedback:
        parts.append("error feedback")
    if parallel.expert > 1:
        parts.append(f"of these expert {parallel.expert}")
    if parallel.pipeline > 1:
        chunks = f" in {parallel.chunks} chunks" if parallel.chunks > 1 else ""
        parts.append(f"pipeline {parallel.pipeline}{chunks}, stage {parallel.stage}")
    return f"one of {parallel.devices} devices: {', '.join(parts)}"
