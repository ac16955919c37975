"""What `validate` found, as text and as JSON; also predicted beside measured time."""

import dataclasses
import json
import math
import textwrap
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from costsim.reference.measure import KindTime, Timing
from costsim.reference.validate import GRADIENT_LIMIT, Validation
from costsim.tables.run import WIDTH, clip, composed


def _worst(found: Mapping[str, float], unit: str) -> str:
    name, value = next(iter(found.items()), ("", None))
    return "" if value is None else f"{value:.3g}{unit}\n{clip(name, 20)}"


def to_table(found: Validation) -> str:
    """What `validate` found, for a terminal: a row per policy and phase, then what differs."""
    sizes = ", ".join(f"{dim} {size}" for dim, size in found.sizes.items())
    lines = textwrap.wrap(
        f"{found.workload}, shrunk: {found.ops} ops, {found.micro_batches} micro-batches, {sizes}", WIDTH
    )
    rows = [
        [
            composed(check.policy, 13),
            check.phase + 1,
            "equal" if not check.differences else f"{len(check.differences)} differ",
            _worst(check.noise_db, " dB"),
            _worst({name: 100 * error for name, error in check.gradient_errors.items()}, " %"),
        ]
        for check in found.checks
    ]
    headers = ["policy", "phase", "counts", "worst SQNR", "worst gradient error"]
    lines += ["", *tabulate(rows, headers=headers, tablefmt="simple").splitlines(), ""]
    verdict = "right" if found.gradient_error <= GRADIENT_LIMIT else "WRONG"
    lines.append(f"gradients along random directions, float64: {verdict}, off by {found.gradient_error:.1e} at most")
    for check in found.checks:
        for its in check.differences[:10]:
            where = f"{check.policy}, phase {check.phase + 1}, {its.op}"
            lines.append(f"DIFFERS {where}: {its.what}: counted {its.counted}, measured {its.measured}")
        if len(check.differences) > 10:
            lines.append(f"... and {len(check.differences) - 10} more of {check.policy}, phase {check.phase + 1}")
    if found.losses:
        lines += ["", "loss on random data, by step (a check that training runs, not that it learns)"]
        lines += [f"  {name}: " + " ".join(f"{loss:.3f}" for loss in losses) for name, losses in found.losses.items()]
    lines += textwrap.wrap(
        "SQNR and gradient errors are what the policy's own formats do to numbers drawn at random: they are shown, and "
        "do not pass or fail",
        WIDTH,
    )
    count = sum(check.ops for check in found.checks)
    said = "all counts are what was measured" if found.passed else "FAILED"
    lines.append(f"{said}: products, conversions, bits moved of {count} ops")
    return "\n".join(lines) + "\n"


def to_json(found: Validation) -> str:
    """All that `validate` found, as one object."""
    data = dataclasses.asdict(found)
    for check in data["checks"]:
        check["noise_db"] = {n: None if math.isinf(db) else db for n, db in check["noise_db"].items()}
    return (
        json.dumps({**data, "passed": found.passed, "gradient_limit": GRADIENT_LIMIT}, indent=2, allow_nan=False) + "\n"
    )


# --- time -------------------------------------------------------------------------------------------------------------


def _milliseconds(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{1000 * seconds:.4g}"


def _time_row(its: KindTime, total_s: float) -> list[str]:
    error = its.error_percent
    return [
        clip(its.kind, 24),
        str(its.runs),
        _milliseconds(its.predicted_s),
        _milliseconds(its.measured_s),
        "n/a" if error is None else f"{error:+.1f}",
        f"{100 * its.measured_s / total_s:.1f}" if total_s else "n/a",
        its.bound,
    ]


def _time_notes(found: Timing) -> list[str]:
    device, low, high = found.hardware, min(found.totals_s), max(found.totals_s)
    rates = ", ".join(f"{rate.name} {rate.mac_per_s:.3g} MAC/s" for rate in device.rates[:3])
    vector, bandwidth = (
        "unknown" if value is None else f"{value:.3g}" for value in (device.vector_op_per_s, device.dram_bytes_per_s)
    )
    return [
        f"{device.name}: {rates}; {vector} op/s; {bandwidth} byte/s; {device.launch_s:.2g} s a launch",
        f"measured: {found.engine}, medians of {found.steps} steps, of which the shortest took {low:.3g} s and the "
        f"longest {high:.3g} s; predicted: a roofline for each op, fp32, unfused, compulsory traffic only",
        f"{found.caveat}; nothing is fitted",
    ]


def time_table(found: Timing) -> str:
    """Predicted beside measured time, for a terminal: a row per op kind, the longest first, and sums."""
    copy = ", ".join(found.fields) or "as it is"
    sizes = ", ".join(f"{dim} {size}" for dim, size in found.sizes.items())
    lines = textwrap.wrap(f"{found.workload}: {copy}; {found.parameters} parameters; {sizes}", WIDTH)
    sums = (found.gemms, found.others, found.total)
    rows = [_time_row(its, found.total.measured_s) for its in (*found.kinds, *sums)]
    headers = ["op kind", "runs", "predicted ms", "measured ms", "error %", "share %", "bound"]
    align = ["left"] + ["right"] * 5 + ["left"]
    table = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align).splitlines()
    table.insert(len(table) - len(sums), table[1])
    lines += ["", *table, ""]
    for note in _time_notes(found):
        lines += textwrap.wrap(note, WIDTH, subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def _time_record(its: KindTime) -> dict[str, Any]:
    return {**dataclasses.asdict(its), "error_percent": its.error_percent}


def time_json(found: Timing) -> str:
    """Predicted beside measured time, as one object; times in seconds."""
    device = found.hardware
    data = {
        "workload": found.workload,
        "fields": list(found.fields),
        "engine": found.engine,
        "sizes": found.sizes,
        "parameters": found.parameters,
        "hardware": {
            "name": device.name,
            "description": device.description,
            "mac_per_s": {rate.name: rate.mac_per_s for rate in device.rates},
            "gemm_efficiency": [{"macs": macs, "value": value} for macs, value in device.gemm_efficiency],
            "vector_op_per_s": device.vector_op_per_s,
            "dram_bytes_per_s": device.dram_bytes_per_s,
            "launch_s": device.launch_s,
        },
        "steps": found.steps,
        "totals_s": list(found.totals_s),
        "total": _time_record(found.total),
        "gemms": _time_record(found.gemms),
        "others": _time_record(found.others),
        "kinds": [_time_record(its) for its in found.kinds],
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"
