"""`costsim recipes`: what the field published, beside what we count."""

import click

from costsim import names
from costsim.cli.output import write


@click.command()
@click.argument("policies", nargs=-1, metavar="[POLICY]...")
@click.option("--format", "style", type=click.Choice(tuple(names.STYLES)), default="table", show_default=True)
def recipes(policies: tuple[str, ...], style: str) -> None:
    """Show what the sources of recipes state, beside what is counted here.

    A recipe is a policy with `published` figures. Without POLICY: all that are shipped, and what workloads state.

    \b
    costsim recipes fp8-lm
    costsim recipes qlora deepseek-v3 --format markdown
    """
    from costsim.errors import InputError
    from costsim.policy.load import find_policy, load_policies
    from costsim.results import recipes as figures
    from costsim.tables.recipes import document

    asked = [load_policies(find_policy(name)) for name in policies]
    records = figures.figure_records(asked) if asked else figures.all_records()
    if not records:
        raise InputError(f"{', '.join(policies)}: no published figures; list them in the policy, under published")
    write(document(records), style)
