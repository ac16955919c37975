"""Explanations: the second way to every counted number, and what is printed of it."""

import inspect
import json
import math
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner
from conftest import STEPS, adamw, pairs, policy, shipped_policy

from costsim.cli import main
from costsim.cost.count import count
from costsim.cost.laws import LAWS
from costsim.cost.memory import of_policy
from costsim.cost.row import each_op
from costsim.cost.tiling import tile_rows
from costsim.cost.totals import group
from costsim.devices.profile import load_hardware
from costsim.devices.roofline import kernels, spend
from costsim.explain.derive import Deriver, differences
from costsim.explain.devices import device_steps
from costsim.explain.op import explain
from costsim.explain.tiling import add_passes
from costsim.explain.totals import COUNTED, TOTALS, explain_total
from costsim.graph.builder import GraphBuilder
from costsim.graph.fusion import UNTILED
from costsim.policy import schedule
from costsim.policy.assign import assign
from costsim.run import simulate
from costsim.run.job import Request, prepare
from costsim.tables.explain import document
from costsim.tables.styles import render

RUNNER = CliRunner(**({"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}))


def costsim(*args):
    result = RUNNER.invoke(main, args)
    assert (result.exit_code, result.stderr) == (0, ""), (args, result.stderr, result.exception)
    return result.stdout


def derived(graph, assignment, traffic, law="product"):
    """Every op and quantize kernel by name, derived op by op."""
    deriver = Deriver(graph, assignment, traffic, law)
    ops = [op for op in graph.ops if not op.kind.view]  # a view does nothing
    return {its.name: its for op in ops for its in (*deriver.casts(op), deriver.op(op))}


def rows_of(graph, assignment, traffic, scope="step"):
    """{name: row} of every op and quantize kernel."""
    return {row.name(op): row for op, row in each_op(count(graph, assignment, traffic, scope))}


def all_differences(graph, policy, phases=None):
    """Where derived and counted numbers differ in any traffic model or scope."""
    wrong = []
    for index in range(len(policy.file.phases)) if phases is None else phases:
        assignment = assign(graph, policy, index)
        for traffic in UNTILED:
            ops, rows = derived(graph, assignment, traffic), rows_of(graph, assignment, traffic)
            assert ops.keys() == rows.keys()
            wrong += [text for name, row in rows.items() for text in differences(ops[name], row)]
            if traffic == "unfused":
                gemms = rows_of(graph, assignment, traffic, "gemm")
                wrong += [text for name, row in gemms.items() for text in differences(ops[name], row)]
    return wrong


@pytest.mark.parametrize(("family", "name"), pairs())
def test_derived_is_counted_for_every_op(family, name):
    graph, policy = STEPS[family](micro_batches=2), shipped_policy(name)
    assert all_differences(graph, policy, sorted({0, len(policy.file.phases) - 1})) == []


WAYS = (
    {"attention": "flash"},
    {"checkpointing": "selective"},
    {"checkpointing": "full", "attention": "flash"},
    {"dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.1},
    {"batch": {"sequences": 17}, "d_model": 24, "label_smoothing": 0.2, "optimizer": adamw(clip_norm=1.0)},
)


@pytest.mark.parametrize("name", ["dsq", "fp8-current", "w8a8+as-coded"])
@pytest.mark.parametrize("way", range(len(WAYS)))
@pytest.mark.parametrize("family", ["encoder-decoder", "llama"])
def test_derived_is_counted_whatever_is_made_again(family, way, name):
    assert all_differences(STEPS[family](micro_batches=2, **WAYS[way]), shipped_policy(name), [0]) == []


@pytest.mark.parametrize("placement", ["at_producer", "on_chip", "stored"])
@pytest.mark.parametrize("format", ["bfp4-box3", "int8-asym-column", "nvfp4", "hbfp8", "fp8-e4m3-2x3", "int4-tensor"])
def test_derived_is_counted_for_any_blocks_and_placement(placement, format):
    rules = (
        {"format": format if placement == "on_chip" else "bf16"},
        {"copy": "operand", "format": format, "placement": placement, "scale_time": "current"},
        {"copy": "stash", "format": "bfp8", "placement": "stored" if placement == "stored" else "at_producer"},
    )
    if placement == "at_producer" and "tensor" in format:
        rules = rules[:2]
    assert all_differences(STEPS["decoder"](micro_batches=2), policy(*rules)) == []


def test_a_wrong_count_is_told():
    graph = STEPS["decoder"]()
    assignment = assign(graph, shipped_policy("dsq"))
    name, row = next(its for its in rows_of(graph, assignment, "fused").items() if its[1].gemm)
    explained = derived(graph, assignment, "fused")[name]
    assert differences(explained, row) == []
    assert "MACs" in differences(explained, row._replace(macs=row.macs + 1))[0]
    moves = (row.moves[0]._replace(read_bits=row.moves[0].read_bits + 1), *row.moves[1:])
    assert "bits moved" in differences(explained, row._replace(moves=moves))[0]
    assert "vector" in differences(explained, row._replace(vector={"add": 1}))[0]


@pytest.mark.parametrize("law", LAWS)
def test_costs_are_those_of_the_law(law):
    graph = STEPS["decoder"]()
    for name in ("dsq", "bf16-mixed", "fp32", "w8a8", "nvfp4"):
        assignment = assign(graph, shipped_policy(name))
        ops = derived(graph, assignment, "unfused", law)
        for op, row in rows_of(graph, assignment, "unfused").items():
            assert ops[op].cost == row.cost(LAWS[law])


def value_of(text):
    """What a formula with values in it comes to."""
    return eval(text, {"ceil": lambda x: math.ceil(x - 1e-9), "max": max, "__builtins__": {}})


def check_formula(step):
    """A step's printed values come to its printed result, and the formula has as many factors."""
    if step.result is None or isinstance(step.result, str):
        return
    assert step.formula or step.what == "kernel"
    if step.what == "kernel":
        return
    if isinstance(step.result, int):
        assert value_of(step.values) == step.result, step
    else:
        assert value_of(step.values) == pytest.approx(step.result, rel=1e-9), step
    assert step.values.count(" * ") == step.formula.count(" * ")
    assert step.source, step


@pytest.mark.parametrize("name", ["dsq", "nvfp4", "fp8-block", "int", "w8a8"])
def test_printed_values_come_to_the_printed_result(name):
    rules = policy({"format": "bf16"}, {"copy": "operand", "format": "int8-asym-3x5", "placement": "stored"})
    graph = STEPS["llama"](micro_batches=3)
    assignment = assign(graph, rules if name == "int" else shipped_policy(name))
    for explained in derived(graph, assignment, "fused", "bops").values():
        explained.add_sums()
        for step in explained.steps:
            check_formula(step)
        by_name = {step.what: step.result for step in explained.steps}
        assert (by_name["MACs"], by_name["DRAM bits"]) == (explained.macs, explained.read_bits + explained.written_bits)


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("device", ["h100-sxm", "jetson-orin-nano", "abstract-bit-serial", "cortex-m4"])
def test_time_and_energy_are_what_the_roofline_spends(device, overlap):
    hardware = load_hardware(device)
    for changes in ({}, {"launch_s": 1e-6, "static_w": 3.0, "mac_efficiency": 0.5, "dram_efficiency": 0.7}):
        hardware = replace(hardware, **changes)
        graph = STEPS["decoder"](micro_batches=2)
        for name in ("dsq", "bf16-mixed", "w8a8"):
            rows = count(graph, assign(graph, shipped_policy(name)), "fused")
            for kernel in kernels(graph, rows, "fused", "step"):
                spent = spend(kernel, hardware, overlap)
                steps = device_steps(kernel, hardware, overlap)
                results = {step.what.partition(", ")[2]: step.result for step in steps}
                for step in steps:
                    check_formula(step)
                for what, value in (("time", spent.time_s), ("energy", spent.energy_j)):
                    assert (results[what] is None) is (value is None)
                    assert value is None or results[what] == pytest.approx(value, rel=1e-12)
                assert results["bound"] == spent.bound


# --- tiles ------------------------------------------------------------------------------------------------------------


def check_tiles(graph, assignment, buffer_bytes):
    """What the buffer makes ops do: {op: added steps}; all that is derived is what is counted."""
    rows = count(graph, assignment, "tiled")
    tiled = {row.name(op): row for op, row in each_op(tile_rows(graph, rows, 8 * buffer_bytes))}
    compulsory = {row.name(op): row for op, row in each_op(rows)}
    added = {}
    for op, explained in derived(graph, assignment, "tiled").items():
        before = len(explained.steps)
        add_passes(explained, graph, compulsory[op], tiled[op], buffer_bytes)
        assert differences(explained, tiled[op]) == []
        added[op] = list(explained.steps)[before:]
        for step in added[op]:
            assert step.what == "tiling" or check_formula(step) is None
    return added


@pytest.mark.parametrize(
    ("family", "name", "changes", "sizes"),
    [
        ("decoder", "dsq", {}, (8, 40, 60)),
        ("llama", "fp8-current", {}, (16, 100, 300)),
        ("encoder-decoder", "bf16-mixed", {"attention": "flash"}, (100, 200, 300)),
    ],
)
def test_passes_over_tiles_are_what_is_counted(family, name, changes, sizes):
    graph = STEPS[family](micro_batches=2, **changes)
    assignment = assign(graph, shipped_policy(name))
    assert not any(check_tiles(graph, assignment, 10**6).values())
    for buffer_bytes in sizes:
        assert any(check_tiles(graph, assignment, buffer_bytes).values())


def test_sums_that_leave_the_chip_are_what_is_counted():
    """Large operands with narrow sums: it pays to keep an operand, and the sums go to and fro."""
    b = GraphBuilder({"m": 64, "n": 30, "k": 9}, micro_batches=3)
    b.linear(b.given("x", ("m", "k"), role="activation"), "y", ("n",), bias=False)
    graph = b.build()
    assignment = assign(graph, policy({"format": "fp32"}, accumulator="fp16"))
    names = [step.what for size in (12, 24, 60) for step in check_tiles(graph, assignment, size)["y"]]
    assert {"DRAM read, y@sums.fp16", "DRAM written, y@sums.fp16"} <= set(names)


# --- by policy and phase ----------------------------------------------------------------------------------------------

SMALL = ("model.encoder_layers=1", "model.decoder_layers=2")
Q = "encoder.0.self_attention.q"


def test_phases_that_differ_each_have_a_section_and_add_up():
    job = prepare(Request("iwslt17-dsq", ["dsq", "fixed16"], assignments=SMALL))
    explanation = explain(job, Q)
    dsq = next(its for its in job.policies if its.name == "dsq")
    lengths = schedule.schedule(dsq, job.convention.steps)
    sections = [(its.phases, its.setup, its.steps) for its in explanation.sections if its.policy == "dsq"]
    assert sections == [((i + 1,), dsq.setup[i], n) for i, n in enumerate(lengths)]
    result = simulate.execute(job)
    for counted in result.policies:
        total = group(counted.weighted_rows(), "op", "product")[Q]
        run = {step.what.removesuffix(" over the run"): step.result for step in explanation.runs[counted.policy.name]}
        assert run["MACs"] == total.macs
        assert run["arithmetic cost"] == total.arithmetic_cost
        assert (run["DRAM bits read"], run["DRAM bits written"]) == (total.read_bits, total.written_bits)
        assert run["DRAM bits"] == total.dram_bits
        for step in explanation.runs[counted.policy.name]:
            check_formula(step)


def test_phases_that_agree_are_one():
    job = prepare(Request("iwslt17-dsq", ["dsq"], assignments=SMALL, scope="step"))
    name = next(op.name for op in job.graph.ops if op.phase == "update" and not op.name.startswith("clip"))
    own = explain(prepare(Request("iwslt17-dsq", ["fixed16"], assignments=SMALL, scope="step")), name)
    assert [its.phases for its in own.sections] == [(1,)]
    mask = next(op.name for op in job.graph.ops if op.kind.name == "bernoulli")
    assert [its.phases for its in explain(job, mask).sections] == [(1, 2, 3)]


@pytest.mark.parametrize("traffic", ["unfused", "fused"])
def test_every_op_has_its_line_of_macs(traffic):
    """Ops of no scope's GEMMs too: a line that says 0."""
    job = prepare(Request("glue-mrpc-dsq", ["dsq"], assignments=["model.layers=1"], traffic=traffic))
    zeros = 0
    kinds = {op.kind.name: op for op in job.graph.ops}.values()
    for op in kinds:
        lines = render(document(job, op.name), "table").splitlines()
        [macs] = [line for line in lines if line.startswith("MACs:")]
        assert macs == f"MACs: {job.graph.work(op)[0]} MAC"
        zeros += macs == "MACs: 0 MAC"
        assert max(map(len, lines)) <= 80
        assert ("scope gemm, which totals hold" in " ".join(" ".join(lines).split())) is (op.gemm is None)
    assert 0 < zeros < len(kinds)


def test_quantize_kernels_have_names_too():
    job = prepare(Request("gpt2-small", ["fp8-current"], assignments=["model.layers=1"]))
    result = simulate.execute(job)
    totals = group(result.policies[0].weighted_rows(), "op", "product")
    casts = [name for name in totals if name.endswith(".cast")]
    assert len(casts) > 5
    for name in casts[:: len(casts) // 5]:
        run = {step.what: step.result for step in explain(job, name).runs["fp8-current"]}
        assert run["MACs over the run"] == 0
        assert run["DRAM bits over the run"] == totals[name].dram_bits
    for options in ({"scope": "gemm"}, {}):
        assert explain(prepare(Request("gpt2-small", ["fp8-current"], **options)), casts[0]).scope in ("layer", "step")


def test_time_and_energy_are_of_the_kernel():
    job = prepare(Request("gpt2-small", ["dsq"], assignments=["model.layers=1"], hardware=["h100-sxm", "t4"]))
    result = simulate.execute(job)
    op = "decoder.0.ffn.fc1.add_bias"  # fused behind its GEMM
    explanation = explain(job, op)
    for section in explanation.sections:
        steps = {step.what: step for step in section.explained}
        assert steps["kernel"].values == "the first of them is decoder.0.ffn.fc1"
    first = explain(job, "decoder.0.ffn.fc1")
    times = [[s for s in e.runs["dsq"] if s.what.endswith("time over the run")] for e in (explanation, first)]
    assert times[0] == times[1]
    assert len(times[0]) == 2
    assert sum(s.result for s in times[0][:1]) < result.spent["dsq", "h100-sxm"].time_s


def test_tiled_traffic_on_the_buffer_that_is_said():
    job = prepare(Request("gpt2-small", ["fp32"], assignments=["model.layers=1"], traffic="tiled", buffer_bytes=50_000))
    result = simulate.execute(job)
    totals = group(result.policies[0].weighted_rows(), "op", "product")
    for name in ("decoder.0.ffn.fc1", "head.logits.dw"):
        explanation = explain(job, name)
        run = {step.what: step.result for step in explanation.runs["fp32"]}
        assert run["DRAM bits over the run"] == totals[name].dram_bits
        assert "tiling" in {step.what for step in explanation.sections[0].explained}
    assert "-stationary" in render(document(job, "head.logits.dw"), "table")


def test_json_has_decimal_strings_and_the_same_steps():
    args = ("iwslt17-dsq", Q, "--policy", "dsq", "--hardware", "h100-sxm")
    data = json.loads(costsim("explain", *args, "--format", "json"))
    assert list(data) == ["workload", "baseline", "convention", "op", "about", "counted_in_scope", "policies"]
    [policy] = data["policies"]
    assert (data["op"], policy["policy"], len(policy["phases"])) == (Q, "dsq", 3)
    for phase in policy["phases"]:
        for step in phase["explanation"]:
            assert list(step) == ["what", "formula", "values", "result", "unit", "source"]
            if step["unit"] in ("MAC", "bit", "op", "bit^2"):
                assert re.fullmatch(r"\d+", step["result"])
            if step["unit"] in ("s", "J"):
                assert isinstance(step["result"], (int, float, str))
    text = costsim("explain", *args)
    assert costsim("explain", *args) == text
    for step in policy["run"]:
        assert f"{step['what']}: {step['result']} {step['unit']}" in text or step["unit"] in ("s", "J")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encoder.0.self_attn.q", "did you mean encoder.0.self_attention.q, "),
        ("ffn.fc9", "did you mean "),
        ("dram_redction", "totals: macs, "),
        ("", "unknown op ''"),
        ("no.such.cast", "unknown op"),
        ("embedding.source_dropout@operand.bfp3.model.stored.cast", "unknown op"),
        ("x" * 5000, "unknown op"),
        ("\x1b[31m.q", "unknown op"),
    ],
)
def test_unknown_names_are_told_the_nearest(name, message):
    result = RUNNER.invoke(main, ["explain", "iwslt17-dsq", name, *[o for its in SMALL for o in ("--set", its)]])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "\x1b" not in result.stderr


# --- totals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOTALS)
def test_totals_are_those_of_the_run_and_parts_add_up(name):
    options = {"assignments": SMALL, "hardware": ["h100-sxm"], "scope": "step", "traffic": "fused"}
    job = prepare(Request("iwslt17-dsq", ["dsq", "bfp16"], **options))
    result, sections = explain_total(job, name)
    assert [its.policy for its in sections] == ["dsq", "bfp16"]
    for section, counted in zip(sections, result.policies, strict=True):
        total, spent = counted.total, result.spent[section.policy, "h100-sxm"]
        reductions = total.reductions(result.baseline.total)
        expected = {
            "macs": total.macs,
            "arithmetic_cost": total.arithmetic_cost,
            "dram_bits": total.dram_bits,
            "dram_read_bits": total.read_bits,
            "dram_written_bits": total.written_bits,
            "arithmetic_reduction": reductions.arithmetic_reduction,
            "dram_reduction": reductions.dram_reduction,
            "time_s": spent.time_s,
            "energy_j": spent.energy_j,
            "peak_memory_bytes": of_policy(job.graph, counted.policy, "fused")[1].peak_bytes,
        }[name]
        step = section.explained[-1]
        exact = isinstance(step.result, int)
        assert step.result == (expected if exact else pytest.approx(float(expected), rel=1e-12))
        for explained in section.explained:
            check_formula(explained)
        some = {"arithmetic_reduction", "dram_reduction", "peak_memory_bytes"}
        base = result.baseline.total
        saved = {
            "arithmetic_reduction": (base.arithmetic_cost or 0) - (total.arithmetic_cost or 0),
            "dram_reduction": base.dram_bits - total.dram_bits,
        }
        assert len(section.parts) == (0 if saved.get(name) == 0 else 2 if name in some else 3)
        for parts in section.parts:
            values = [share.value for share in parts.shares]
            whole = saved.get(name, step.result)
            assert sum(values) == (whole if isinstance(whole, int) else pytest.approx(whole, rel=1e-9))
            assert sum(share.share for share in parts.shares) == pytest.approx(1)
            assert len(values) <= 11
            assert values[:10] == sorted(values[:10], reverse=True)
    text = render(document(job, name), "table")
    assert max(map(len, text.splitlines())) <= 80
    assert json.loads(render(document(job, name), "json"))["total"] == name


def test_totals_that_are_not_defined():
    job = prepare(Request("iwslt17-dsq", ["dsq", "fixed32"], law="msfp", assignments=SMALL, hardware=["tpu-v2"]))
    for name in ("arithmetic_cost", "arithmetic_reduction", "time_s"):
        assert "n/a" in render(document(job, name), "table")
    result = RUNNER.invoke(main, ["explain", "iwslt17-dsq", "time_s"])
    assert (result.exit_code, "--hardware" in result.stderr) == (2, True)
    assert set(COUNTED) < set(TOTALS)


def test_a_device_without_a_buffer_has_no_tiled_time():
    options = {"assignments": SMALL, "traffic": "tiled", "hardware": ["h100-sxm"]}
    job = prepare(Request("iwslt17-dsq", ["fixed16"], **options))
    bare = replace(job.hardware[0], name="bare", on_chip_bytes=None)
    job = replace(job, hardware=(*job.hardware, bare))
    run = {step.what: step.result for step in explain(job, Q).runs["fixed16"]}
    spent = simulate.execute(job).spent
    for name, known in (("h100-sxm", True), ("bare", False)):
        assert (run[f"{name}, time over the run"] is not None) is known
        assert (run[f"{name}, energy over the run"] is not None) is known
        assert (spent["fixed16", name].time_s is not None) is known
    [_, section] = explain_total(job, "time_s")[1]
    assert section.explained[0].result is None
    assert "on_chip_bytes" in section.explained[0].source
