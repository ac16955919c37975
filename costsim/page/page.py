"""One self-contained HTML page of a result: summary, tables that sort, figures, and the source of every number."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from costsim.collector import paused
from costsim.errors import InputError, one_line
from costsim.inputs import files
from costsim.page import sources, tables
from costsim.page.figures import figures
from costsim.page.summary import ratios, summary
from costsim.run.simulate import Result
from costsim.tables.devices import roofline_note
from costsim.tables.run import left_out, remarks
from costsim.tables.table import printable

if TYPE_CHECKING:
    from costsim.results.survey import Survey

ENDINGS = (".html", ".htm")
GROUPS = ("phase", "kind", "layer", "pair")
_HERE = Path(__file__).parent


def check_place(path: Path) -> None:
    """Raise InputError at once, before counting, where a page could not be written afterwards."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"--out {one_line(path)}: expected a name that ends in {' or '.join(ENDINGS)}")
    files.check_place(path, "the page")


def _context(result: Result, command: str, recipes: Survey | None) -> dict[str, Any]:
    """The variables of the template."""
    script = (_HERE / "sort.js").read_text(encoding="utf-8")
    job, devices = result.job, result.job.hardware
    return {
        "workload": job.workload,
        "description": job.file.description,
        "summary": summary(result),
        "ratios": ratios(result),
        "remarks": remarks(result),
        "figures": figures(result, recipes),
        "policies": tables.policies(result),
        "published": tables.stated(result),
        "recipes": tables.recipes(recipes),
        "recipe_sources": sources.recipes(recipes),
        "left_out": left_out(result),
        "groups": [tables.groups(result, by) for by in GROUPS],
        "devices": tables.devices(result),
        "device_notes": [roofline_note(result, "policy")] if devices else [],
        "memory": tables.memory(result),
        "assumptions": tables.assumptions(result),
        "conventions": sources.conventions(result),
        "defaults": sources.in_force(result),
        "policy_sources": sources.policies(result),
        "formats": sources.formats(result),
        "device_figures": [sources.figures(device) for device in devices],
        "energies": sources.energies(devices),
        "stated_by": list(dict.fromkeys(figure.source for figure in job.file.published)),
        "files": sources.source_files(result),
        "command": command,
        "version": version("costsim"),
        "style": Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": b64encode(sha256(script.encode()).digest()).decode("ascii"),
    }


def _printable(value: Any) -> Any:
    """A value as the template prints it: text from files and names without control characters."""
    return printable(value) if type(value) is str else value


@paused  # figures are made of cycles, which die with the page
def page(result: Result, command: str = "costsim report", recipes: Survey | None = None) -> str:
    """The whole page: the same text for the same result and command. The footer names `command` as what made it.

    `recipes`: those of the field side by side on the workload, a section of their own.

    The page loads nothing: style, script and figures are inline, and a security policy in the head forbids all else.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.jinja").render(_context(result, command, recipes))


def save(result: Result, path: Path, command: str = "costsim report", recipes: Survey | None = None) -> Path:
    """Write the page, whole or not at all. Raises InputError as `check_place` does, and if writing fails."""
    check_place(path)
    return files.write(path, page(result, command, recipes).encode("utf-8"))
