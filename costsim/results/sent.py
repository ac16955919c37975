"""What a rank sends to others in a run, as records: by policy, axis of the mesh, collective and role."""

from typing import Any

from costsim.cost.collectives import sent_bits
from costsim.cost.totals import Total
from costsim.graph.graph import Graph
from costsim.inputs.schema_workload import Parallel
from costsim.run.counted import CountedPolicy
from costsim.run.simulate import Result

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


def sent_fields(graph: Graph, total: Total) -> Record:
    """Of a total on many devices: what a rank sends, on all axes and on each."""
    if not graph.mesh:
        return {}
    by_axis = {axis: str(n) for axis, n in sorted(total.sent_bits.items())}
    return {"sent_bits": str(sum(total.sent_bits.values())), "sent_bits_by_axis": by_axis}


def describe(parallel: Parallel) -> str:
    """The mesh in words; "" for one device."""
    devices = parallel.tensor * parallel.data * parallel.pipeline
    if devices == 1:
        return ""
    parts = []
    if parallel.tensor > 1:
        parts.append(f"tensor {parallel.tensor}{'' if parallel.sequence else ' without sequence'}")
    if parallel.data > 1:
        parts.append(f"data {parallel.data}" + (f", zero {parallel.zero}" if parallel.zero else ""))
    if parallel.expert > 1:
        parts.append(f"of these expert {parallel.expert}")
    if parallel.pipeline > 1:
        parts.append(f"pipeline {parallel.pipeline}, stage {parallel.stage}")
    return f"one of {devices} devices: {', '.join(parts)}"
