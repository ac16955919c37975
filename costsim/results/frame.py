"""Results as a tidy table: a pandas DataFrame (imported here only) with a row per op, policy, phase and device.

Counts are of one training step, and `steps` says how many steps of the run they stand for; `total` multiplies and adds
them up as Python integers, since a run's counts do not fit 64 bits. A table holds its convention in columns, so that
it can be written to JSON, CSV or Parquet and read back unchanged without the result.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import pandas as pd

from costsim.cost.laws import LAWS
from costsim.cost.row import Row, each_op
from costsim.cost.totals import sum_rows
from costsim.devices.profile import Hardware
from costsim.devices.spent import Spent
from costsim.errors import InputError, nearest, one_line
from costsim.graph.fusion import group_ops, grouping
from costsim.graph.graph import Op
from costsim.run.counted import CountedPhase, CountedPolicy, buffer_on, buffer_unknown, peak_bytes, rows_for
from costsim.run.simulate import Result
from costsim.run.spread import Workers
from costsim.run.sweep import Sweep, value
from costsim.run.tables import each
from costsim.run.timing import time_kernels, time_step

# The columns by the sort of their values. Names are text that repeats; counts are exact, `cost` may be undefined (NA).
COLUMNS = {
    "policy": "name",
    "workload": "name",
    "law": "name",
    "traffic": "name",
    "scope": "name",
    "baseline": "name",  # the policy that ratios compare with unless another is named
    "training_phase": "count",  # of the policy, from 0
    "setup": "name",  # of that phase, as tables print it
    "steps": "count",  # of the run, that the phase lasts
    "op": "name",
    "kind": "name",
    "phase": "name",  # forward, recompute, backward, update
    "layer": "name",
    "gemm": "maybe",  # forward, recompute, dgrad, wgrad; NA for what is no GEMM
    "pair": "name",  # formats of operands and accumulator
    "macs": "count",
    "arithmetic_cost": "cost",  # in the law's unit
    "vector_ops": "count",
    "quantize_ops": "count",
    "dram_read_bits": "count",
    "dram_written_bits": "count",
    "elements_moved": "count",
    "peak_memory_bytes": "count",  # of the whole step: the same in all rows of a phase
    "hardware": "maybe",  # NA if no device was asked for
    "kernel": "name",  # the first op of the op's kernel, in whose row the time of the whole kernel stands
    "time_s": "float",  # NaN where a rate, a pair of formats or the bandwidth is lacking
    "energy_j": "float",
    "bound": "maybe",  # arithmetic, vector, dram, launch, unsupported, n/a; NA for an op that begins no kernel
}
COUNTS = ("macs", "arithmetic_cost", "vector_ops", "quantize_ops", "dram_read_bits", "dram_written_bits")
SPENT = ("time_s", "energy_j")
_OF_TOTALS = ("policy", "training_phase")
GROUPS = ("policy", "training_phase", "phase", "kind", "layer", "op", "gemm", "pair", "kernel")


def _op_record(op: Op, row: Row, law: str) -> dict[str, Any]:
    """The counts of one op in a step."""
    quantize = row.vector.get("quantize", 0)
    cost = row.cost(LAWS[law])
    return {
        "op": row.name(op),
        "kind": row.kind,
        "phase": row.phase,
        "layer": op.layer,
        "gemm": row.gemm_name if row.gemm else None,
        "pair": row.pair_name,
        "macs": row.macs,
        "arithmetic_cost": cost,
        "vector_ops": sum(row.vector.values()) - quantize,
        "quantize_ops": quantize,
        "dram_read_bits": sum(move.read_bits for move in row.moves),
        "dram_written_bits": sum(move.written_bits for move in row.moves),
        "elements_moved": sum(move.elements for move in row.moves),
    }


def _step_records(result: Result, phase: CountedPhase, device: Hardware | None) -> list[dict[str, Any]]:
    """The ops of a step in order, each with its kernel; on a device, with the time and energy of the kernel."""
    job = result.job
    convention = job.convention
    known = device is not None and not buffer_unknown(job, device)
    rows = rows_for(job, phase, buffer_on(job, device)) if device and known else phase.rows
    group = group_ops(job.graph, grouping(convention.traffic, convention.scope))
    first: dict[int, str] = {}  # the first op of each kernel; a quantize kernel is its own
    records = []
    for op, row in each_op(rows):
        name = row.name(op)
        kernel = name if row.cast else first.setdefault(group[op.position], name)
        records.append({**_op_record(op, row, convention.law), "kernel": kernel})
    if device:
        spent = {
            kernel.first[0].name(kernel.first[1]): spent
            for kernel, spent in time_kernels(job, phase, device, each=True)
        }
        for record in records:
            begins = record["op"] == record["kernel"]
            took = spent.get(record["op"], Spent()) if begins else Spent()
            bound = took.bound if begins else None
            record |= {"hardware": device.name, "time_s": took.time_s, "energy_j": took.energy_j, "bound": bound}
    return records


def _step_total(result: Result, phase: CountedPhase, device: Hardware | None) -> list[dict[str, Any]]:
    """A step as one row; on a device, with its time and energy."""
    job = result.job
    known = device is not None and not buffer_unknown(job, device)
    rows = rows_for(job, phase, buffer_on(job, device)) if device and known else phase.rows
    total = sum_rows(rows, job.convention.law) if phase.total is None else phase.total
    quantize = total.vector.get("quantize", 0)
    record: dict[str, Any] = {
        "macs": total.macs,
        "arithmetic_cost": total.arithmetic_cost,
        "vector_ops": sum(total.vector.values()) - quantize,
        "quantize_ops": quantize,
        "dram_read_bits": total.read_bits,
        "dram_written_bits": total.written_bits,
        "elements_moved": total.elements,
    }
    if device:
        spent = time_step(job, phase, device)
        record |= {"hardware": device.name, "time_s": spent.time_s, "energy_j": spent.energy_j, "bound": spent.bound}
    return [record]


def _policy_records(result: Result, counted: CountedPolicy, totals: bool) -> list[dict[str, Any]]:
    """All rows of a policy, phase by phase of its training; `totals`: one a phase."""
    job = result.job
    convention, policy = job.convention, counted.policy
    devices: Sequence[Hardware | None] = job.hardware or (None,)
    records = []
    for i, (phase, setup) in enumerate(zip(counted.phases, policy.setup, strict=True)):
        shared = {
            "workload": job.workload,
            "law": convention.law,
            "traffic": convention.traffic_label,
            "scope": convention.scope,
            "baseline": convention.baseline,
            "policy": policy.name,
            "training_phase": i,
            "setup": setup,
            "steps": phase.steps,
            "peak_memory_bytes": peak_bytes(job, counted, i),
        }
        for device in devices:
            records += [shared | record for record in (_step_total if totals else _step_records)(result, phase, device)]
    return records


Columns = Mapping[str, Sequence[Any]]  # plain values by the names of COLUMNS, None where one is missing


def columns_of(result: Result, totals: bool = False) -> Columns:
    """The rows of a result as columns, its baseline's too; `totals`: a row per policy and phase, not one per op."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    policies = {counted.policy.name: counted for counted in (*result.policies, result.baseline)}
    for counted in policies.values():
        for record in _policy_records(result, counted, totals):
            for name, column in columns.items():
                column.append(record.get(name))
    return columns


def swept_columns(swept: Sweep, totals: bool, workers: Workers) -> Iterator[Columns]:
    """The columns of each point of a sweep. Raises InputError if a policy does not fit the workload."""
    return each(swept, "policy" if totals else "op", partial(columns_of, totals=totals), True, workers)


def of_parts(where: Sequence[Mapping[str, str]], parts: Iterable[Columns]) -> pd.DataFrame:
    """The tidy table of points: columns as in COLUMNS, after them the fields that a sweep has set for each."""
    swept = [name for name in where[0] if name not in COLUMNS]
    columns: dict[str, Any] = {name: _Integers() if sort == "count" else [] for name, sort in COLUMNS.items()}
    columns |= {name: [] for name in swept}
    texts: dict[Any, Any] = {}  # each text once, for they repeat from point to point
    for point, part in zip(where, parts, strict=True):
        rows = len(part["policy"])
        for name, column in columns.items():
            for entry in part[name] if name in COLUMNS else [point[name]] * rows:
                column.append(texts.setdefault(entry, entry) if isinstance(entry, str) else entry)
    return typed(columns)


def of_result(result: Result) -> pd.DataFrame:
    """The tidy table of one result, its baseline in it, also if it was not asked for."""
    return of_parts([{}], [columns_of(result)])


class _Integers(Sequence[int]):
    """Integers in 8 bytes each, where they fit: a sweep has millions."""

    def __init__(self) -> None:
        self._packed: array[int] | list[int] = array("q")

    def append(self, value: int) -> None:
        """Add one at the end."""
        if isinstance(self._packed, array) and not -(2**63) <= value < 2**63:
            self._packed = self._packed.tolist()
        self._packed.append(value)

    def __getitem__(self, index: Any) -> Any:
        return self._packed[index]

    def __len__(self) -> int:
        return len(self._packed)


def _exact(values: Sequence[Any]) -> Any:
    """Integers, 64 bits where they fit, else Python's own."""
    if isinstance(values, _Integers) and isinstance(values[:0], array):
        return pd.array(values[:], dtype="int64")
    whole = [None if value is None else int(value) for value in values]
    known = [value for value in whole if value is not None]
    if all(-(2**63) <= value < 2**63 for value in known):
        return pd.array(whole, dtype="Int64" if len(known) < len(whole) else "int64")
    return pd.Series(whole, dtype=object)


def _names(values: Sequence[Any]) -> pd.Categorical:
    """Text that repeats; categories in order of appearance."""
    return pd.Categorical(values, categories=list(dict.fromkeys(value for value in values if value is not None)))


def _field(texts: Sequence[str]) -> Any:
    """Values of a field that a sweep sets: integers, or numbers, if all are finite; else text."""
    values = [value(text) for text in texts]
    if any(isinstance(parsed, str) for parsed in values):
        return _names(texts)
    if all(isinstance(parsed, int) for parsed in values):
        return _exact(values)
    return pd.array([float(parsed) for parsed in values], dtype="float64")


_TYPES: dict[str, Callable[[Sequence[Any]], Any]] = {
    "name": lambda values: _names(["" if value is None else value for value in values]),
    "maybe": _names,
    "count": _exact,
    "cost": _exact,
    "float": lambda values: pd.array([math.nan if v is None else float(v) for v in values], dtype="float64"),
}


def typed(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Columns of plain values (None: missing) as a table; a column has the same type whatever it was read from."""
    types = {name: _TYPES[COLUMNS[name]] if name in COLUMNS else _field for name in columns}
    return pd.DataFrame({name: types[name](values) for name, values in columns.items()})


# --- sums -------------------------------------------------------------------------------------------------------------


def fields(frame: pd.DataFrame) -> list[str]:
    """The columns that a sweep has set: fields of the workload, and those of the convention that vary."""
    swept = [name for name in frame.columns if name not in COLUMNS]
    return swept + [name for name in _CONVENTION if frame[name].nunique() > 1]


_CONVENTION = ("workload", "law", "traffic", "scope", "baseline")


def total(frame: pd.DataFrame, by: str = "policy") -> pd.DataFrame:
    """Totals of the run, exact: a row per policy, group, device and point of a sweep, in order of appearance.

    `by` is one of GROUPS. Counts are Python integers, NA where the law is not defined for some of them; times and
    energies belong to the op that begins a kernel, NaN where one is not known. Raises InputError for another column.
    """
    if by not in GROUPS:
        raise InputError(f"by {one_line(by)!r}: expected one of {', '.join(GROUPS)}{nearest(by, GROUPS)}")
    if by not in _OF_TOTALS and (frame["op"] == "").all():
        raise InputError(f"by {by}: this table has totals only, by {' and '.join(_OF_TOTALS)}; make it without totals")
    keys = list(dict.fromkeys(["policy", by, *fields(frame), "hardware"]))  # no two runs are added up
    weights = frame["steps"].astype(object)
    weighed = frame[keys].copy()
    for name in (*COUNTS, *SPENT):
        weighed[name] = frame[name].astype(object if name in COUNTS else float) * weights
    grouped = weighed.groupby(keys, observed=True, sort=False, dropna=False)
    sums = grouped[list(SPENT)].sum(skipna=False).astype(float)
    for at, name in enumerate(COUNTS):
        # As objects, for pandas would make 64 bits of what fits, and wrap around in the next sum.
        sums.insert(at, name, pd.Series([sum(column) for _, column in grouped[name]], index=sums.index, dtype=object))
    sums.insert(len(COUNTS), "dram_bits", sums["dram_read_bits"] + sums["dram_written_bits"])
    if frame["hardware"].isna().all():
        sums = sums.drop(columns=list(SPENT)).droplevel("hardware")
    return sums.reset_index()


def compare(frame: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """How many times less than the baseline each policy takes, at each point of a sweep and on each device.

    Ratios are correctly rounded; NaN where something is not defined. Raises InputError if the table has no such policy.
    """
    policies = list(frame["policy"].cat.categories)
    if baseline is not None and baseline not in policies:
        raise InputError(f"baseline {one_line(baseline)!r}: not in the results{nearest(baseline, policies)}")
    sums = total(frame)
    keys = [name for name in (*fields(frame), "hardware") if name in sums]
    peaks = frame.groupby(["policy", *fields(frame)], observed=True, sort=False)["peak_memory_bytes"].max()
    sums = sums.merge(peaks.reset_index(), on=["policy", *fields(frame)])
    bases = sums["baseline"] if "baseline" in sums else frame["baseline"].iloc[0]
    of_baseline = sums["policy"].astype(str) == (bases if isinstance(bases, str) else bases.astype(str))
    base = sums[of_baseline if baseline is None else sums["policy"] == baseline].drop(columns="policy")
    both = sums.assign(_=0).merge(base.assign(_=0), how="left", on=["_", *keys], suffixes=("", " of the baseline"))
    table = both[["policy", *keys]].copy()
    for name, column in _RATIOS.items():
        if column in sums:
            pairs = zip(both[f"{column} of the baseline"], both[column], strict=True)
            table[name] = [_ratio(dividend, divisor) for dividend, divisor in pairs]
    return table


_RATIOS = {
    "arithmetic_reduction": "arithmetic_cost",
    "dram_reduction": "dram_bits",
    "memory_reduction": "peak_memory_bytes",
    "time_reduction": "time_s",
    "energy_reduction": "energy_j",
}


def _ratio(dividend: Any, divisor: Any) -> float:
    if pd.isna(dividend) or pd.isna(divisor) or not divisor:
        return math.nan
    return float(Fraction(dividend) / Fraction(divisor))
