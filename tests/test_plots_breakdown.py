"""Breakdown and comparison: drawn bars against totals made another way."""

from collections import Counter
from itertools import pairwise

import pytest
from test_plots import small, texts

from costsim.cost.laws import LAWS
from costsim.cost.memory import COMPONENTS, of_policy
from costsim.errors import InputError
from costsim.plots import save
from costsim.plots.breakdown import BY, MOST_GROUPS, breakdown, stacks
from costsim.plots.comparison import comparison, panels
from costsim.plots.style import largest, short, si
from costsim.results.records import full_records
from costsim.run.simulate import run


@pytest.fixture(scope="module")
def result():
    return small("glue-mrpc-dsq", "fixed16", "dsq", "bf16-mixed", scope="step", hardware=["h100-sxm"])


def bars(axes):
    """{y: [(left, width, colour)]} of a panel with horizontal bars."""
    by_place = {}
    for bar in axes.patches:
        y = round(bar.get_y() + bar.get_height() / 2)
        by_place.setdefault(y, []).append((bar.get_x(), bar.get_width(), bar.get_facecolor()))
    return by_place


def by_hand(result, counted, of_op, of_move):
    """Costs and bits by group, summed op by op."""
    law, cost, bits = LAWS[result.job.convention.law], Counter(), Counter()
    for phase in counted.phases:
        for row in phase.rows:
            for op in row.ops:
                if row.pair:
                    cost[of_op(row, op)] += phase.steps * row.cost(law)
                for move in row.moves:
                    bits[of_move(row, op, move)] += phase.steps * (move.read_bits + move.written_bits)
    return cost, bits


BY_HAND = {
    "phase": (lambda row, _: row.phase, lambda row, *_: row.phase),
    "kind": (lambda row, _: row.kind, lambda row, *_: row.kind),
    "layer": (lambda _, op: op.layer or "none", lambda _, op, __: op.layer or "none"),
    "role": (lambda row, _: row.role, lambda *args: args[2].role),
}


@pytest.mark.parametrize("by", BY)
def test_bars_are_the_costs_of_the_groups(result, by):
    figure = breakdown(result, by)
    arithmetic, dram, peak = stacks(result, by)
    for i, counted in enumerate(result.policies):
        memory = of_policy(result.job.graph, counted.policy, result.job.convention.traffic)[1]
        wholes = (counted.total.arithmetic_cost, counted.total.dram_bits, memory.peak_bytes)
        cost, bits = by_hand(result, counted, *BY_HAND[by])
        assert {name: n for name, n in arithmetic.amounts[i].items() if n} == +cost
        assert {name: n for name, n in dram.amounts[i].items() if n} == +bits
        for axes, panel, whole in zip(figure.axes, (arithmetic, dram, peak), wholes, strict=True):
            divisor = si(max(sum(amounts.values()) for amounts in panel.amounts))[0]
            drawn = bars(axes)[i]
            assert sum(width for _, width, _ in drawn) == pytest.approx(whole / divisor, rel=1e-12)
            ends = sorted((left, left + width) for left, width, _ in drawn)
            assert ends[0][0] == 0
            for (_, end), (begin, _) in pairwise(ends):
                assert begin == pytest.approx(end, rel=1e-9, abs=1e-12)
            widths = sorted(width for _, width, _ in drawn)
            amounts = sorted(n / divisor for n in panel.amounts[i].values() if n)
            if len(amounts) < MOST_GROUPS:
                assert widths == pytest.approx(amounts, rel=1e-9)
            assert len(widths) <= MOST_GROUPS
            assert short(whole / divisor) in {text.get_text() for text in axes.texts}
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_memory_is_by_component_where_phases_say_nothing(result):
    for i, counted in enumerate(result.policies):
        memory = of_policy(result.job.graph, counted.policy, result.job.convention.traffic)[1]
        sizes = stacks(result, "phase")[2].amounts[i]
        assert [sizes.get(name, 0) for name in COMPONENTS] == list(memory.components.values())


def test_a_breakdown_says_what_it_shows(result, tmp_path):
    written = texts(save(result, "breakdown", tmp_path / "f.svg"))
    assert {"fixed 16", "DSQ*", "forward", "backward", "update", "optimizer states", "memory: component"} <= set(
        written
    )
    assert {"arithmetic of the run by phase, 10¹⁵ bit²", "peak memory by component, MB"} <= set(written)
    assert "DRAM traffic of the run by phase, Tbit" in written
    assert any(text.endswith("(* levels recalled, not stated); where phases end is fitted") for text in written)
    written = texts(save(result, "breakdown", tmp_path / "f.svg", by="kind"))
    assert any(text.startswith("other (") for text in written)


def test_a_law_that_is_not_defined_is_said(tmp_path):
    written = texts(save(small("glue-mrpc-dsq", "dsq", law="msfp"), "breakdown", tmp_path / "f.svg"))
    assert "not defined" in written
    assert "0" in written


def test_groupings_that_are_none(result):
    with pytest.raises(InputError, match="--by tensor: expected one of phase, role, layer, kind"):
        breakdown(result, "tensor")


def test_the_largest_groups_are_named_in_their_own_order():
    sizes = [{"a": 1, "b": 50, "c": 1, "d": 48}, {"a": 1, "c": 9}]
    assert largest(dict.fromkeys("abcd"), sizes, 3) == ["b", "c"]  # 50 % and 90 %; one place is for the others
    assert largest(dict.fromkeys("abcd"), sizes, 4) == ["a", "b", "c", "d"]
    assert largest(dict.fromkeys("abc"), [{"a": 1, "b": 1, "c": 1}], 2) == ["a"]


@pytest.mark.parametrize(
    ("amount", "divisor", "prefix"),
    [(0, 1, ""), (999, 1, ""), (1000, 10**3, "k"), (10**21, 10**21, "Z"), (10**40, 10**30, "Q")],
)
def test_prefixes(amount, divisor, prefix):
    assert si(amount) == (divisor, prefix)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (4.4, "4.40"), (36.06, "36.1"), (99.96, "100"), (1234.6, "1235")]
)
def test_three_digits(value, text):
    assert short(value) == text


# --- comparison -------------------------------------------------------------------------------------------------------


def test_comparison_shows_the_ratios_of_the_records():
    result = small("glue-mrpc-dsq", "fixed16", "stash-bfp", "dsq", "bf16-mixed", hardware=["h100-sxm", "a100-80gb"])
    panels = {axes.get_title(): axes for axes in comparison(result).axes if axes.get_title()}
    base = of_policy(result.job.graph, result.baseline.policy, result.job.convention.traffic)[1].peak_bytes
    for i, record in enumerate(full_records(result, "policy")):
        ratios = {
            "arithmetic": record["arithmetic_reduction"],
            "DRAM traffic": record["dram_reduction"],
            "peak memory": base / int(record["peak_memory_bytes"]),
            **{f"time on {name}": ratios["time_reduction"] for name, ratios in record["hardware"].items()},
            **{f"energy on {name}": ratios["energy_reduction"] for name, ratios in record["hardware"].items()},
        }
        assert set(ratios) == set(panels)
        for name, ratio in ratios.items():
            left, width, _ = bars(panels[name])[i][0]
            assert left + width == pytest.approx(ratio, rel=1e-9)
            assert any(text.get_text().startswith(f"{ratio:.2f}") for text in panels[name].texts)
    assert len({(axes.get_xlim(), axes.get_ylim(), axes.get_xscale()) for axes in panels.values()}) == 1


def test_stated_figures_are_open_circles(tmp_path):
    result = run("iwslt17-dsq", ["fixed16", "dsq"])
    panels = {axes.get_title(): axes for axes in comparison(result).axes}
    for name, stated in (("arithmetic", 20.95), ("DRAM traffic", 2.55)):
        [circle] = [line for line in panels[name].get_lines() if line.get_marker() == "o"]
        assert (list(circle.get_xdata()), list(circle.get_ydata())) == ([stated], [1])
        assert circle.get_markerfacecolor() == "none"
    written = texts(save(result, "comparison", tmp_path / "f.svg"))
    assert {"18.72 (20.95)", "2.17 (2.55)", "times less than fixed 16"} <= set(written)
    assert any("circles, in brackets: stated by the paper" in text for text in written)
    written = texts(save(run("iwslt17-dsq", ["dsq"], baseline="fixed32"), "comparison", tmp_path / "f.svg"))
    assert not any("stated by" in text for text in written)


def test_what_a_device_cannot_run_is_said():
    result = small("glue-mrpc-dsq", "fixed32", "fp32", hardware=["h100-sxm"])
    time = next(panel for panel in panels(result) if panel.title == "time on h100-sxm")
    assert time.ratios[0] == "unsupported"
    result = small("glue-mrpc-dsq", "fp32", baseline="fixed32", hardware=["h100-sxm"])
    assert panels(result)[3].ratios == ["baseline unsupported"]
    assert panels(small("glue-mrpc-dsq", "dsq", law="msfp", hardware=[]))[0].ratios == ["not defined"]


@pytest.mark.parametrize("kind", ["breakdown", "comparison", "timeline"])
def test_names_with_signs_are_drawn_as_they_are(kind, tmp_path):
    policy = tmp_path / "$x_{$<&^.yaml"
    policy.write_text("description: x\nrules:\n  - {format: fixed8}\n")
    path = save(small("glue-mrpc-dsq", str(policy)), kind, tmp_path / "figure.svg")
    assert "$x_{$<&^" in texts(path)
