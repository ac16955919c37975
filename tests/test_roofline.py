"""Time and energy on devices: kernels worked out by hand, relations, and what the command shows."""

import json
import math

import pytest
from click.testing import CliRunner
from conftest import adamw, decoder_step, pairs, shipped_policy, spend_all

from costsim.cli import main
from costsim.cost.count import count
from costsim.cost.row import each_op
from costsim.cost.totals import sum_rows
from costsim.devices.energy import DRAM, TABLES, mac_pj
from costsim.devices.profile import load_hardware
from costsim.devices.roofline import kernels, spend
from costsim.formats.named import parse_format
from costsim.graph.fusion import UNTILED
from costsim.inputs.files import list_shipped
from costsim.policy.assign import assign
from costsim.run.job import Request, prepare

PROFILES = list(list_shipped("hardware_profiles"))
FP32 = (parse_format("fp32"),) * 3


def rows_of(graph, name="fp32", traffic="unfused", scope="step"):
    return count(graph, assign(graph, shipped_policy(name)), traffic, scope)


def device(tmp_path, **figures):
    """A device with round figures: 10^12 MAC/s, 10^11 operations/s, 10^11 byte/s."""
    text = [
        "schema_version: 1",
        "description: round figures",
        "memory: hbm2",
        "rates:",
        "  - {operands: [fp32, fp32], accumulator: fp32, mac_per_s: 1000000000000, source: [us]}",
        f"vector_op_per_s: {{value: {figures.get('vector', 10**11)}, source: [us]}}",
        f"dram_bytes_per_s: {figures.get('dram', '{value: 100000000000, source: [us]}')}",
        "dram_bytes: unknown",
        "on_chip_bytes: unknown",
        "energy_table: horowitz-45nm",
        "sources: {us: round}",
    ]
    path = tmp_path / "round.yaml"
    path.write_text("\n".join([*text, *figures.get("more", [])]) + "\n")
    return load_hardware(str(path))


def test_a_gemm_by_hand(tmp_path):
    """2^30 MACs at 10^12 a second take 1.07 ms; 3 matrices of 2^20 fp32 at 10^11 byte/s take 0.126 ms."""
    graph = decoder_step(batch={"sequences": 4, "tokens": 8}, tied=False, vocab=32, d_model=16)
    rows = rows_of(graph)
    gemm = next(k for k in kernels(graph, rows, "unfused", "step", each=True) if k.first[1].name == "head.logits")
    its = spend(gemm, device(tmp_path))
    macs, elements = 32 * 16 * 32, 32 * 16 + 32 * 16 + 32 * 32
    assert (its.macs, its.dram_bits) == (macs, 32 * elements)
    assert its.mac_s == macs / 10**12
    assert its.dram_s == 4 * elements / 10**11
    assert its.time_s == max(its.mac_s, its.dram_s)
    assert its.bound == "dram"
    assert its.op_per_byte == 2 * macs / (4 * elements)
    assert its.arithmetic_j == pytest.approx(macs * (3.7 + 0.9) * 1e-12)
    assert its.dram_j == pytest.approx(32 * elements * 5.45e-12)


def test_without_overlap_times_add_up(tmp_path):
    graph, its = decoder_step(), device(tmp_path)
    found = kernels(graph, rows_of(graph), "unfused", "step")
    apart = spend_all(found, its, overlap=False)
    together = spend_all(found, its)
    assert apart.time_s == pytest.approx(apart.mac_s + apart.vector_s + apart.dram_s)
    assert max(together.mac_s + together.vector_s, together.dram_s) <= together.time_s <= apart.time_s


def test_launches_and_efficiencies_count(tmp_path):
    graph = decoder_step(micro_batches=3)
    found = kernels(graph, rows_of(graph), "unfused", "step")
    plain = spend_all(found, device(tmp_path))
    slow = spend_all(found, device(tmp_path, more=["launch_s: {value: 0.5, source: [us]}"]))
    assert slow.time_s - plain.time_s == pytest.approx(0.5 * sum(op.times for op in graph.ops))
    assert slow.bound == "launch"
    half = device(tmp_path, more=["efficiency: {dram: {value: 0.5, source: [us]}}"])
    assert spend_all(found, half).dram_s == pytest.approx(2 * plain.dram_s)


@pytest.mark.parametrize(("step", "name"), pairs(["fp32", "bf16-mixed", "dsq", "fp8-block"]), indirect=["step"])
def test_kernels_alike_are_counted_once_and_sum_to_the_step(step, name):
    graph = step(micro_batches=2, dropout=0.1, optimizer=adamw(clip_norm=1.0))
    h100 = load_hardware("h100-sxm")
    for traffic in UNTILED:
        rows = rows_of(graph, name, traffic)
        once, each = (kernels(graph, rows, traffic, "step", each=each) for each in (False, True))
        assert len(once) < len(each) == sum(kernel.number for kernel in once)
        assert sum(len(kernel.rows) for kernel in each) == len(each_op(rows))
        total = sum_rows(rows, "product")
        for found in (once, each):
            its = spend_all(found, h100)
            assert (its.macs, its.dram_bits) == (total.macs, total.dram_bits)
            assert its.vector_ops == sum(total.vector.values())
        assert spend_all(once, h100).time_s == pytest.approx(spend_all(each, h100).time_s, rel=1e-12)
        assert sum(spend_all(once, h100).bound_s.values()) == pytest.approx(spend_all(once, h100).time_s, rel=1e-12)


def test_fusing_takes_no_longer():
    graph = decoder_step(micro_batches=2, dropout=0.1)
    for name in ("a100-80gb", "jetson-nano"):
        times = [
            spend_all(kernels(graph, rows_of(graph, "fp32", traffic), traffic, "step"), load_hardware(name)).time_s
            for traffic in UNTILED
        ]
        assert times[1] <= times[0]


def test_unknown_bandwidth_and_unsupported_pairs_are_said(tmp_path):
    graph = decoder_step()
    unknown = spend_all(kernels(graph, rows_of(graph), "unfused", "step"), device(tmp_path, dram="unknown"))
    assert (unknown.time_s, unknown.bound) == (None, "n/a")
    assert unknown.mac_s > 0
    wide = spend_all(kernels(graph, rows_of(graph, "fixed32"), "unfused", "step"), load_hardware("h100-sxm"))
    assert (wide.time_s, wide.energy_j, wide.bound) == (None, None, "unsupported")
    assert wide.unsupported == {"fixed32 x fixed32 + int32"}


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_runs_a_policy(name):
    """Each shipped device times fp32, or says what it lacks."""
    graph, its = decoder_step(), load_hardware(name)
    found = spend_all(kernels(graph, rows_of(graph), "fused", "step"), its)
    assert found.bound in ("arithmetic", "vector", "dram", "n/a", "unsupported")
    if found.bound not in ("n/a", "unsupported"):
        assert 0 < found.time_s < 1


# --- energy -----------------------------------------------------------------------------------------------------------


def test_energies_that_are_published_come_out_as_they_are():
    """Horowitz 2014: fp32 3.7 + 0.9 pJ, int8 with int32 sums 0.2 + 0.1 pJ. Jouppi et al. 2021: bf16 0.21 + 0.38 pJ."""
    horowitz, jouppi = TABLES["horowitz-45nm"], TABLES["jouppi-7nm"]
    int8, int32, bf16, fp32 = map(parse_format, ("int8", "int32", "bf16", "fp32"))
    assert mac_pj(horowitz, fp32, fp32, fp32) == (pytest.approx(4.6), False)
    assert mac_pj(horowitz, int8, int8, int32) == (pytest.approx(0.3), False)
    assert mac_pj(jouppi, bf16, bf16, fp32) == (pytest.approx(0.59), False)


def test_widths_that_a_table_lacks_are_scaled_and_marked():
    """int4 multiplies at a quarter of int8 (as the product of the widths), from the nearest width that is known."""
    int4, int32 = parse_format("int4"), parse_format("int32")
    energy, scaled = mac_pj(TABLES["horowitz-45nm"], int4, int4, int32)
    assert (energy, scaled) == (pytest.approx(0.2 / 4 + 0.1), True)
    assert all(dram.source for dram in DRAM.values())


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(main, ["run", *arguments])


def test_run_on_two_devices():
    args = ("iwslt17-dsq.yaml", "--hardware", "jetson-orin-nano", "--hardware", "h100-sxm")
    table, data = run(*args).output, json.loads(run(*args, "--format", "json").output)
    assert max(map(len, table.splitlines())) <= 80
    assert "jetson-orin-nano: up to" in table
    assert "unsupported: bfp32 x bfp32 + fp32; fixed32 x fixed32 + int32" in table
    for row in data["rows"]:
        assert list(row["hardware"]) == ["jetson-orin-nano", "h100-sxm"]
        for its in row["hardware"].values():
            if row["policy"] in ("fixed32", "bfp32"):
                assert (its["time_s"], its["energy_j"], its["bound"]) == (None, None, "unsupported")
            else:
                assert its["time_s"] > 0 < its["energy_j"]
                parts = [its[f"{name}_energy_j"] for name in ("arithmetic", "on_chip", "dram", "static")]
                assert math.fsum(parts) == pytest.approx(its["energy_j"])
    base = next(row for row in data["rows"] if row["policy"] == "fixed16")
    assert base["hardware"]["h100-sxm"]["time_reduction"] == 1
    assert base["hardware"]["h100-sxm"]["upcast"] == ["fixed16 x fixed16 + int32 as fp32 x fp32 + fp32"]


@pytest.mark.parametrize("style", ["csv", "markdown", "latex"])
def test_exports_have_the_devices(style):
    result = run("glue-mrpc-dsq", "--policy", "dsq", "--hardware", "a100-80gb", "--format", style)
    assert result.exit_code == 0
    assert "a100-80gb" in result.output


def test_an_unknown_device_is_one_error():
    result = run("glue-mrpc-dsq", "--hardware", "h100")
    assert result.exit_code == 2
    assert "hardware profile 'h100': no such file, nor a shipped hardware profile; did you mean" in result.output


def test_a_workload_may_name_its_devices(tmp_path):
    text = list_shipped("workloads")["glue-mrpc-dsq"].read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(f"{text}hardware: [a100-80gb]\n")
    assert [its.name for its in prepare(Request(str(path))).hardware] == ["a100-80gb"]
    path.write_text(f"{text}hardware: [a101]\n")
    result = run(str(path))
    assert result.exit_code == 2
    assert "mine.yaml:" in result.output
    assert "hardware.0: hardware profile 'a101'" in result.output


def test_quantize_kernels_are_launched_as_often_as_they_run(tmp_path):
    """Weights are cast once a step, however many micro-batches read the copies; what they make, once for each."""
    more = ["launch_s: {value: 0.001, source: [us]}"]
    its, policy = device(tmp_path, more=more), shipped_policy("bf16-mixed")
    launched = {}
    for micro_batches in (1, 4):
        graph = decoder_step(micro_batches=micro_batches)
        rows = count(graph, assign(graph, policy), "unfused", "step")
        for kernel in kernels(graph, rows, "unfused", "step", each=True):
            row, op = kernel.first
            if row.kind == "cast":
                launched[row.name(op), micro_batches] = spend(kernel, its).launch_s
    assert {micro_batches for _, micro_batches in launched} == {1, 4}
    weights = {key for key in launched if ".weight" in key[0]}
    assert weights
    assert all(launched[key] == pytest.approx(0.001) for key in weights)
    assert all(launched[key] == pytest.approx(0.001 * key[1]) for key in launched.keys() - weights)
