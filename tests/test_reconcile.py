"""All combinations of assumptions at once, against each combination run by itself, to the last digit."""

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from fractions import Fraction
from itertools import product
from math import isnan

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import one_layer

from costsim.cli import main
from costsim.errors import InputError
from costsim.policy.policy import with_case, with_rules
from costsim.results.records import records
from costsim.run.job import Request, prepare, with_fields
from costsim.run.sensitivity import outcomes
from costsim.run.simulate import count_policy, execute
from costsim.search.combinations import Combinations, axes_of
from costsim.search.reconcile import reconcile

ONE = Fraction(1, 100)


def one_by_one(job, axes, chosen):
    """Both ratios of the only published policy in one combination, run by itself; None if that is not possible."""
    [policy] = job.published_policies
    texts = [text for axis, case in zip(axes, chosen, strict=True) for text in axis.sets[case]]
    fields = [text.partition("=")[0] for text in texts]
    if len(fields) > len(set(fields)):
        return None
    traffic = dict(text.split("=") for text in texts if text.startswith("traffic="))
    try:
        changed = with_fields(job, [text for text in texts if not text.startswith("traffic=")])
        convention = replace(changed.convention, **traffic)
        baseline = job.baseline
        for assumption in policy.assumptions:
            for axis, case in zip(axes, chosen, strict=True):
                if axis.name == assumption.entry.name and axis.policies and case:
                    policy = with_case(policy, assumption, case - 1)
        for a, entry in enumerate(job.file.assumptions):
            for axis, case in zip(axes, chosen, strict=True):
                if axis.name == entry.name and axis.policies is None and case and entry.cases[case - 1].rules:
                    at = ("assumptions", a, "cases", case - 1)
                    policy, baseline = (
                        with_rules(each, entry.cases[case - 1].rules, job.document, at) for each in (policy, baseline)
                    )
        base, own = (count_policy(changed.graph, each, convention).total for each in (baseline, policy))
    except InputError:
        return None
    return tuple(None if ratio is None else float(ratio) for ratio in own.reductions(base))


def all_at_once(of):
    """Both ratios of the only published policy, by combination; None where that is not possible."""
    [policy] = of.policies
    sizes = [len(of.axes[i].cases) for i in of.inner]
    results = {}
    for outer in product(*(range(len(of.axes[i].cases)) for i in of.outer)):
        setting = of.setting(outer)
        shape = of.shape(setting.shape) if setting else None
        arrays = None
        if shape:
            quantities = ("arithmetic_reduction", "dram_reduction")
            arrays = [np.broadcast_to(of.ratios(setting, quantity, policy.name), sizes) for quantity in quantities]
            fits = np.broadcast_to(shape.fits, sizes)
        for inner in product(*map(range, sizes)):
            chosen = dict(zip(of.inner, inner, strict=True))
            if any(chosen.get(i, case) != case for i, case in zip(of.outer, outer, strict=True)):
                continue  # an axis that is both has one case
            chosen |= dict(zip(of.outer, outer, strict=True))
            both = None
            if arrays and fits[inner]:
                both = tuple(None if isnan(value) else float(value) for value in (array[inner] for array in arrays))
            results[tuple(chosen[i] for i in range(len(of.axes)))] = both
    return results


def agree(job, *named):
    axes = axes_of(job, job.published_policies, named)
    of = Combinations(job, tuple(job.published_policies), tuple(axes))
    results = all_at_once(of)
    assert len(results) == of.number
    for chosen, both in results.items():
        assert both == one_by_one(job, axes, chosen), chosen
    return results


def small(*assignments, policies=("dsq",)):
    fields = [*one_layer("iwslt17-dsq"), "model.d_model=32", "model.ffn_dim=48", "model.source_vocab=40"]
    fields += ["model.target_vocab=40", "batch.sequences=4", "batch.source_tokens=5", "batch.target_tokens=5"]
    return prepare(Request("iwslt17-dsq", policies, assignments=[*fields, *assignments]))


def names(job):
    [policy] = job.published_policies
    return [assumption.entry.name for assumption in policy.assumptions]


@pytest.mark.parametrize(
    "named",
    [
        ("reading of the levels", "ends of the phases", "placement of copies"),
        ("dy is moved at", "attention's backward", "writes in scope gemm", "scope"),
        ("dx is written at", "weights are moved at", "dw is written at", "output head", "GEMMs in scope gemm"),
        ("law", "sums, under law energy", "shared exponent"),
        ("micro-batches per update", "scope", "traffic", "GEMMs in scope gemm"),
    ],
)
def test_every_combination_is_what_it_is_by_itself(named):
    agree(small(), *named)


# --- hits -------------------------------------------------------------------------------------------------------------

FEW = ("traffic", "ends of the phases", "output head", "attention's backward", "writes in scope gemm")


def published(*stated, policy="dsq"):
    quantities = ("arithmetic_reduction", "dram_reduction")
    entries = [
        f"{{quantity: {quantity}, policy: {policy}, stated: {number}, source: x}}"
        for quantity, number in zip(quantities, stated, strict=False)
    ]
    return f"published=[{', '.join(entries)}]"


@pytest.fixture(scope="module")
def few():
    job = small(published(20, 2.2))
    return job, agree(job, *FEW)


def test_hits_are_those_of_the_combinations_that_are_right(few):
    job, results = few
    known = {chosen: both for chosen, both in results.items() if both and None not in both}
    found = reconcile(job, Fraction(1, 10), FEW, most=1000)
    right = {chosen: (abs(both[0] / 20 - 1) <= 0.1, abs(both[1] / 2.2 - 1) <= 0.1) for chosen, both in known.items()}
    hits = {chosen for chosen, so in right.items() if all(so)}
    assert found.combinations == len(results)
    assert found.tried == len(known)
    assert 0 < found.hits == len(hits) < len(known)
    assert found.alone == tuple(sum(so[i] for so in right.values()) for i in (0, 1))
    assert found.ranges == tuple((min(v[i] for v in known.values()), max(v[i] for v in known.values())) for i in (0, 1))
    assert found.by_rates == pytest.approx(found.alone[0] * found.alone[1] / len(known))
    shipped = (0,) * len(found.axes)
    assert found.shipped == known[shipped]

    def idle(chosen):
        without = [(*chosen[:i], 0, *chosen[i + 1 :]) for i in range(len(chosen)) if chosen[i]]
        return any(known.get(other) == known[chosen] for other in without)

    needed = {chosen for chosen in hits if not idle(chosen)}
    assert 0 < found.needed == len(needed) < len(hits)
    named = {
        tuple((axis.name, axis.cases[n].name) for axis, n in zip(found.axes, chosen, strict=True) if n): known[chosen]
        for chosen in needed
    }
    listed = {tuple((d.assumption, d.case) for d in hit.departures): hit.ratios for hit in found.listed}
    assert listed == named


def test_the_order_goes_by_grade_and_then_by_error():
    names = ("law", "ends of the phases", "attention's backward", "shared exponent", "vocabulary", "dw is written at")
    found = reconcile(small(published(20, 2.2)), Fraction(1, 5), names, most=1000)
    keys = [
        (*([d.grade for d in hit.departures].count(grade) for grade in ("stated", "inferred", "fitted")), hit.error)
        for hit in found.listed
    ]
    ours = [sum(d.grade in ("ours", "recalled") for d in hit.departures) for hit in found.listed]
    keys = [(*key[:3], n, key[3]) for key, n in zip(keys, ours, strict=True)]
    assert len(keys) > 10
    assert keys == sorted(keys)
    for hit in found.listed:
        assert hit.error == max(abs(ratio / stated - 1) for ratio, stated in zip(hit.ratios, (20, 2.2), strict=True))


def test_without_names_cases_that_move_nothing_alone_stay_as_shipped(monkeypatch):
    monkeypatch.setattr("costsim.search.reconcile.LEAST", Fraction(1, 4))
    job = small(published(20, 2.2))
    found = reconcile(job, Fraction(1, 5))
    assert not reconcile(job, ONE, ["traffic"]).left_out
    first, *alone = outcomes(job)
    small_ones = {
        f"{each.assumption}: {each.case}"
        for each in alone
        if each.arithmetic_reduction
        and abs(each.arithmetic_reduction / first.arithmetic_reduction - 1) < Fraction(1, 4)
        and abs(each.dram_reduction / first.dram_reduction - 1) < Fraction(1, 4)
    }
    assert "traffic: fused" in small_ones
    assert set(found.left_out) == small_ones
    varied = {f"{axis.name}: {case.name}" for axis in found.axes for case in axis.cases[1:]}
    assert varied == {f"{each.assumption}: {each.case}" for each in alone} - small_ones


def test_pairs_that_interact_are_what_the_two_do_by_themselves(few):
    job, results = few
    found = reconcile(job, ONE, FEW)
    assert found.interactions
    for pair in found.interactions:
        places = []
        for departure in pair.departures:
            [i] = [i for i, axis in enumerate(found.axes) if axis.name == departure.assumption]
            places.append((i, [case.name for case in found.axes[i].cases].index(departure.case)))

        def ratio(*moves, figure=pair.figure):
            chosen = [0] * len(found.axes)
            for i, case in moves:
                chosen[i] = case
            return results[tuple(chosen)][figure]

        alone = tuple(ratio(place) / ratio() for place in places)
        assert (pair.alone, pair.together) == (alone, ratio(*places) / ratio())
        assert abs(pair.factor - 1) > 1e-9


def test_one_figure_is_enough():
    found = reconcile(small(published(19.2)), ONE, ("ends of the phases",))
    assert [tuple(d.case for d in hit.departures) for hit in found.listed] == [
        ("all at the first levels",)
    ] or found.hits


# --- cases that clash -------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A policy of one's own, and the job of a small workload in which it has published figures."""
    monkeypatch.chdir(tmp_path)

    def job(text, *assignments):
        (tmp_path / "mine.yaml").write_text(text)
        return small(published(20, 2.2, policy="mine"), *assignments, policies=["mine.yaml"])

    return job


CLASHING = """\
description: x
levels: [q]
numbers: {box: 16, wide: 4}
rules:
  - {format: bfp<q>-box<box>}
  - {copy: operand, format: bfp<wide>, placement: at_producer}
phases: [{until_fraction: 0.5, levels: [2]}, {levels: [4]}]
assumptions:
  - {name: width, here: "4", cases: [{name: none, numbers: {wide: 0}}, {name: "8", numbers: {wide: 8}}]}
  - name: stash
    here: none
    cases:
      - {name: stored, rules: [{copy: stash, format: bfp<wide>-box32, placement: stored}]}
      - {name: of nothing, rules: [{copy: stash, format: bfp4, name: nobody.*}]}
      - {name: not needed, rules: [{copy: stash, format: bfp4, name: nobody.*, optional: true}]}
  - {name: copies, here: at once, cases: [{name: later, rules: [{copy: operand, placement: stored}]}]}
  - name: phases
    here: two
    cases:
      - {name: overlapping, phases: [{until_step: 90, levels: [2]}, {until_step: 50, levels: [4]}, {levels: [8]}]}
      - {name: three, phases: [{until_step: 50, levels: [2]}, {until_step: 90, levels: [4]}, {levels: [8]}]}
"""


def test_what_is_not_possible_is_told_apart(own):
    results = agree(own(CLASHING), "width", "stash", "copies", "phases")
    assert {both is None for both in results.values()} == {True, False}


def test_two_cases_of_one_field_clash(own):
    job = small(published(20, 2.2))
    results = agree(job, "sentences per batch", "tokens a sentence")
    assert {both for chosen, both in results.items() if all(chosen)} == {None}
    assert None not in {both for chosen, both in results.items() if not all(chosen)}


# --- GEMMs left out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("globs", [("head.*",), ("*attention.scores", "*attention.context.d?"), ("encoder.0.ffn.fc1",)])
def test_gemms_left_out_are_those_of_these_names(globs):
    whole, part = small(), small(f"gemms_left_out=[{', '.join(map(json.dumps, globs))}]")
    rows, left = ({row["op"]: row for row in records(execute(job), "op")} for job in (whole, part))
    assert set(rows) - set(left) == {name for name in rows if any(fnmatchcase(name, glob) for glob in globs)} != set()
    for name, row in left.items():
        assert {key: row[key] for key in ("macs", "dram_bits")} == {
            key: rows[name][key] for key in ("macs", "dram_bits")
        }
    assert f"scope gemm (without {', '.join(globs)})" in part.convention.summary()
    assert execute(part).policies[0].total.dram_bits == sum(int(row["dram_bits"]) for row in left.values())


# --- what is printed --------------------------------------------------------------------------------------------------


def costsim(*arguments):
    done = CliRunner().invoke(main, ["reconcile", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


SMALL_JOB = [
    "iwslt17-dsq",
    *(f"--set={field}" for field in one_layer("iwslt17-dsq")),
    "--policy=dsq",
    "--assumption=ends of the phases",
    "--assumption=shared exponent",
    "--assumption=writes in scope gemm",
]


def test_every_style_has_hits_and_what_chance_gives(tmp_path):
    done = costsim(*SMALL_JOB, "--within", "10%", "--out", str(tmp_path / "all"))
    assert done.exit_code == 0
    texts = {path.suffix: path.read_text() for path in (tmp_path / "all").iterdir()}
    assert set(texts) == {".txt", ".json", ".csv", ".md", ".tex", ".svg"}
    data = json.loads(texts[".json"])
    assert (data["tried"], data["within"]) == (144, 0.1)
    assert len(data["listed"]) == 10 < data["hits_without_idle_departures"] == data["hits"]  # ten are listed
    for hit in data["listed"]:
        assert hit["error"] <= 0.1
        assert all(departure["case"] for departure in hit["departures"])
    for ending in (".txt", ".md", ".tex"):
        text = " ".join(texts[ending].split())
        assert f"{data['hits']} of 144 combinations give all figures within 10" in text
        assert "by chance, roughly" in text
        assert "no evidence" in text
    assert len(texts[".csv"].splitlines()) == 1 + len(data["listed"])


def test_none_is_said_to_be_none():
    done = costsim(*SMALL_JOB, "--within", "0.01%")
    assert "none of 144 combinations gives all figures within 0.01 %" in done.output
    assert "nearest, " in done.output
    rows = costsim(*SMALL_JOB, "--within", "0.0001", "--format", "csv").output.splitlines()
    assert [row.split(",")[0] for row in rows] == ["hit", "none"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["iwslt17-dsq", "--within", "near"], "expected a tolerance above 0 and below 100 %"),
        (["iwslt17-dsq", "--within", "0"], "expected a tolerance above 0 and below 100 %"),
        (["iwslt17-dsq", "--within", "100%"], "expected a tolerance above 0 and below 100 %"),
        (["iwslt17-dsq", "--within", "nan"], "expected a tolerance above 0 and below 100 %"),
        (["gpt2-small"], "gpt2-small: no published figures"),
        (["iwslt17-dsq", "--policy", "stash-bfp"], "published figures are of dsq, none of stash-bfp"),
        (["iwslt17-dsq", "--policy", "dsk"], "policy 'dsk': no such file, nor a shipped policy"),
        (["iwslt17-dsk"], "iwslt17-dsk"),
        (["iwslt17-dsq", "--assumption", "lew"], "--assumption: no assumption 'lew'; did you mean 'law'?"),
        (["iwslt17-dsq", "--traffic", "tiled", "--set", "buffer_bytes=65536"], "traffic tiled is not varied"),
    ],
)
def test_bad_input_is_one_line(arguments, message, monkeypatch):
    monkeypatch.setattr(Combinations, "shape", None)  # nothing is counted
    done = costsim(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_too_many_combinations_are_told_with_their_counts(monkeypatch):
    monkeypatch.setattr("costsim.search.reconcile.MOST", 10)
    counts = r"^12 combinations \(4 ends of the phases x 3 placement of copies\), of at most 10: .*--assumption NAME"
    with pytest.raises(InputError, match=counts):
        reconcile(small(), ONE, ["ends of the phases", "placement of copies"])
