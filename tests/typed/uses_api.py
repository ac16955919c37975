"""All of costsim in Python, for type checkers: `mypy --strict` finds nothing here."""

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, assert_type

import costsim

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from costsim.graph.graph import Graph


def loaded() -> tuple[costsim.Workload, costsim.Policy]:
    """What runs are made of."""
    workload = costsim.load(Path("glue-mrpc-dsq"), {"batch.sequences": 8}).with_({"model.layers": 2})
    graph: Graph = workload.graph
    changes: tuple[str, ...] = workload.assignments
    policy: costsim.Policy = costsim.load_policy("dsq").with_(copy="stash", format="bfp8")
    made = costsim.make_policy("mine", {"description": "all bf16", "rules": [{"format": "bf16"}]})
    device: costsim.Hardware = costsim.load_hardware("t4")
    number_format: costsim.Format = costsim.load_format("bfp4")
    assert_type(device.dram_bytes, int | None)
    assert_type(number_format.width, int)
    assert_type(len(graph.ops) + len(changes), int)
    return workload, made if policy.name == "mine" else policy


def counted(workload: costsim.Workload, policy: costsim.Policy) -> costsim.Results:
    """A run, a sweep and a file of results."""
    results = workload.run(["fixed16", policy], hardware="t4", law="product", traffic="fused", scope="step")
    table: pd.DataFrame = results.table
    ratios: pd.DataFrame = results.compare("fixed16")
    by_layer: pd.DataFrame = results.by("layer")
    peak: pd.DataFrame = results.memory()
    texts: list[str] = [results.to_text(), results.to_latex(), results.to_markdown()]
    path: Path = results.save("dsq.csv")
    swept = workload.sweep({"batch.sequences": [1, 2]}, policies=["dsq"], totals=True)
    assert_type(len(swept.runs), int)
    assert_type((len(table), len(ratios), len(by_layer), len(peak), len(texts)), tuple[int, int, int, int, int])
    return costsim.read(path)


def drawn(results: costsim.Results) -> list["Figure"]:
    """All figures."""
    plot = results.plot
    assert_type(len(plot.run.policies), int)
    return [
        plot.draw("comparison"),
        plot.breakdown(by="role"),
        plot.comparison(width="84mm", title=False),
        plot.memory([4, 8]),
        plot.roofline(),
        plot.schedule(),
        plot.sensitivity(),
        plot.timeline(),
    ]


def found(workload: costsim.Workload) -> tuple[costsim.Search, costsim.Reconciliation, costsim.Survey]:
    """What is searched for."""
    search = workload.search(["bfp4", "bfp8"], "reference", budgets="dram_reduction >= 2")
    policies: list[costsim.Policy] = search.policies
    explained = workload.reconcile(Fraction(1, 100), top=3, policies=policies)
    by_chance: tuple[float, float] = explained.by_chance
    loss_free: bool = search.losses is None
    survey = workload.recipes(["dsq"], noise=False, traffic="fused")
    left_out: dict[str, str] = survey.left_out
    figures: list[Figure] = [search.plot(), explained.plot(), survey.plot()]
    tables: list[pd.DataFrame] = [search.table, explained.table, survey.table]
    files: list[Path] = [*search.save("found"), *explained.save("x.svg"), *survey.save("y.csv")]
    texts: list[str] = [search.to_text(), explained.to_text(), survey.to_text()]
    assert_type((len(figures), len(tables), len(files), len(texts)), tuple[int, int, int, int])
    assert_type((by_chance[0], len(left_out), loss_free), tuple[float, int, bool])
    return search, explained, survey


def refused() -> str:
    """An error."""
    try:
        loaded()
    except costsim.InputError as error:
        return str(error)
    return costsim.__version__
