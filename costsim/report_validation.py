"""What `validate` found, as text and as JSON."""

import dataclasses
import json
import math
import textwrap
from collections.abc import Mapping

from tabulate import tabulate

from costsim.report import WIDTH, clip, composed
from costsim.validate import GRADIENT_LIMIT, Validation


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
