"""`costsim recipes`: what the field published, beside what we count; and all recipes side by side on one workload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from costsim import names
from costsim.cli.options import FIGURE, HARDWARE, OUTPUT, RATIOS, apart, options
from costsim.cli.output import chosen_style, echo_line, progress, style_beside_figure, write

if TYPE_CHECKING:
    from costsim.results.survey import Survey
    from costsim.run.job import Request


@click.command()
@click.argument("policies", nargs=-1, metavar="[POLICY]...")
@click.option(
    "--on", "workload", metavar="WORKLOAD", help="Put them side by side there: costs, and noise in gradients."
)
@click.option("--noise/--no-noise", default=True, show_default=True, help="Run them in NumPy, shrunk, for the noise.")
@click.option("--traffic", type=click.Choice(names.TRAFFIC_MODELS), help="DRAM traffic model.")
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field of the workload.")
@options(*RATIOS, *HARDWARE, *OUTPUT, *FIGURE)
def recipes(
    policies: tuple[str, ...], workload: str | None, noise: bool, style: str | None, out: str | None, **given: Any
) -> None:
    """Show what the sources of recipes state, beside what is counted here.

    A recipe is a policy with `published` figures. Without POLICY: all that are shipped, and what workloads state. --on
    counts recipes, or any policies, side by side on a workload, each with the fields that it sets (such as its
    optimizer); --out takes .svg, .pdf and .png, too, and a folder gets the figure beside the tables.

    \b
    costsim recipes fp8-lm
    costsim recipes qlora deepseek-v3 --format markdown
    costsim recipes --on gpt2-small --hardware b200
    costsim recipes coat fp8-lm --on gpt2-small --no-noise --out recipes.svg
    """
    asked, job = apart(given, out if workload else None)
    if workload is None:
        _refuse(noise, **job)
        _show_figures(policies, chosen_style(style, out), out)
    else:
        _show_survey((policies, workload, noise), style, out, asked, **job)


def _refuse(noise: bool, **job: Any) -> None:
    """Raise InputError for options that are of --on."""
    from costsim.errors import InputError

    given = {name: value for name, value in job.items() if name != "overlap"}
    given |= {"set": given.pop("assignments"), "no-noise": not noise, "no-overlap": not job["overlap"]}
    for name, value in given.items():
        if value:
            raise InputError(f"--{name}: says how recipes are counted on a workload; add --on WORKLOAD")


def _show_figures(policies: tuple[str, ...], style: str, out: str | None) -> None:
    """What sources state, beside ours."""
    from costsim.errors import InputError
    from costsim.policy.load import find_policy, load_policies
    from costsim.results import recipes as figures
    from costsim.tables.recipes import document

    asked = [load_policies(find_policy(name)) for name in policies]
    records = figures.figure_records(asked) if asked else figures.all_records()
    if not records:
        raise InputError(f"{', '.join(policies)}: no published figures; list them in the policy, under published")
    write(document(records), style, out)


def side_by_side(request: Request, noise: bool) -> Survey:
    """The recipes that a request names on its workload, or all, with a progress bar. Raises InputError."""
    from costsim.results.survey import prepared, survey

    asked = prepared(request)
    with progress(asked.phases) as bar:
        return survey(asked, noise, tick=lambda: bar.update(1))


def _show_survey(
    what: tuple[tuple[str, ...], str, bool], style: str | None, out: str | None, look: Any, /, **job: Any
) -> None:
    """Recipes side by side; `what`: policies, the workload, and whether noise is measured."""
    from costsim.run.job import Request
    from costsim.tables.survey import document

    policies, workload, noise = what
    style = style_beside_figure(style, out)
    made = side_by_side(Request(workload, policies, **job), noise)
    if out is None:
        write(document(made), style)
        return
    from costsim.plots.findings import save_survey

    for path in save_survey(made, out, look):
        echo_line(path)
