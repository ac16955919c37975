"""What `validate` measured as a document: beside the counts, or beside predicted time. Text of 80 columns, and JSON."""

import dataclasses
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from costsim.reference.measure import KindTime, StepEnergy, Timing
from costsim.reference.validate import GRADIENT_LIMIT, Check, Validation
from costsim.tables.cells import percent
from costsim.tables.document import Document, Preformatted
from costsim.tables.table import WIDTH, Column, Table, clip, composed, simple


def _document(workload: str, lines: Callable[[], Iterator[str]], data: Callable[[], Mapping[str, Any]]) -> Document:
    return Document(workload, lambda: [[Preformatted(list(lines()))]], data)


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{dim} {size}" for dim, size in sizes.items())


def document(validation: Validation) -> Document:
    """Counts beside what was measured."""
    return _document(validation.workload, lambda: _lines(validation), lambda: _data(validation))


def _worst(errors: Mapping[str, float], unit: str) -> str:
    """The first of some errors, the worst, over the name of its tensor."""
    name, value = next(iter(errors.items()), ("", None))
    return "" if value is None else f"{value:.3g}{unit}\n{clip(name, 20)}"


def _checks(checks: Iterable[Check]) -> Table:
    columns = [
        Column("policy", "left"),
        Column("phase"),
        *(Column(header, "left") for header in ("counts", "worst SQNR", "worst gradient error")),
    ]
    rows = [
        [
            composed(check.policy),
            str(check.phase + 1),
            "equal" if not check.differences else f"{len(check.differences)} differ",
            _worst(check.noise_db, " dB"),
            _worst({name: 100 * error for name, error in check.gradient_errors.items()}, " %"),
        ]
        for check in checks
    ]
    return Table(columns, rows)


def _differences(check: Check) -> Iterator[str]:
    where = f"{check.policy}, phase {check.phase + 1}"
    for difference in check.differences[:10]:
        numbers = f"counted {difference.counted}, measured {difference.measured}"
        yield f"DIFFERS {where}, {difference.op}: {difference.what}: {numbers}"
    if len(check.differences) > 10:
        yield f"... and {len(check.differences) - 10} more of {where}"


def _lines(validation: Validation) -> Iterator[str]:
    """A row per policy and phase, then what differs."""
    copy = f"{validation.ops} ops, {validation.micro_batches} micro-batches, {_sizes(validation.sizes)}"
    yield from textwrap.wrap(f"{validation.workload}, shrunk: {copy}", WIDTH)
    table = _checks(validation.checks)
    yield from ["", *simple(table, table.rows), ""]
    verdict = "right" if validation.gradient_error <= GRADIENT_LIMIT else "WRONG"
    error = f"{validation.gradient_error:.1e}"
    yield f"gradients along random directions, float64: {verdict}, off by {error} at most"
    for check in validation.checks:
        yield from _differences(check)
    if validation.losses:
        yield from ["", "loss on random data, by step (a check that training runs, not that it learns)"]
        for name, losses in validation.losses.items():
            yield f"  {name}: " + " ".join(f"{loss:.3f}" for loss in losses)
    yield from textwrap.wrap(
        "SQNR and gradient errors are what the policy's own formats do to numbers drawn at random: they are shown, and "
        "do not pass or fail",
        WIDTH,
    )
    count = sum(check.ops for check in validation.checks)
    outcome = "all counts are what was measured" if validation.passed else "FAILED"
    yield f"{outcome}: products, conversions, bits moved of {count} ops"


def _data(validation: Validation) -> Mapping[str, Any]:
    data = dataclasses.asdict(validation)
    for check in data["checks"]:
        check["noise_db"] = {n: None if math.isinf(db) else db for n, db in check["noise_db"].items()}
    return {**data, "passed": validation.passed, "gradient_limit": GRADIENT_LIMIT}


# --- time -------------------------------------------------------------------------------------------------------------


def time_document(timing: Timing) -> Document:
    """Predicted beside measured time."""
    return _document(timing.workload, lambda: _time_lines(timing), lambda: _time_data(timing))


def _milliseconds(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{1000 * seconds:.4g}"


def _time_row(kind: KindTime, total_s: float) -> list[str]:
    error = kind.error_percent
    return [
        clip(kind.kind, 24),
        str(kind.runs),
        _milliseconds(kind.predicted_s),
        _milliseconds(kind.measured_s),
        "n/a" if error is None else f"{error:+.1f}",
        percent(kind.measured_s / total_s if total_s else None),
        kind.bound,
    ]


def _time_notes(timing: Timing) -> list[str]:
    device, low, high = timing.hardware, min(timing.totals_s), max(timing.totals_s)
    rates = ", ".join(f"{rate.name} {rate.mac_per_s:.3g} MAC/s" for rate in device.rates[:3])
    vector, bandwidth = (
        "unknown" if value is None else f"{value:.3g}" for value in (device.vector_op_per_s, device.dram_bytes_per_s)
    )
    return [
        f"{device.name}: {rates}; {vector} op/s; {bandwidth} byte/s; {device.launch_s:.2g} s a launch",
        f"measured: {timing.engine}, medians of {timing.steps} steps, of which the shortest took {low:.3g} s and the "
        f"longest {high:.3g} s{_noise(timing)}",
        *_predicted(timing),
        *_energy_notes(timing.energy),
    ]


def _noise(timing: Timing) -> str:
    """What the machine itself differs by from step to step."""
    noise = timing.noise_percent
    return "" if noise is None else f"; every other step against those in between: {noise:.1f} %"


def _predicted(timing: Timing) -> Iterator[str]:
    """What the prediction is made of."""
    if not timing.hardware.kernels:
        yield f"predicted: a roofline for each kernel, fp32, {timing.traffic}, compulsory traffic only"
        yield f"{timing.caveat}; nothing is fitted"
        return
    predicted_s = timing.total.predicted_s
    off = f", off by up to {100 * timing.spread_s / predicted_s:.0f} % by their spread" if predicted_s else ""
    fused = "" if timing.gemms else "; of what is fused, less of that as fewer bits are moved"
    yield (
        f"predicted: what kernels of each kind took by themselves at other sizes{off}; fp32, nothing fitted to a step"
        + fused
    )
    if timing.not_measured:
        yield f"not measured, so at a roofline: {', '.join(timing.not_measured)}"


def _energy_notes(energy: StepEnergy | None) -> Iterator[str]:
    if energy is not None:
        error = energy.error_percent
        predicted = (
            "n/a, for the profile has no energies" if energy.predicted_j is None else f"{energy.predicted_j:.3g} J"
        )
        off = "" if error is None else f" ({error:+.1f} %)"
        measured = f"measured {energy.measured_j:.3g} J{off} by {energy.meter}"
        yield f"energy of a step: predicted {predicted}; {measured}: all that it drew meanwhile, idle parts too"


def _time_lines(timing: Timing) -> Iterator[str]:
    """A row per op kind, the longest first, and sums."""
    copy = ", ".join(timing.fields) or "as it is"
    sizes = _sizes(timing.sizes)
    yield from textwrap.wrap(f"{timing.workload}: {copy}; {timing.parameters} parameters; {sizes}", WIDTH)
    sums = [each for each in (timing.gemms, timing.others, timing.total) if each is not None]
    what = "op kind" if timing.gemms else "part"
    headers = [what, "runs", "predicted ms", "measured ms", "error %", "share %", "bound"]
    columns = [Column(header, "left" if header in (what, "bound") else "right") for header in headers]
    table = Table(columns, [_time_row(kind, timing.total.measured_s) for kind in (*timing.kinds, *sums)])
    lines = simple(table, table.rows)
    lines.insert(len(lines) - len(sums), lines[1])
    yield from ["", *lines, ""]
    for note in _time_notes(timing):
        yield from textwrap.wrap(note, WIDTH, subsequent_indent="  ")


def _time_record(kind: KindTime | None) -> dict[str, Any] | None:
    return None if kind is None else {**dataclasses.asdict(kind), "error_percent": kind.error_percent}


def _energy_record(energy: StepEnergy | None) -> dict[str, Any] | None:
    return None if energy is None else {**dataclasses.asdict(energy), "error_percent": energy.error_percent}


def _time_data(timing: Timing) -> Mapping[str, Any]:
    """Times in seconds."""
    device = timing.hardware
    return {
        "workload": timing.workload,
        "fields": list(timing.fields),
        "engine": timing.engine,
        "traffic": timing.traffic,
        "sizes": timing.sizes,
        "parameters": timing.parameters,
        "hardware": {
            "name": device.name,
            "description": device.description,
            "mac_per_s": {rate.name: rate.mac_per_s for rate in device.rates},
            "gemm_efficiency": [{"macs": macs, "value": value} for macs, value in device.gemm_efficiency],
            "vector_op_per_s": device.vector_op_per_s,
            "dram_bytes_per_s": device.dram_bytes_per_s,
            "launch_s": device.launch_s,
        },
        "steps": timing.steps,
        "totals_s": list(timing.totals_s),
        "noise_percent": timing.noise_percent,
        "spread_s": timing.spread_s,
        "not_measured": list(timing.not_measured),
        "energy": _energy_record(timing.energy),
        "total": _time_record(timing.total),
        "gemms": _time_record(timing.gemms),
        "others": _time_record(timing.others),
        "kinds": [_time_record(kind) for kind in timing.kinds],
    }
