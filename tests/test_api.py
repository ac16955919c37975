"""costsim from Python: tables that say what the command line says, exact sums, files that come back unchanged."""

import csv
import pickle
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest

import costsim
from costsim.results import frame
from costsim.results.records import group_records, policy_record
from costsim.run import simulate

HARDWARE = ["h100-sxm", "jetson-orin-nano"]


@pytest.fixture(scope="module")
def dsq():
    layers = {"model.encoder_layers": 1, "model.decoder_layers": 2}  # more are more of the same rows
    return costsim.load("iwslt17-dsq", layers).run(hardware=HARDWARE, scope="step", traffic="fused")


@pytest.fixture(scope="module")
def gpt2():
    return costsim.load("gpt2-small").run(["bf16-mixed", "fp8-tensor"], law="bops", scope="layer")


def test_one_row_per_op_policy_phase_and_device(dsq):
    rows = dsq.table.groupby(["policy", "training_phase", "op", "hardware"], observed=True).size()
    assert (rows == 1).all()
    phases = sum(len(counted.phases) for counted in dsq.runs[0].policies)
    ops = [len(row.ops) for counted in dsq.runs[0].policies for phase in counted.phases for row in phase.rows]
    assert len(rows) == 2 * sum(ops)
    assert dsq.table[["policy", "training_phase"]].drop_duplicates().shape[0] == phases


@pytest.mark.parametrize("by", ["phase", "kind", "layer", "op", "pair"])
@pytest.mark.parametrize("name", ["dsq", "gpt2"])
def test_totals_are_those_of_the_command_line(name, by, request):
    result = request.getfixturevalue(name)
    found = result.by(by)
    found = found[found["hardware"] == HARDWARE[0]] if "hardware" in found else found
    ours = {(row["policy"], row[by]): row for row in found.to_dict("records")}
    theirs = {(row["policy"], row[by]): row for row in group_records(result.runs[0], by)}
    assert set(theirs) <= set(ours)
    for key, row in theirs.items():
        for column in ("macs", "arithmetic_cost", "dram_bits", "dram_read_bits", "dram_written_bits", "vector_ops"):
            value = ours[key][column]
            assert type(value) is int or value is pd.NA or row[column] is None, (key, column)
            assert row[column] == (None if pd.isna(value) else str(value)), (key, column)


def test_ratios_are_those_of_the_command_line(dsq):
    ours = {(row["policy"], row["hardware"]): row for row in dsq.compare().to_dict("records")}
    for counted in dsq.runs[0].policies:
        theirs = policy_record(dsq.runs[0], counted)
        for device in HARDWARE:
            row = ours[counted.policy.name, device]
            assert row["arithmetic_reduction"] == theirs["arithmetic_reduction"]
            assert row["dram_reduction"] == theirs["dram_reduction"]
            for name in ("time_reduction", "energy_reduction"):
                of_device = theirs["hardware"][device][name]
                assert of_device is None if pd.isna(row[name]) else row[name] == pytest.approx(of_device, rel=1e-9)


def test_another_baseline_turns_the_ratios_around(dsq):
    forward, back = dsq.compare("fixed16").set_index("policy"), dsq.compare("dsq").set_index("policy")
    of_dsq, of_fixed = forward.loc["dsq", "dram_reduction"].iloc[0], back.loc["fixed16", "dram_reduction"].iloc[0]
    assert of_dsq * of_fixed == pytest.approx(1, rel=1e-15)
    with pytest.raises(costsim.InputError, match="baseline 'dsk': not in the results; did you mean 'dsq'"):
        dsq.compare("dsk")


def test_times_of_ops_add_up_to_the_run(dsq):
    for device in HARDWARE:
        table = dsq.by("kind")
        for counted in dsq.runs[0].policies:
            its = table[(table["policy"] == counted.policy.name) & (table["hardware"] == device)]
            total = dsq.runs[0].spent[counted.policy.name, device]
            if total.time_s is None:
                assert its["time_s"].isna().any()
            else:
                assert its["time_s"].sum() == pytest.approx(total.time_s, rel=1e-9)
                assert its["energy_j"].sum() == pytest.approx(total.energy_j, rel=1e-9)


def test_a_run_beyond_64_bits_stays_exact(gpt2):
    found = gpt2.by().set_index("policy").loc["bf16-mixed", "arithmetic_cost"]
    assert found > 2**63
    assert found == gpt2.runs[0].policies[0].total.arithmetic_cost


def test_sums_that_fit_64_bits_do_not_wrap_around_in_the_next():
    table = costsim.load("gpt2-small", {"batch.sequences": 32}).run("bf16-mixed", scope="step", traffic="fused")
    found = table.by().iloc[0]
    assert found["dram_bits"] == table.runs[0].policies[0].total.dram_bits > 2**63 > found["dram_read_bits"] > 2**62


def test_counts_that_do_not_fit_64_bits_are_kept_as_python_integers():
    columns = {name: ["x"] for name in frame.COLUMNS}
    columns |= {name: [2**70] for name, what in frame.COLUMNS.items() if what in ("count", "cost")}
    columns |= {name: [0.5] for name, what in frame.COLUMNS.items() if what == "float"}
    table = frame.typed(columns)
    assert frame.total(table)["macs"].tolist() == [2**140]


@pytest.mark.parametrize("ending", [".json", ".csv", ".parquet"])
@pytest.mark.parametrize("name", ["dsq", "gpt2"])
def test_tables_come_back_unchanged(name, ending, request, tmp_path):
    result = request.getfixturevalue(name)
    back = costsim.read(result.save(tmp_path / f"results{ending}"))
    pd.testing.assert_frame_equal(back.table, result.table)
    pd.testing.assert_frame_equal(back.compare(), result.compare())
    with pytest.raises(costsim.InputError, match="read from a file"):
        back.to_latex()


def test_results_pickle_with_all_that_figures_need(dsq):
    back = pickle.loads(pickle.dumps(dsq))
    pd.testing.assert_frame_equal(back.table, dsq.table)
    assert back.to_text() == dsq.to_text()
    again = simulate.execute(back.runs[0].job)
    assert [its.total for its in again.policies] == [its.total for its in dsq.runs[0].policies]


def test_a_sweep_is_its_runs_side_by_side():
    workload = costsim.load("glue-mrpc-dsq")
    found = workload.sweep({"batch.sequences": [4, 8], "model.layers": [2]}, policies="dsq")
    assert frame.fields(found.table) == ["batch.sequences", "model.layers"]
    for sequences in (4, 8):
        alone = workload.with_({"batch.sequences": sequences, "model.layers": 2}).run("dsq").by()
        its = found.by()
        its = its[its["batch.sequences"] == sequences]
        assert its["macs"].tolist() == alone["macs"].tolist()
    ratios = found.compare()
    assert ratios[ratios["policy"] == "fixed16"]["dram_reduction"].tolist() == [1, 1]
    with pytest.raises(costsim.InputError, match="a sweep of 2 runs"):
        found.to_text()
    with pytest.raises(costsim.InputError, match="at least one value"):
        workload.sweep({"batch.sequences": []})


def test_a_sweep_comes_back_from_csv(tmp_path):
    found = costsim.load("glue-mrpc-dsq").sweep({"batch.sequences": [4, 8]}, policies=["dsq"])
    back = costsim.read(found.save(tmp_path / "sweep.csv"))
    pd.testing.assert_frame_equal(back.table, found.table)


def test_memory_is_what_the_table_has(gpt2):
    found = gpt2.memory().groupby("policy", sort=False)["peak_memory_bytes"].sum()
    assert found.to_dict() == gpt2.table.groupby("policy", observed=True)["peak_memory_bytes"].max().to_dict()


# --- policies ---------------------------------------------------------------------------------------------------------


def totals(workload, policies):
    return {its.policy.name: its.total for its in simulate.run(workload, policies).policies}


def test_a_changed_policy_is_what_yaml_would_say(tmp_path):
    changed = costsim.load_policy("stash-bfp").with_(copy="stash", format="bfp8", gemm="wgrad")
    assert changed.name == "stash-bfp-stash-bfp8-wgrad"
    path = tmp_path / "mine.yaml"
    path.write_text("description: mine\ncompose: [stash-bfp]\nrules: [{copy: stash, format: bfp8, gemm: [wgrad]}]\n")
    found = totals("iwslt17-dsq", [changed, str(path), "stash-bfp"])
    assert found[changed.name] == found["mine"] != found["stash-bfp"]
    same = costsim.load_policy("stash-bfp").with_("same", role="stash", format="bfp8", gemm=["wgrad"])
    assert totals("iwslt17-dsq", [same])["same"] == found["mine"]


def test_a_changed_policy_says_so_in_its_setup():
    policy = costsim.load_policy("bf16-mixed")
    assert policy.with_(format="fp32").setup == ("bf16, fp32 w, fp32",)
    assert policy.with_(copy="stash", format="bfp4").setup == ("bf16, fp32 w, stash bfp4",)
    assert policy.with_(format="fp32", setup="all fp32").setup == ("all fp32",)


def test_what_is_printed_of_results_is_short(dsq):
    assert len(repr(dsq)) < 5000
    assert "dram_reduction" in repr(dsq)
    assert repr(costsim.load_policy("dsq")) == "Policy('dsq')"


def test_fields_of_a_policy_are_replaced():
    short = costsim.load_policy("dsq").with_(called="two-bits", phases=[{"levels": [2, 2, 2, 16]}])
    found = totals("iwslt17-dsq", [short, "dsq", "static2-bfp"])
    assert found["two-bits"] == found["static2-bfp"]


def test_a_policy_made_in_python():
    made = costsim.make_policy("mine", {"description": "all bf16", "rules": [{"format": "bf16"}]})
    run = costsim.load("glue-mrpc-dsq").run([made], scope="step")
    moved = run.table[(run.table["policy"] == "mine") & (run.table["gemm"] == "forward")]
    assert set(moved["pair"]) == {"bf16 x bf16 + fp32"}
    bits = Fraction(int(moved["dram_read_bits"].iloc[0] + moved["dram_written_bits"].iloc[0]))
    assert bits / int(moved["elements_moved"].iloc[0]) == 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"copy": "stash", "format": "bfq4"}, r"dsq-stash-bfq4 \(Python\).*unknown format 'bfq4'"),
        ({"formats": "bfp4"}, "policy dsq: unknown field 'formats'; did you mean 'format'"),
        ({"copy": "stach", "format": "bfp4"}, r"rules\.0\.copy: .*operand.*stash"),
        ({"phases": [{"levels": [2, 2]}]}, "expected 4 numbers"),
    ],
)
def test_a_change_that_does_not_fit(fields, message):
    with pytest.raises(costsim.InputError, match=message):
        costsim.load_policy("dsq").with_(**fields)


def test_rules_given_to_with_are_added():
    policy = costsim.load_policy("fp32")
    rule = {"role": ["activation"], "format": "bf16"}
    both = [policy.with_("a", rules=[rule]), policy.with_("b", **rule)]
    found = totals("glue-mrpc-dsq", both)
    assert found["a"] == found["b"] != totals("glue-mrpc-dsq", [policy])["fp32"]


@pytest.mark.parametrize("name", ["compose", "assumptions"])
def test_what_with_does_not_take(name):
    with pytest.raises(costsim.InputError, match=f"with_ takes no {name}; make_policy"):
        costsim.load_policy("fp32").with_(**{name: ["bf16-mixed"]})


def test_a_baseline_of_the_same_name_is_not_the_papers():
    other = costsim.load_policy("fixed16").with_("fixed16", role="activation", format="fp32")
    assert "published figures are left out" in costsim.load("iwslt17-dsq").run("dsq", baseline=other).to_text()
    same = costsim.load("iwslt17-dsq").run("dsq", baseline="fixed16").to_text()
    assert "the paper states 20.95x" in same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "prodct"}, "unknown law 'prodct'; did you mean 'product'"),
        ({"traffic": "fuse"}, "unknown traffic 'fuse'; did you mean 'fused'"),
        ({"scope": "gem"}, "unknown scope 'gem'; did you mean 'gemm'"),
        ({"traffic": "tiled", "buffer_bytes": 1e4}, "expected a whole number from 1 on, got 10000"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(costsim.InputError, match=message):
        costsim.load("glue-mrpc-dsq").run("dsq", **options)


def test_a_workload_that_tiles_loads_before_its_buffer_is_known(tmp_path):
    text = (Path(costsim.__file__).parent.parent / "workloads" / "glue-mrpc-dsq.yaml").read_text()
    (tmp_path / "tiled.yaml").write_text(text.replace("traffic: unfused", "traffic: tiled"))
    workload = costsim.load(tmp_path / "tiled.yaml")
    assert "tiled, buffer 100000 byte" in workload.run("dsq", buffer_bytes=100_000).to_text()
    with pytest.raises(costsim.InputError, match="needs a buffer"):
        workload.run("dsq")


def test_unknown_figures_have_an_error(dsq):
    with pytest.raises(costsim.InputError, match="unknown figure 'rooflin'; did you mean 'roofline'"):
        dsq.plot.draw("rooflin")


def test_files_that_were_edited(gpt2, tmp_path):
    path = gpt2.save(tmp_path / "gpt2.csv")
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\n")  # as spreadsheets do
    pd.testing.assert_frame_equal(costsim.read(path).table, gpt2.table)
    path.write_text(text.splitlines()[0] + "\n")
    with pytest.raises(costsim.InputError, match="one row at least"):
        costsim.read(path)
    steps = gpt2.table.columns.get_loc("steps")
    lines = list(csv.reader(text.splitlines()))
    lines[3][steps] = ""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    with pytest.raises(costsim.InputError, match="column steps: a value is missing in row 3"):
        costsim.read(path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(costsim.InputError, match="not a table of results"):
        costsim.read(tmp_path / "deep.json")


def test_two_policies_of_one_name():
    policy = costsim.load_policy("dsq")
    both = [policy.with_("mine", copy="stash", format=name) for name in ("bfp4", "bfp8")]
    with pytest.raises(costsim.InputError, match="two policies are named 'mine'"):
        costsim.load("iwslt17-dsq").run(both)


def test_errors_name_what_there_is(dsq, tmp_path):
    with pytest.raises(costsim.InputError, match=r"by 'kindd': expected one of policy, .*did you mean 'kind'"):
        dsq.by("kindd")
    with pytest.raises(costsim.InputError, match=r"expected a name that ends in \.json, \.csv, \.parquet"):
        dsq.save(tmp_path / "x.txt")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(costsim.InputError, match="not a table of results: no column policy"):
        costsim.read(tmp_path / "x.csv")
    (tmp_path / "x.json").write_text("[")
    with pytest.raises(costsim.InputError, match="not a table of results"):
        costsim.read(tmp_path / "x.json")
    with pytest.raises(costsim.InputError, match="No such file"):
        costsim.read(tmp_path / "y.csv")
    with pytest.raises(costsim.InputError, match="did you mean 'iwslt17-dsq'"):
        costsim.load("iwslt17-dsk")
    with pytest.raises(costsim.InputError, match=r"model\.encoder_layerz"):
        costsim.load("iwslt17-dsq", {"model.encoder_layerz": 2})


def test_devices_that_are_loaded_are_taken_as_those_that_are_named():
    workload = costsim.load("glue-mrpc-dsq", {"model.layers": 1})
    named = workload.run("fixed16", hardware="h100-sxm")
    for given in (costsim.load_hardware("h100-sxm"), [costsim.load_hardware("h100-sxm")]):
        pd.testing.assert_frame_equal(workload.run("fixed16", hardware=given).table, named.table)


def test_a_run_is_saved_as_a_workbook(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    result = costsim.load("glue-mrpc-dsq", {"model.layers": 1}).run("fixed16")
    path = result.save(tmp_path / "run.xlsx")
    head, *rows = openpyxl.load_workbook(path)["table"].iter_rows(values_only=True)
    assert head[0] == "policy"
    assert [row[0] for row in rows] == ["fixed16"]
