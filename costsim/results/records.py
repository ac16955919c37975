"""Results as records: what tables, exports and figures show, a dictionary a row.

Exact integers are decimal strings, ratios are numbers; None stands where something is not defined.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from costsim.cost.laws import LAWS
from costsim.cost.read_only import flash_read_bits
from costsim.cost.totals import Total, group
from costsim.graph.fusion import UNTILED
from costsim.graph.graph import Graph, Op
from costsim.graph.words import words
from costsim.models.build import padding
from costsim.models.meeting import describe
from costsim.policy.assign import assign
from costsim.results.sent import sent_fields
from costsim.run.counted import CountedPolicy, peak_bytes
from costsim.run.simulate import Result

if TYPE_CHECKING:
    from costsim.devices.profile import Hardware
    from costsim.devices.spent import Spent

Record = dict[str, Any]


def _number(value: Fraction | None) -> float | None:
    return None if value is None else float(value)


def _ratio(numerator: int | None, denominator: int | None) -> float | None:
    """Correctly rounded, of integers that may be too large for floats; None if nothing is there to divide (by)."""
    return float(Fraction(numerator, denominator)) if denominator and numerator is not None else None


def _exact(value: int | None) -> str | None:
    return None if value is None else str(value)


def _additions(total: Total) -> Record:
    return {"additions_by_accumulator": {name: str(n) for name, n in sorted(total.additions.items())}}


def _vector_ops(total: Total) -> Record:
    quantize = total.vector.get("quantize", 0)
    return {
        "vector_ops": str(sum(total.vector.values()) - quantize),
        "quantize_ops": str(quantize),
        "vector_ops_by_operation": {name: str(n) for name, n in sorted(total.vector.items()) if name != "quantize"},
    }


def policy_record(result: Result, counted: CountedPolicy) -> Record:
    """The row of one policy: totals of the run and ratios to the baseline."""
    total, ratios = counted.total, counted.total.reductions(result.baseline.total)
    square = result.job.convention.law == "product"
    return {
        "policy": counted.policy.name,
        "setup": " > ".join(dict.fromkeys(counted.policy.setup)),
        "grade": counted.policy.file.grade,
        "macs": str(total.macs),
        "arithmetic_cost": _exact(total.arithmetic_cost),
        "arithmetic_reduction": _number(ratios.arithmetic_reduction),
        "dram_bits": str(total.dram_bits),
        "dram_read_bits": str(total.read_bits),
        "dram_written_bits": str(total.written_bits),
        "dram_reduction": _number(ratios.dram_reduction),
        "arithmetic_cost_per_mac": _ratio(total.arithmetic_cost, total.macs),
        "square_bits_per_mac": _ratio(total.arithmetic_cost, total.macs) if square else None,
        "bits_per_element_moved": _ratio(total.dram_bits, total.elements),
        **_additions(total),
        **_vector_ops(total),
        **sent_fields(result.job.graph, total),
        **({"flash_read_bits": str(read_from_flash(result, counted))} if result.job.graph.frozen_in_flash else {}),
        **({"hardware": _hardware(result, counted)} if result.job.hardware else {}),
    }


def read_from_flash(result: Result, counted: CountedPolicy) -> int:
    """Of the bits that a policy's run reads, those of frozen weights, which come from flash."""
    graph, policy = result.job.graph, counted.policy
    rows = [(phase.steps, assign(graph, policy, i), phase.rows) for i, phase in enumerate(counted.phases)]
    return sum(steps * flash_read_bits(graph, assignment, of_step) for steps, assignment, of_step in rows if steps)


def spent_record(spent: Spent) -> Record:
    """Time and energy of something on a device; None where a rate, a pair or an energy is lacking."""
    return {
        "time_s": spent.time_s,
        "time_spread_s": spent.spread_s,
        "energy_j": spent.energy_j,
        "bound": spent.bound,
        "op_per_byte": spent.op_per_byte,
        "mac_time_s": None if spent.unsupported else spent.mac_s,
        "vector_time_s": spent.vector_s,
        "dram_time_s": spent.dram_s,
        "link_time_s": spent.link_s,
        "hidden_link_time_s": spent.hidden_s,
        "launch_time_s": spent.launch_s,
        "arithmetic_energy_j": None if spent.unsupported else spent.arithmetic_j,
        "on_chip_energy_j": spent.on_chip_j,
        "dram_energy_j": spent.dram_j,
        "static_energy_j": spent.static_j,
        "upcast": [f"{pair} as {runs_as}" for pair, runs_as in sorted(spent.upcast)],
        "unsupported": sorted(spent.unsupported),
        "unverified": sorted(spent.unverified),
        "lacks": sorted(spent.lacks),
        "not_measured": sorted(spent.not_measured),
    }


GROUP_SPENT = ("time_s", "energy_j", "bound", "op_per_byte", "time_share", "energy_share", "ridge_op_per_byte")


def hardware_record(result: Result, counted: CountedPolicy, device: Hardware) -> Record:
    """Time and energy of the policy's run on a device, and how many times less than the baseline's."""
    spent = result.spent[counted.policy.name, device.name]
    base = result.spent[result.baseline.policy.name, device.name]
    ratios = {}
    for name in ("time_s", "energy_j"):
        divisor, dividend = getattr(spent, name), getattr(base, name)
        ratio = dividend / divisor if divisor and dividend is not None else None
        ratios[f"{name.partition('_')[0]}_reduction"] = ratio
    from costsim.run.timing import ridge_op_per_byte  # a run without devices does without

    return spent_record(spent) | ratios | {"ridge_op_per_byte": ridge_op_per_byte(spent, device)}


def _hardware(result: Result, counted: CountedPolicy) -> dict[str, Record]:
    return {device.name: hardware_record(result, counted, device) for device in result.job.hardware}


def group_records(result: Result, by: str) -> list[Record]:
    """A row per policy and group: the group's part of the policy's totals, of its time and energy on each device."""
    rows = []
    for counted in result.policies:
        spent, said = _spent_by(result, counted, by), kind_words(counted) if by == "kind" else {}
        for name, part in group(counted.weighted_rows(), by, result.job.convention.law).items():
            rows.append(
                {
                    "policy": counted.policy.name,
                    by: name,
                    **({"words": said[name]} if said else {}),
                    "macs": str(part.macs),
                    "arithmetic_cost": _exact(part.arithmetic_cost),
                    "arithmetic_share": _ratio(part.arithmetic_cost, counted.total.arithmetic_cost),
                    "dram_bits": str(part.dram_bits),
                    "dram_read_bits": str(part.read_bits),
                    "dram_written_bits": str(part.written_bits),
                    "dram_share": _ratio(part.dram_bits, counted.total.dram_bits),
                    **_additions(part),
                    **_vector_ops(part),
                    **sent_fields(result.job.graph, part),
                    **({"hardware": spent(name)} if result.job.hardware else {}),
                }
            )
    return rows


def kind_words(counted: CountedPolicy) -> dict[str, str]:
    """Kinds of ops with the words for the ops that are of that kind."""
    ops: dict[str, list[Op]] = {}
    for phase in counted.phases[:1]:  # all have the same ops
        for row in phase.rows:
            ops.setdefault(row.kind, []).extend(row.ops if row.cast is None else ())
    return {kind: words(of_kind) or kind.replace("_", " ") for kind, of_kind in ops.items()}


def _spent_by(result: Result, counted: CountedPolicy, by: str) -> Callable[[str], dict[str, Record]]:
    """Time and energy of a group on each device, by the group's name; all None for groupings that have no time."""
    if not result.job.hardware:
        return lambda _: {}
    from costsim.devices.spent import Spent
    from costsim.run.timing import UNDIVIDED, ridge_op_per_byte, time_groups

    divided = by not in UNDIVIDED
    groups = {device.name: time_groups(result.job, counted, device, by) for device in result.job.hardware if divided}

    def on(device: Hardware, group: str) -> Record:
        if not divided:
            return dict.fromkeys(GROUP_SPENT)
        part, whole = groups[device.name].get(group, Spent()), result.spent[counted.policy.name, device.name]
        record = spent_record(part)
        for name in ("time_s", "energy_j"):
            record[f"{name.partition('_')[0]}_share"] = _share(getattr(part, name), getattr(whole, name))
        return {**record, "ridge_op_per_byte": ridge_op_per_byte(part, device)}

    return lambda group: {device.name: on(device, group) for device in result.job.hardware}


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def reduction_records(result: Result) -> list[Record]:
    """A row per policy as papers print it: how many times less than the baseline, in each cost that is known.

    Memory is the peak of a step, in whatever phase it is highest; it takes in all ops, whatever the scope.
    """
    base_peak = _peak_bytes(result, result.baseline)
    rows = []
    for counted in result.policies:
        ratios = counted.total.reductions(result.baseline.total)
        devices = {
            name: {key: record[key] for key in ("time_reduction", "energy_reduction")}
            for name, record in _hardware(result, counted).items()
        }
        rows.append(
            {
                "policy": counted.policy.name,
                "setup": " > ".join(dict.fromkeys(counted.policy.setup)),
                "arithmetic_reduction": _number(ratios.arithmetic_reduction),
                "dram_reduction": _number(ratios.dram_reduction),
                "memory_reduction": _ratio(base_peak, _peak_bytes(result, counted)),
                **({"hardware": devices} if devices else {}),
            }
        )
    return rows


def _peak_bytes(result: Result, counted: CountedPolicy) -> int:
    return max(peak_bytes(result.job, counted, i) for i in range(len(counted.phases)))


def assumption_records(result: Result) -> list[Record]:
    """A row per policy and case of an assumption: where both ratios go, and how far that is from as shipped."""
    from costsim.run.sensitivity import Outcome, outcomes  # no other table needs it

    rows = []
    shipped: dict[str, Outcome] = {}
    for outcome in outcomes(result.job):
        was = shipped.setdefault(outcome.policy, outcome)
        ratios = {}
        for name in ("arithmetic", "dram"):
            before, now = (getattr(case, f"{name}_reduction") for case in (was, outcome))
            ratios[f"{name}_reduction"] = _number(now)
            ratios[f"{name}_change"] = float(now / before - 1) if now is not None and before else None
        names = {name: getattr(outcome, name) for name in ("policy", "assumption", "case", "here", "grade")}
        rows.append(names | ratios)
    return rows


def full_records(result: Result, by: str) -> list[Record]:
    """The rows of an export, one of names.BY: those of a policy with its peak memory, which no printed table shows."""
    rows = records(result, by)
    if by == "policy":
        for row, counted in zip(rows, result.policies, strict=True):
            row["peak_memory_bytes"] = str(_peak_bytes(result, counted))
    return rows


def records(result: Result, by: str) -> list[Record]:
    """The rows of a table, one of names.BY."""
    if by == "assumption":
        return assumption_records(result)
    if by == "reduction":
        return reduction_records(result)
    if by == "policy":
        return [policy_record(result, counted) for counted in result.policies]
    return group_records(result, by)


FIGURES = {"arithmetic_reduction": "arithmetic", "dram_reduction": "DRAM"}


def published(result: Result) -> list[Record]:
    """Each stated figure beside ours in every scope and traffic model; the difference is relative to the stated one.

    `convention` marks the scope and traffic model that the workload file compares, which come first.
    """
    entries = []
    everywhere, file = result.everywhere, result.job.file
    for figure in result.job.file.published:
        for (scope, traffic), total in everywhere.get(figure.policy, {}).items():
            base = everywhere[result.job.convention.baseline][scope, traffic]
            ours = _number(getattr(total.reductions(base), figure.quantity))
            if ours is None:  # the law is not defined for the policy
                continue
            named = scope == file.scope and (
                traffic == file.traffic or (scope == "gemm" and {traffic, file.traffic} <= {*UNTILED})
            )
            entries.append(
                {
                    "quantity": figure.quantity,
                    "policy": figure.policy,
                    "stated": figure.stated,
                    "ours": ours,
                    "difference": ours / figure.stated - 1,
                    "scope": scope,
                    "traffic": traffic,
                    "convention": named,
                    "source": figure.source,
                }
            )
    return sorted(entries, key=lambda entry: (not entry["convention"], entry["scope"] != "gemm"))


def active_parameters(graph: Graph) -> dict[str, int]:
    """How many parameters work on a token, if not all do: of experts those chosen."""
    active = graph.active_parameters
    return {} if active == graph.parameters else {"active_parameters": active}


def convention(result: Result) -> Record:
    """The convention that all numbers of a result depend on."""
    chosen = result.job.convention
    lengths = padding(result.job.file, result.job.document)
    return {
        "law": chosen.law,
        "law_unit": LAWS[chosen.law].unit,
        "law_source": LAWS[chosen.law].source,
        "law_defined_for": LAWS[chosen.law].defined,
        "traffic": chosen.traffic,
        **({"buffer_bytes": chosen.buffer_bytes, "buffer_of": chosen.buffer_of or None} if chosen.tiled else {}),
        "scope": chosen.scope,
        **({"gemm_writes": chosen.gemm_writes} if chosen.scope == "gemm" else {}),
        **({"gemms_left_out": list(left)} if chosen.scope == "gemm" and (left := chosen.gemms_left_out) else {}),
        "steps": chosen.steps,
        "micro_batches": chosen.micro_batches,
        **({"parallel": result.job.file.parallel.as_data()} if result.job.graph.mesh else {}),
        "baseline": chosen.baseline,
        "attention_pairs": result.job.file.attention_pairs,
        "attention_pairs_counted": describe(result.job.graph, result.job.file.attention_pairs) or None,
        "parameters": result.job.graph.parameters,
        "trainable_parameters": result.job.graph.trainable_parameters,
        **active_parameters(result.job.graph),
        **({} if lengths is None else {"real_tokens": lengths[0], "padded_tokens": lengths[1]}),
    }
