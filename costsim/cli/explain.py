"""`costsim explain`: every number of an op, or of a total."""

from typing import Any

import click

from costsim import names
from costsim.cli.options import BUFFER, HARDWARE, RATIOS, WORKLOAD, options
from costsim.cli.output import write


@click.command()
@options(*WORKLOAD, *BUFFER, *RATIOS, *HARDWARE)
@click.argument("name", metavar="OP")
@click.option("--format", "style", type=click.Choice(names.TEXT_STYLES), default="table", show_default=True)
def explain(name: str, style: str, **job: Any) -> None:
    """Explain every number of an op of WORKLOAD: formula, values, result, source.

    OP is a name that run --by op lists, or a total: macs, arithmetic_cost, dram_bits, dram_reduction, time_s, ...

    \b
    costsim explain iwslt17-dsq encoder.0.self_attention.q --policy dsq
    costsim explain gpt2-small decoder.0.ffn.fc1 --hardware h100-sxm
    costsim explain iwslt17-dsq dram_reduction --policy dsq
    """
    from costsim.run.job import Request, prepare
    from costsim.tables.explain import document

    write(document(prepare(Request(**job)), name), style)
