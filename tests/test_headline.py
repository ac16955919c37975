"""The published figures beside ours, in every scope and traffic model."""

from itertools import product

import pytest

from costsim import names
from costsim.graph.fusion import COMPARED
from costsim.results.records import published, records
from costsim.run.simulate import run
from costsim.tables.run import document
from costsim.tables.styles import render

SMALL = ["model.encoder_layers=1", "model.decoder_layers=1"]
CONVENTIONS = list(product(names.SCOPES, COMPARED))


def headline(result):
    """The lines of the published figures, as a LaTeX file has them above its tables."""
    lines = render(document(result), "latex").split("\n\n")[0].splitlines()
    return [line.removeprefix("% ") for line in lines if "usepackage" not in line]


def small(*assignments, policies=("dsq",), **options):
    return run("iwslt17-dsq", policies, assignments=[*SMALL, *assignments], **options)


@pytest.fixture(scope="module")
def result():
    return small()


@pytest.mark.parametrize(("scope", "traffic"), CONVENTIONS)
def test_ours_is_what_a_run_under_that_convention_gives(result, scope, traffic):
    there = small(scope=scope, traffic=traffic)
    [row] = records(there, "policy")
    ours = {e["quantity"]: e["ours"] for e in published(result) if (e["scope"], e["traffic"]) == (scope, traffic)}
    assert ours == {quantity: row[quantity] for quantity in ("arithmetic_reduction", "dram_reduction")}
    assert published(there) == published(result)  # whichever convention is asked for


def test_one_entry_for_each_figure_scope_and_traffic_model(result):
    entries = published(result)
    quantities = [figure.quantity for figure in result.job.file.published]
    assert sorted((e["quantity"], e["scope"], e["traffic"]) for e in entries) == sorted(
        (quantity, *convention) for quantity in quantities for convention in CONVENTIONS
    )
    for entry in entries:
        assert entry["difference"] == pytest.approx(entry["ours"] / entry["stated"] - 1, rel=1e-12)


@pytest.mark.parametrize(
    ("assignments", "marked"),
    [
        ((), {("gemm", "unfused"), ("gemm", "fused")}),  # GEMMs do not fuse: one and the same
        (("traffic=fused",), {("gemm", "unfused"), ("gemm", "fused")}),
        (("scope=layer", "traffic=fused"), {("layer", "fused")}),
        (("scope=step",), {("step", "unfused")}),
    ],
)
def test_the_convention_of_the_file_is_marked_and_comes_first(assignments, marked):
    entries = published(small(*assignments))
    assert {(e["scope"], e["traffic"]) for e in entries if e["convention"]} == marked
    assert [e["convention"] for e in entries] == sorted((e["convention"] for e in entries), reverse=True)


def test_the_lines_have_each_convention_once(result):
    lines = [line.split() for line in headline(result)]
    conventions = [line[:2] for line in lines if line[0] in names.SCOPES]
    assert sorted(conventions) == sorted([["gemm", "any"], *(list(pair) for pair in CONVENTIONS if pair[0] != "gemm")])
    assert [line[0] for line in lines if "<-" in line] == ["gemm"]
    text = " ".join(headline(result))
    for entry in published(result):
        assert f"{entry['stated']:g}x " in text
        assert f"{entry['ours']:.2f}x " in text
        assert f"{100 * entry['difference']:+.1f} %" in text
        assert entry["source"] in text


@pytest.mark.parametrize("style", sorted(names.STYLES.keys() - {"csv"}))
def test_every_format_has_them(result, style):
    text = render(document(result, "policy"), style)
    assert all(f"{entry['ours']:.2f}"[:-1] in text for entry in published(result))


@pytest.mark.parametrize("scope", names.SCOPES)
def test_nothing_is_published_relative_to_another_baseline(scope):
    other = small(baseline="fixed32", scope=scope)
    assert published(other) == []
    assert headline(other) == ["published figures are left out: they are relative to fixed16"]
    assert published(small(baseline="fixed16", scope=scope)) == published(small(baseline="fixed16.yaml"))


def test_nothing_is_published_of_other_policies():
    assert headline(small(policies=("stash-bfp", "fixed16"))) == []


def test_a_law_that_prices_one_of_two_figures():
    """What the paper states of arithmetic cannot be compared, DRAM traffic can."""
    result = small(law="msfp")
    assert {entry["quantity"] for entry in published(result)} == {"dram_reduction"}
    assert "n/a" not in " ".join(headline(result))
