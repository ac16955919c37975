"""Recipes side by side on one workload: costs are those of runs, noise is what the rule of 6 dB a bit says."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import shipped_policy
from matplotlib.backends.backend_agg import FigureCanvasAgg

import costsim
from costsim.cli import main
from costsim.plots.findings import draw_survey
from costsim.plots.look import look_of
from costsim.policy.load import make_policy
from costsim.reference.noise import signal_to_noise
from costsim.results.recipes import recipes
from costsim.results.survey import prepared, survey
from costsim.run.job import Request, prepare

SMALL = "translation-small"
WITHOUT_NOISE = ("--no-noise", "--format", "json")


def invoke(*args):
    return CliRunner().invoke(main, args)


def rows_of(*args):
    done = invoke("recipes", *args)
    assert done.exit_code == 0, done.output
    return {row["recipe"]: row for row in json.loads(done.output)["rows"]}


@pytest.fixture(scope="module")
def whole():
    return survey(prepared(Request(SMALL, hardware=["h100-sxm"])))


# --- costs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bf16-mixed", "dsq", "fp8-lm", "muon-8bit", "galore"])
def test_costs_are_those_of_a_run(whole, name):
    """Of the policy on the workload with what the recipe sets; ratios are to the baseline without that."""
    fields = [part for text in shipped_policy(name).file.set for part in ("--set", text)]
    alone = invoke("run", SMALL, "--policy", name, "--hardware", "h100-sxm", *fields, "--format", "json")
    [run] = json.loads(alone.output)["rows"]
    plain = invoke("run", SMALL, "--policy", whole.baseline, "--hardware", "h100-sxm", "--format", "json")
    [base] = json.loads(plain.output)["rows"]
    row = next(
        row
        for row in survey(prepared(Request(SMALL, [name], hardware=["h100-sxm"])), noise=False).records
        if row["recipe"] == name
    )
    for field in ("arithmetic_cost", "dram_bits", "peak_memory_bytes"):
        assert row[field] == run[field]
    for field, cost in (("arithmetic", "arithmetic_cost"), ("dram", "dram_bits"), ("memory", "peak_memory_bytes")):
        assert row[f"{field}_reduction"] == pytest.approx(int(base[cost]) / int(run[cost]), rel=1e-12)
    ours, theirs, before = (each["hardware"]["h100-sxm"] for each in (row, run, base))
    for field in ("time_s", "energy_j"):
        assert ours[field] == theirs[field]
        ratio = before[field] / theirs[field]
        assert ours[f"{field.partition('_')[0]}_reduction"] == pytest.approx(ratio, rel=1e-12)


def test_all_recipes_are_in_it_or_said_to_be_left_out(whole):
    shown = {row["recipe"] for row in whole.records}
    assert {policy.name for policy in recipes()} <= shown | set(whole.left_out)
    assert whole.records[0]["recipe"] == whole.baseline


def test_a_recipe_that_does_not_fit_is_left_out_with_the_reason():
    made = costsim.load("mixtral-8x7b").recipes(["adafactor", "fp8-lm"], noise=False)
    assert list(made.table["recipe"]) == ["bf16-mixed", "fp8-lm"]
    assert "is a stack of matrices" in made.left_out["adafactor"]
    assert "left out: adafactor: --set optimizer.kind=adafactor" in made.to_text()


def test_what_is_set_by_hand_stands_over_what_a_recipe_sets():
    narrow, wide = (
        rows_of("galore", "--on", "gpt2-small", "--set", f"optimizer.rank={rank}", *WITHOUT_NOISE)["galore"]
        for rank in (64, 256)
    )
    assert int(narrow["peak_memory_bytes"]) < int(wide["peak_memory_bytes"])


def test_what_only_changes_others_is_composed():
    row = rows_of("adam8bit", "--on", SMALL, *WITHOUT_NOISE)["adam8bit"]
    file = shipped_policy("adam8bit").file
    assert (row["policy"], row["grade"], row["source"]) == ("bf16-mixed+adam8bit", file.grade, file.source)
    states = make_policy("states", {"description": "s", "rules": [{"role": ["state"], "format": "bf16"}]})
    [entry] = prepared(Request("gpt2-small", [states])).entries[1:]
    assert (entry.recipe, entry.policy.name) == ("states", "bf16-mixed+states")


def test_a_law_that_is_not_defined_leaves_no_ratio():
    row = rows_of("lns-madam", "--on", SMALL, *WITHOUT_NOISE)["lns-madam"]
    assert row["arithmetic_reduction"] is None
    assert row["dram_reduction"] > 0


# --- noise ------------------------------------------------------------------------------------------------------------


def operands(*formats):
    rules = [{"format": "fp32"}]
    return [
        make_policy(f"all-{name}", {"description": name, "rules": [*rules, {"copy": "operand", "format": name}]})
        for name in formats
    ]


def test_a_bit_is_worth_six_decibels():
    """20 log10 2 = 6.02 dB: halving the step quarters the noise, with whatever blocks."""
    job = prepare(Request("gpt2-small"))
    runs = [(job, policy) for policy in operands("bfp14", "bfp16", "bfp18")]
    [[fourteen], [sixteen], [eighteen]] = signal_to_noise(runs, job.graph.sizes)
    assert sixteen - fourteen == pytest.approx(2 * 6.02, abs=1)
    assert eighteen - sixteen == pytest.approx(2 * 6.02, abs=1)


def test_an_optimizer_makes_no_noise_in_gradients(whole):
    """GaLore and Muon have dims of their own, and the others keep theirs."""
    rows = {row["recipe"]: row for row in whole.records}
    for name in ("lion", "adafactor", "muon", "adam8bit"):
        assert rows[name]["gradient_snr_db"] == rows["lion"]["gradient_snr_db"]
    for name in ("galore", "galore-8bit"):
        assert rows[name]["gradient_snr_db"] == rows["bf16-pure"]["gradient_snr_db"]


def test_the_noisiest_phase_counts_and_orders(whole):
    rows = {row["recipe"]: row for row in whole.records}
    phases = rows["accuracy-boosters"]["gradient_snr_db_by_phase"]
    assert len(phases) == 2
    assert rows["accuracy-boosters"]["gradient_snr_db"] == min(phases) < max(phases)
    known = [row["gradient_snr_db"] for row in whole.records[1:]]
    assert known == sorted(known, reverse=True)


def test_numbers_that_a_format_cannot_hold_have_no_noise():
    """Four bits with a scale a box leave rows of zeros, whose RMS norm has no reciprocal; narrow epsilons are zero."""
    job = prepare(Request("llama-2-7b"))
    narrow = make_policy("narrow", {"description": "n", "rules": [{"format": "msfp12"}]})
    assert signal_to_noise([(job, narrow)], job.graph.sizes) == [[None]]


# --- command, figure, Python ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--hardware", "t4"], "--hardware: says how recipes are counted on a workload; add --on WORKLOAD"),
        (["--no-noise"], "--no-noise: says how recipes are counted on a workload; add --on WORKLOAD"),
        (["--set", "batch.sequences=1"], "--set: says how recipes are counted on a workload"),
        (["--on", "gtp2-small"], "workload 'gtp2-small': no such file"),
        (["--on", "gpt2-small", "coatt"], "policy 'coatt': no such file"),
        (["--on", "gpt2-small", "--set", "batch.sequence=1"], "--set batch.sequence=1"),
        (["--on", "gpt2-small", "--out", "a.svg", "--format", "json"], "that is a figure, and --format says json"),
        (["--on", "gpt2-small", "--out", "a.md", "--format", "json"], "that is for markdown, and --format says json"),
    ],
)
def test_what_is_refused(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("recipes", *args)
    assert done.exit_code == 2
    assert says in done.output + (done.stderr or "")
    assert not list(tmp_path.iterdir())


def test_a_folder_takes_table_and_figure(tmp_path):
    folder = tmp_path / "out"
    done = invoke("recipes", "fp8-lm", "--on", SMALL, "--no-noise", "--out", str(folder))
    assert done.exit_code == 0
    endings = ("csv", "json", "md", "svg", "tex", "txt")
    assert sorted(path.name for path in folder.iterdir()) == [f"{SMALL}-recipes.{ending}" for ending in endings]
    assert "fp8-lm" in (folder / f"{SMALL}-recipes.svg").read_text()


def boxes(axes, renderer):
    texts = [text for text in axes.texts if text.get_text()]
    return [text.get_window_extent(renderer) for text in texts]


def test_no_number_of_the_figure_covers_another_or_leaves_its_panel(whole):
    figure = draw_survey(whole)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for axes in figure.axes:
        panel, of_panel = axes.get_window_extent(renderer), boxes(axes, renderer)
        assert len(of_panel) == len(whole.records)
        for box in of_panel:
            assert panel.x0 <= box.x0
            assert box.x1 <= panel.x1
        assert not any(a.overlaps(b) for i, a in enumerate(of_panel) for b in of_panel[:i])


def test_on_a_page_all_panels_stand_side_by_side(whole):
    figure = draw_survey(whole, look_of(width="174mm"))
    places = [axes.get_subplotspec() for axes in figure.axes]
    assert len(places) == 6  # arithmetic, traffic, memory, time, energy, noise
    assert {place.rowspan.start for place in places} == {0}
    assert figure.get_figheight() * 25.4 < 200


def test_the_same_bytes_when_made_again(tmp_path):
    for name in ("a.svg", "b.svg"):
        assert invoke("recipes", "coat", "--on", SMALL, "--out", str(tmp_path / name)).exit_code == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_survey_in_python(tmp_path):
    mine = costsim.load_policy("fp8-lm").with_(called="mine", copy="stash", format="fp8-e5m2")
    made = costsim.load(SMALL).recipes([mine, "coat"], "h100-sxm")
    assert set(made.table["recipe"]) == {"fixed16", "mine", "coat"}
    grades = made.table.set_index("recipe")["grade"]
    assert (grades["mine"], grades["coat"]) == ("ours", "stated")  # no source has the change
    assert {"h100-sxm.time_reduction", "gradient_snr_db", "grade"} <= set(made.table.columns)
    assert made.plot().axes
    [path] = made.save(tmp_path / "a.csv")
    assert Path(path).read_text().startswith("recipe,policy,set,")
