"""Time and energy by group: groups add up to the policy, kernels belong to their first op, ridges by hand."""

import csv
import io
import json

import pytest
from click.testing import CliRunner

from costsim.cli import main
from costsim.cost.count import count
from costsim.cost.row import each_op
from costsim.cost.totals import GROUPINGS
from costsim.devices.energy import TABLES, mac_pj, recalled
from costsim.devices.profile import load_hardware, ridge_point
from costsim.formats.named import parse_format
from costsim.graph.fusion import group_ops
from costsim.policy.assign import assign
from costsim.results.records import group_records, records, reduction_records
from costsim.run.simulate import run
from costsim.run.timing import UNDIVIDED, time_groups

SMALL = ["model.encoder_layers=1", "model.decoder_layers=2"]
DEVICES = ["h100-sxm", "jetson-orin-nano"]
TIMED = [by for by in GROUPINGS if by not in UNDIVIDED]


def small(policies=("dsq", "fixed16"), **options):
    return run("iwslt17-dsq", policies, assignments=SMALL, hardware=DEVICES, **options)


@pytest.fixture(scope="module")
def fused():
    return small(traffic="fused", scope="step")


def output(*arguments):
    done = CliRunner().invoke(main, ["run", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("by", TIMED)
@pytest.mark.parametrize(("traffic", "scope"), [("unfused", "gemm"), ("unfused", "step"), ("fused", "step")])
def test_groups_add_up_to_the_policy(by, traffic, scope):
    result = small(traffic=traffic, scope=scope)
    rows = group_records(result, by)
    for policy in records(result, "policy"):
        groups = [row for row in rows if row["policy"] == policy["policy"]]
        for name in DEVICES:
            whole, parts = policy["hardware"][name], [row["hardware"][name] for row in groups]
            for key in ("time_s", "energy_j", "mac_time_s", "vector_time_s", "dram_time_s", "launch_time_s"):
                assert sum(part[key] for part in parts) == pytest.approx(whole[key], rel=1e-9), (name, key)
            assert sum(part["time_share"] for part in parts) == pytest.approx(1, rel=1e-9)
            assert sum(part["energy_share"] for part in parts) == pytest.approx(1, rel=1e-9)


def test_a_kernel_belongs_to_its_first_op(fused):
    """Under `fused` the ops with time are exactly those that begin a kernel, and the quantize kernels."""
    graph, convention = fused.job.graph, fused.job.convention
    first, group = {}, group_ops(graph, convention.traffic)
    for op in graph.ops:
        first.setdefault(group[op.position], op.name)
    counted = fused.policies[1]
    assert counted.policy.name == "fixed16"
    rows = count(graph, assign(graph, counted.policy, 0), convention.traffic, convention.scope)
    casts = {row.name(op) for op, row in each_op(rows) if row.cast}
    timed = {row["op"] for row in group_records(fused, "op") if row["policy"] == "fixed16" and _time(row) > 0}
    assert timed == set(first.values()) | casts
    assert len(timed) < len(graph.ops)


def _time(row):
    return row["hardware"]["h100-sxm"]["time_s"]


def test_intensity_is_that_of_the_counts():
    """Where every op is a kernel: 2 operations a MAC and those on elements, by the bytes of the same row."""
    for row in group_records(small(scope="step"), "op"):
        operations = 2 * int(row["macs"]) + int(row["vector_ops"]) + int(row["quantize_ops"])
        for name in DEVICES:
            assert row["hardware"][name]["op_per_byte"] == pytest.approx(8 * operations / int(row["dram_bits"]))


def test_the_ridge_of_a_pair_is_the_devices():
    result = run("gpt2-small", ["fp32"], assignments=["model.layers=1"], hardware=["h100-sxm"], traffic="unfused")
    [row] = [r for r in group_records(result, "pair") if r["pair"].startswith("fp32")]
    device = load_hardware("h100-sxm")
    [rate] = [rate for rate in device.rates if rate.name == "fp32 x fp32 + fp32"]
    ridge = row["hardware"]["h100-sxm"]["ridge_op_per_byte"]
    assert ridge == pytest.approx(float(ridge_point(device, rate)), rel=1e-9)
    assert ridge == pytest.approx(2 * 33.5e12 / 3.35e12, rel=0.01)  # 67 TFLOP/s and 3.35 TB/s, as printed
    [vector] = [r["hardware"]["h100-sxm"] for r in group_records(result, "pair") if r["pair"] == "no MACs"]
    assert vector["ridge_op_per_byte"] == pytest.approx(device.vector_op_per_s / device.dram_bytes_per_s)


def test_the_ridge_tells_the_bound_of_a_gemm():
    for row in group_records(small(("fixed16",)), "op"):
        for name in DEVICES:
            record = row["hardware"][name]
            assert (record["op_per_byte"] > record["ridge_op_per_byte"]) == (record["bound"] == "arithmetic")


def test_an_efficiency_lowers_the_ridge(tmp_path):
    from costsim.inputs import files

    text = files.list_shipped("hardware_profiles")["h100-sxm"].read_text()
    (tmp_path / "half.yaml").write_text(f"{text}\nefficiency: {{mac: {{value: 0.5, source: [{_source(text)}]}}}}\n")
    args = {"assignments": ["model.layers=1"], "traffic": "unfused"}
    ridges = []
    for name in ("h100-sxm", str(tmp_path / "half.yaml")):
        result = run("gpt2-small", ["fp32"], hardware=[name], **args)
        [row] = [r for r in group_records(result, "pair") if r["pair"].startswith("fp32")]
        ridges += [its["ridge_op_per_byte"] for its in row["hardware"].values()]
    assert ridges[1] == pytest.approx(ridges[0] / 2)


def _source(text):
    return text.partition("sources:")[2].split(":")[0].strip()


@pytest.mark.parametrize("by", sorted(set(UNDIVIDED)))
def test_groupings_without_time_say_why(by):
    args = ("iwslt17-dsq", "--policy", "dsq", *(a for s in SMALL for a in ("--set", s)), "--by", by)
    data = json.loads(output(*args, "--hardware", "h100-sxm", "--format", "json"))
    assert data["convention"]["hardware"] == f"time and energy by {by}: n/a, {UNDIVIDED[by]}"
    for row in data["rows"] if by != "assumption" else []:
        assert set(row["hardware"]["h100-sxm"].values()) == {None}
    table = " ".join(output(*args, "--hardware", "h100-sxm").split())
    assert f"time and energy by {by}: n/a, {UNDIVIDED[by]}" in table
    assert "op/byte" not in table


@pytest.mark.parametrize("by", TIMED)
def test_csv_and_tables_have_the_devices(by):
    args = ("iwslt17-dsq", "--policy", "dsq", *(a for s in SMALL for a in ("--set", s)), "--by", by)
    args += tuple(a for name in DEVICES for a in ("--hardware", name))
    rows = list(csv.DictReader(io.StringIO(output(*args, "--format", "csv"))))
    for name in DEVICES:
        assert sum(float(row[f"{name}.time_share"]) for row in rows) == pytest.approx(1)
        assert {f"{name}.{key}" for key in ("energy_j", "bound", "op_per_byte", "ridge_op_per_byte")} <= rows[0].keys()
    table = output(*args)
    assert max(map(len, table.splitlines())) <= 80 or by == "op"  # whose names are never cut in a pipe
    assert table.count("ridge\n") == len(DEVICES)
    assert "belongs to the" in " ".join(table.split())
    assert output(*args, "--format", "markdown").count("| jetson-orin-nano") == 1  # then only where it changes


def test_reductions_are_those_of_the_other_tables():
    result = small(("dsq", "fixed16", "fp32"))
    policies = {row["policy"]: row for row in records(result, "policy")}
    from costsim.cost.memory import of_policy

    peak = {
        its.policy.name: of_policy(result.job.graph, its.policy, "unfused")[1].peak_bytes
        for its in (*result.policies, result.baseline)
    }
    for row in reduction_records(result):
        wanted = policies[row["policy"]]
        assert list(row) == [
            "policy",
            "setup",
            "arithmetic_reduction",
            "dram_reduction",
            "memory_reduction",
            "hardware",
        ]
        assert row["memory_reduction"] == pytest.approx(peak["fixed16"] / peak[row["policy"]], rel=1e-15)
        assert row["arithmetic_reduction"] == wanted["arithmetic_reduction"]
        assert row["dram_reduction"] == wanted["dram_reduction"]
        for name in DEVICES:
            assert row["hardware"][name] == {
                key: wanted["hardware"][name][key] for key in ("time_reduction", "energy_reduction")
            }
    assert reduction_records(result)[1]["memory_reduction"] == 1


def test_reductions_in_every_format(tmp_path):
    args = ("iwslt17-dsq", "--policy", "dsq", "--by", "reduction", "--hardware", "h100-sxm")
    table = output(*args)
    assert table.splitlines()[2].strip("-") == ""
    assert max(map(len, table.splitlines())) <= 80
    [row] = csv.DictReader(io.StringIO(output(*args, "--format", "csv")))
    assert list(row)[-2:] == ["h100-sxm.time_reduction", "h100-sxm.energy_reduction"]
    data = json.loads(output(*args, "--format", "json"))
    assert float(row["memory_reduction"]) == data["rows"][0]["memory_reduction"]
    header = output(*args, "--format", "markdown").splitlines()[0]
    names = "policy setup arithmetic x DRAM x memory x h100-sxm time x h100-sxm energy x"
    assert header.replace("|", "").split() == names.split()


def test_recalled_figures_are_told_where_they_are_used():
    """Of the 7 nm table, the addition of fp16 is recalled: what sums in fp16 takes it, what sums in fp32 does not."""
    fp16, fp32, int8, int32 = map(parse_format, ("fp16", "fp32", "int8", "int32"))
    jouppi = TABLES["jouppi-7nm"]
    assert recalled(jouppi, fp16, fp16, fp16) == {"an addition of fp16"}
    assert recalled(jouppi, fp16, fp16, fp32) == recalled(jouppi, int8, int8, int32) == set()
    assert recalled(TABLES["horowitz-45nm"], fp16, fp16, fp16) == set()
    assert mac_pj(jouppi, fp16, fp16, fp16)[0] == pytest.approx(0.34 + 0.16)


def test_a_total_names_the_recalled_figures_that_it_uses(tmp_path):
    rules = "rules:\n  - {format: fp16}\n"
    (tmp_path / "half.yaml").write_text(f"description: sums in fp16\naccumulator: fp16\n{rules}")
    (tmp_path / "whole.yaml").write_text(f"description: sums in fp32\n{rules}")
    for name, wanted in (("half", True), ("whole", False)):
        table = output(
            "glue-mrpc-dsq",
            "--set",
            "model.layers=1",
            "--policy",
            str(tmp_path / f"{name}.yaml"),
            "--hardware",
            "rtx-4090",
            "--baseline",
            str(tmp_path / f"{name}.yaml"),
        )
        assert ("an addition of fp16" in " ".join(table.split())) == wanted


def test_groups_without_kernels_are_left_out(fused):
    groups = time_groups(fused.job, fused.policies[1], load_hardware("h100-sxm"), "op")
    assert len(groups) < len(group_records(fused, "op")) / len(fused.policies)
