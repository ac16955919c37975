"""One self-contained HTML page of a result: summary, tables that sort, figures, and where every number comes from."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from costsim.errors import InputError, one_line
from costsim.inputs import files
from costsim.page import sources
from costsim.page import tables as page_tables
from costsim.page.figures import figures
from costsim.results.records import Record, published, records
from costsim.run.simulate import Result
from costsim.tables import devices as device_tables
from costsim.tables.cells import short, signed
from costsim.tables.run import remarks
from costsim.tables.table import printable

ENDINGS = (".html", ".htm")
GROUPS = ("phase", "kind", "layer", "pair")
_PAGE = Path(__file__).parent


def check_place(path: Path) -> None:
    """Raise InputError at once, before counting, where a page could not be written afterwards."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"--out {one_line(path)}: expected a name that ends in {' or '.join(ENDINGS)}")
    try:
        if path.is_dir():
            raise InputError(f"--out {one_line(path)}: is a folder, expected a name for the page")
        if not path.parent.is_dir():
            raise InputError(f"--out {one_line(path)}: no folder {one_line(path.parent)}")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise InputError(f"--out {one_line(path)}: {one_line(path.parent)} cannot be written to")
    except (OSError, ValueError) as error:
        raise InputError(f"--out {one_line(path)}: {error}") from None


def _best(found: list[Record], key: str, of: str = "") -> Record | None:
    """The row with the largest ratio of some name; None if no row has one."""
    known = [its for its in found if (its[key] if not of else its["hardware"][of][key]) is not None]
    return max(known, key=lambda its: its["hardware"][of][key] if of else its[key], default=None)


def _times(value: float, than: str) -> str:
    return f"about as much as {than}" if short(value) == "1.00" else f"{short(value)} times less than {than}"


_WHAT = {"arithmetic_reduction": "arithmetic", "dram_reduction": "DRAM traffic"}


def _one(name: str) -> str:
    return f"policy {name}"


def summary(result: Result) -> list[str]:
    """The result in words: what is best at what, what papers state, what devices make of it; a sentence each."""
    found, said = records(result, "policy"), result.job.convention
    count = len(result.policies)
    lines = [
        f"{count} {'policy' if count == 1 else 'policies'}, counted exactly over {said.steps:,} training steps of a "
        f"model with {result.job.graph.parameters:,} parameters."
    ]
    for key, what in _WHAT.items():
        best = _best(found, key)
        if best is not None and best["policy"] == said.baseline:
            lines.append(f"None takes less {what} than the baseline, {_one(said.baseline)}.")
        elif best is not None:
            times = _times(best[key], f"that of {_one(said.baseline)}")
            lines.append(f"The least {what} is that of {_one(best['policy'])}, {times}.")
    lines += _stated(result)
    for device in result.job.hardware:
        fast = _best(found, "time_reduction", device.name)
        if fast is not None:
            its = fast["hardware"][device.name]
            lines.append(
                f"On {device.name}, {_one(fast['policy'])} takes the least time, {page_tables.time(its['time_s'])}, "
                f"{_times(its['time_reduction'], _one(said.baseline))}."
            )
    return lines


def _stated(result: Result) -> Iterator[str]:
    for entry in published(result):
        if (
            entry["convention"]
            and entry["scope"] == result.job.file.scope
            and entry["traffic"] == result.job.file.traffic
        ):
            change = signed(entry["difference"]) or "+0.0"
            yield (
                f"For {_one(entry['policy'])} the paper states {entry['stated']:g} times less "
                f"{_WHAT[entry['quantity']]}; here it is {short(entry['ours'])} ({change} %)."
            )


def ratios(result: Result) -> str:
    """What a ratio on the page means."""
    said = result.job.convention
    return (
        f"A ratio (\u00d7) says how many times less than {said.baseline} a policy takes: above 1 it saves, below 1 it "
        f"costs more. Law {said.law}, traffic {said.traffic_said}, scope {said.scope}, {said.steps} steps."
    )


def _context(result: Result, command: str) -> dict[str, Any]:
    """What the template shows."""
    script = (_PAGE / "sort.js").read_text(encoding="utf-8")
    devices = result.job.hardware
    notes = [device_tables.roofline_note(result, "policy")] if devices else []
    return {
        "workload": result.job.workload,
        "description": result.job.file.description,
        "summary": summary(result),
        "ratios": ratios(result),
        "remarks": remarks(result),
        "figures": figures(result),
        "policies": page_tables.policies(result),
        "published": page_tables.stated(result),
        "left_out": "" if result.job.of_the_file or not result.job.file.published else result.job.file.baseline,
        "groups": [page_tables.groups(result, by) for by in GROUPS],
        "devices": page_tables.devices(result),
        "device_notes": notes,
        "memory": page_tables.memory(result),
        "assumptions": page_tables.assumptions(result),
        "conventions": sources.conventions(result),
        "policy_sources": sources.policies(result),
        "formats": sources.formats(result),
        "device_figures": [sources.figures(device) for device in devices],
        "energies": sources.energies(devices),
        "stated_by": list(dict.fromkeys(figure.source for figure in result.job.file.published)),
        "files": sources.listed(result),
        "command": command,
        "version": version("costsim"),
        "style": Markup((_PAGE / "style.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": b64encode(sha256(script.encode()).digest()).decode("ascii"),
    }


def _shown(value: Any) -> Any:
    """What the template prints of a value: text from files and names without control characters."""
    return printable(value) if type(value) is str else value


def page(result: Result, command: str = "costsim report") -> str:
    """The whole page: the same text for the same result and command. `command` is what the page says made it.

    Nothing on it comes from outside: style, script and figures are inline, and a policy in its head forbids all else.
    """
    loader = jinja2.FileSystemLoader(_PAGE)
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    context = _context(result, command)
    context["figures"] = {kind: its._replace(svg=Markup(its.svg)) for kind, its in context["figures"].items()}
    return made.get_template("report.html.jinja").render(context)


def save(result: Result, path: Path, command: str = "costsim report") -> Path:
    """Write the page, whole or not at all. Raises InputError if it cannot be written."""
    check_place(path)
    return files.write(path, page(result, command).encode("utf-8"))
