"""Kernels that were measured kind by kind: what they take by their size, and how that is fitted to benches."""

import copy
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import STEPS, shipped_policy
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from costsim.cli import main
from costsim.cost.count import count
from costsim.cost.kernels import compile_kernels
from costsim.devices.compiled import Timed
from costsim.devices.measured import ANY_PRODUCT, QUANTIZE, KernelTimes, elements_of, measured_cast
from costsim.devices.profile import load_hardware
from costsim.devices.roofline import Rates, kernels, spend
from costsim.devices.spent import Spent
from costsim.errors import InputError
from costsim.explain.devices import device_steps
from costsim.formats.named import parse_format
from costsim.formats.quantize import quantize
from costsim.names import VARIED
from costsim.policy.assign import Copy, Transform, assign
from costsim.policy.groups import groups_of, space_of
from costsim.reference import calibrate, kernel_bench
from costsim.reference.engines import NumpyEngine, TorchEngine
from costsim.reference.kernel_bench import Seen
from costsim.reference.numpy_bench import NumpyBench
from costsim.run.job import Request, prepare

PROFILE = """\
schema_version: 1
description: made up
memory: none
rates:
- {operands: [fp32, fp32], accumulator: fp32, mac_per_s: 1000000000, source: [us]}
- {operands: [bf16, bf16], accumulator: fp32, mac_per_s: 4000000000, source: [us]}
vector_op_per_s: {value: 1000000000, source: [us]}
dram_bytes_per_s: {value: 1000000000, source: [us]}
dram_bytes: unknown
on_chip_bytes: unknown
launch_s: {value: 1.0e-5, source: [us]}
sources: {us: us}
"""
PRODUCT = {"kind": ANY_PRODUCT, "launch_s": 2e-6, "s_per_mac": 3e-9, "s_per_element": [1e-9, 2e-9, 4e-9], "spread": 0.1}
SOFTMAX = {"kind": "softmax", "launch_s": 1e-6, "sizes": [{"elements": 100, "s": 1e-6}, {"elements": 300, "s": 5e-6}]}


def profile(tmp_path, *entries):
    path = tmp_path / "measured.yaml"
    entries = [copy.deepcopy({"spread": 0.2, "source": ["us"], **entry}) for entry in entries]
    path.write_text(PROFILE + yaml.safe_dump({"kernels": entries}))
    return load_hardware(str(path))


def all_kinds(graph):
    """Figures of every kind of a graph, each of its own, so that none can stand for another."""
    kinds = sorted({op.kind.name for op in graph.ops if not op.kind.is_contraction})
    points = [{"elements": 50, "s": 1e-7}, {"elements": 5000, "s": 3e-6}]
    return [PRODUCT] + [
        {"kind": kind, "launch_s": 1e-7 * (1 + i), "sizes": [{**p, "s": p["s"] * (1 + i)} for p in points]}
        for i, kind in enumerate(kinds)
    ]


def step_of(graph, policy, traffic="unfused"):
    return kernels(graph, count(graph, assign(graph, policy), traffic), traffic, "step")


# --- what a kernel takes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("elements", "seconds"), [(50, 0.5e-6), (100, 1e-6), (200, 3e-6), (300, 5e-6), (600, 10e-6)])
def test_seconds_are_straight_between_sizes_and_in_proportion_beyond(elements, seconds):
    times = KernelTimes(1e-6, 0.0, (), ((100, 1e-6), (300, 5e-6)), 0.0)
    assert math.isclose(times.memory_s([elements]), seconds)
    assert math.isclose(times.memory_s([elements - 10, 10]), seconds)


def test_a_product_takes_what_its_figures_say(tmp_path):
    """In fp32: launch, MACs and elements; in bf16 the MACs by the rates, the traffic by the bits."""
    graph = STEPS["decoder"](micro_batches=2)
    device = profile(tmp_path, *all_kinds(graph))
    for policy, name, faster, narrower in (("fp32", "fp32", 1, 1), ("bf16-mixed", "bf16", 4, 2)):
        found = 0
        gemms = [k for k in step_of(graph, shipped_policy(policy)) if k.rows[0].cast is None and k.rows[0].gemm]
        for kernel in gemms:
            row = kernel.rows[0]
            if {row.pair[0].name, row.pair[1].name} != {name} or any(move.copy for move in row.moves):
                continue
            found += 1
            of = elements_of(graph, row.ops[0])
            wide = sum(move.read_bits + move.written_bits for move in row.moves) / (32 * sum(of) * kernel.runs)
            each = sum(n * s for n, s in zip(of, (1e-9, 2e-9, 4e-9), strict=True))
            expected = kernel.runs * 2e-6 + row.macs * 3e-9 / faster + kernel.runs * each * wide
            spent = spend(kernel, device)
            assert math.isclose(spent.time_s, expected)
            assert math.isclose(spent.spread_s, 0.1 * expected)
            assert not spent.not_measured
            assert 1 / narrower <= wide <= 1
        assert found > 5


def test_masks_take_what_was_measured_of_masks(tmp_path):
    """They are bytes in what was measured too: in fp32 nothing is scaled, whatever an op reads and writes."""
    graph = STEPS["decoder"](micro_batches=1, dropout=0.5)
    device, found = profile(tmp_path, *all_kinds(graph)), set()
    for kernel in step_of(graph, shipped_policy("fp32")):
        row = kernel.rows[0]
        touches_masks = any(graph.tensors[name].values == "mask" for name in (*row.ops[0].inputs, *row.ops[0].outputs))
        if len(kernel.rows) > 1 or row.gemm or not touches_masks:
            continue
        times = dict(device.kernels)[row.kind]
        one_s = times.launch_s + times.memory_s(elements_of(graph, row.ops[0]))
        assert math.isclose(spend(kernel, device).time_s, kernel.runs * one_s)
        found.add(row.kind)
    assert found >= {"bernoulli", "dropout"}


def test_a_roofline_stands_in_for_kinds_that_were_not_measured(tmp_path):
    graph = STEPS["decoder"](micro_batches=1)
    some, plain = profile(tmp_path, SOFTMAX), load_hardware("t4")
    lacking = set()
    for kernel in step_of(graph, shipped_policy("fp32")):
        spent = spend(kernel, some)
        assert bool(spent.not_measured) == (kernel.rows[0].kind != "softmax")
        lacking |= spent.not_measured
        assert not spend(kernel, plain).not_measured
    assert "layer_norm" in lacking
    assert "softmax" not in lacking


def test_quantize_kernels_keep_their_roofline(tmp_path):
    graph = STEPS["decoder"](micro_batches=1)
    device = profile(tmp_path, *all_kinds(graph))
    casts = [k for k in step_of(graph, shipped_policy("fp8-current")) if k.rows[0].cast is not None]
    assert casts
    bare = profile(tmp_path)
    for kernel in casts:
        assert spend(kernel, device).time_s == spend(kernel, bare).time_s
        assert spend(kernel, device).not_measured == {f"quantize {kernel.rows[0].cast.copy.format.name}"}


def quantizing(name, times=1):
    """Figures of quantize kernels to a format."""
    points = [{"elements": 100, "s": times * 2e-6}, {"elements": 10_000, "s": times * 3e-5}]
    return {"kind": QUANTIZE + name, "launch_s": times * 1e-6, "sizes": points}


def test_quantize_kernels_take_what_was_measured_of_their_format(tmp_path):
    """By the elements that are read and made, whatever bits these have: of one run, as often as it runs."""
    graph = STEPS["decoder"](micro_batches=2)
    device, found = profile(tmp_path, quantizing("bf16")), 0
    for kernel in step_of(graph, shipped_policy("bf16-mixed")):
        row = kernel.rows[0]
        if row.cast is None:
            continue
        elements, spent = 2 * graph.elements(graph.tensors[row.result(row.ops[0])].dims), spend(kernel, device)
        one_s = 1e-6 + float(np.interp(elements, (0, 100, 10_000), (0, 2e-6, 3e-5)))
        assert elements < 10_000
        assert math.isclose(spent.time_s, kernel.runs * one_s)
        assert math.isclose(spent.spread_s, 0.2 * spent.time_s)
        assert not spent.not_measured
        found += 1
    assert found > 5


@pytest.mark.parametrize(
    ("name", "standing"),
    [
        ("bf16", "bf16"),
        ("tf32", "bf16"),  # 19 bits are nearer to 16 than to 8
        ("fp8-e5m2", "fp8-e4m3"),
        ("fp8-e4m3-tensor", None),
        ("bf16-sr", None),
        ("bfp4", "bfp8"),
        ("bfp16", "bfp8"),
        ("bfp4-box32", None),
        ("int4", "int8"),
        ("int8-row", None),
        ("nf4", None),
    ],
)
def test_a_format_stands_for_those_that_numbers_are_rounded_to_alike(name, standing, tmp_path):
    made = Copy(None, parse_format(name), (0,), "stored", False, "", "operand")
    kernels = dict(profile(tmp_path, *map(quantizing, ("bf16", "fp8-e4m3", "int8", "bfp8"))).kernels)
    assert measured_cast(made, kernels) is kernels.get(f"{QUANTIZE}{standing}")


def test_a_transform_on_the_way_was_not_measured(tmp_path):
    kernels = dict(profile(tmp_path, quantizing("bf16")).kernels)
    made = Copy(None, parse_format("bf16"), (0,), "stored", False, "", "operand", Transform(16, 0))
    assert measured_cast(made, kernels) is None


@pytest.mark.parametrize("traffic", ["unfused", "fused"])
@pytest.mark.parametrize("family", sorted(STEPS))
def test_compiled_and_explained_times_are_the_same(family, traffic, tmp_path):
    """Three ways to a time: a kernel at a time, in tables for all policies, step by step."""
    graph, policy = STEPS[family](micro_batches=2), shipped_policy("bf16-mixed")
    device = profile(tmp_path, *all_kinds(graph), quantizing("fp16", 7))  # in which bf16 is rounded alike
    space = space_of(policy, groups_of(graph, policy, ("role", "gemm", "operand"), VARIED), ("bf16", "fp32"))
    compiled = Timed(compile_kernels(graph, space, traffic, "step", ("gemms", ())), device, True).time()
    for choice in ([0] * len(space.sizes), [1] * len(space.sizes), [i % 2 for i in range(len(space.sizes))]):
        step = step_of(graph, space.point(dict(enumerate(choice))), traffic)
        rates = Rates(device)
        whole = sum((kernel.number * spend(kernel, device, True, rates) for kernel in step), Spent())
        assert math.isclose(compiled.one(choice), whole.time_s, rel_tol=1e-9)
    assert any(kernel.rows[0].cast is not None for kernel in step)
    for kernel in step:
        explained = {s.what.partition(", ")[2]: s.result for s in device_steps(kernel, device, True)}
        assert math.isclose(explained["time"], spend(kernel, device).time_s, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"kind": "softmx", "launch_s": 0, "sizes": SOFTMAX["sizes"]},
            "kernels.0.kind: unknown kind of op 'softmx'; did you mean 'softmax'",
        ),
        ({"kind": "quantize bf17", "launch_s": 0, "sizes": SOFTMAX["sizes"]}, "kernels.0.kind: unknown format 'bf17'"),
        ({"kind": "quantize int8", "launch_s": 0}, "kernels.0.sizes: expected at least one size"),
        ({"kind": "softmax", "launch_s": 0}, "kernels.0.sizes: expected at least one size: softmax is no product"),
        ({"kind": "ab,bc->ac", "launch_s": 0}, "kernels.0.s_per_element: expected 3 numbers"),
        ({"kind": "softmax", "launch_s": -1, "sizes": SOFTMAX["sizes"]}, "kernels.0.launch_s: expected at least 0"),
        (
            {"kind": "softmax", "launch_s": 0, "sizes": SOFTMAX["sizes"][::-1]},
            "kernels.0.sizes.1.elements: expected more than the 300 before it",
        ),
    ],
)
def test_bad_kernels(entry, message, tmp_path):
    with pytest.raises(InputError) as caught:
        profile(tmp_path, entry)
    assert message in str(caught.value)


def test_a_kind_that_comes_twice(tmp_path):
    with pytest.raises(InputError, match=r"a second entry of softmax, after kernels\.0"):
        profile(tmp_path, SOFTMAX, SOFTMAX)


# --- the fit ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(0.01, 100), min_size=3, max_size=3), min_size=3, max_size=12))
def test_least_squares_are_those_of_lawson_and_hanson(rows):
    ours = np.array(kernel_bench.least_squares(rows))
    matrix = np.array(rows)
    assert (ours >= 0).all()
    _, missed = nnls(matrix, np.ones(len(rows)))
    assert np.linalg.norm(matrix @ ours - 1) <= missed + 1e-6


def seen(kind, product, macs, elements, seconds):
    return Seen(kind, product, macs, elements, (seconds,) * 4)


def test_what_kernels_take_by_a_law_is_found_again():
    """Benches of kernels that take exactly launch + MACs + elements: the fit has these figures, and no spread."""
    shapes = [(8, 16, 32), (64, 64, 64), (512, 64, 128), (128, 512, 64), (1024, 256, 512), (32, 1024, 2048)]
    law = [(m * n * k, (m * k, k * n, m * n)) for m, n, k in shapes]
    taken = [5e-6 + 2e-11 * macs + 1e-10 * x + 3e-10 * w + 2e-10 * y for macs, (x, w, y) in law]
    rows = [seen("ab,bc->ac", True, macs, of, s) for (macs, of), s in zip(law, taken, strict=True)]
    others = [seen("relu", False, 0, (n, n), 2e-6 + 1e-9 * 2 * n) for n in (10, 1000, 100_000)]
    fitted = kernel_bench.fit([*rows, *others])
    assert set(fitted) == {"ab,bc->ac", ANY_PRODUCT, "relu"}
    product, relu = fitted["ab,bc->ac"], fitted["relu"]
    assert math.isclose(product.launch_s, 5e-6, rel_tol=1e-6)
    assert math.isclose(product.mac_s, 2e-11, rel_tol=1e-6)
    assert np.allclose(product.element_s, (1e-10, 3e-10, 2e-10), rtol=1e-5)
    assert math.isclose(relu.launch_s, 2e-6, rel_tol=1e-6)
    assert math.isclose(relu.launch_s + relu.memory_s((25_000, 25_000)), 2e-6 + 5e-5, rel_tol=1e-6)
    assert max(times.spread for times in fitted.values()) < 1e-6


def test_more_never_takes_less():
    rows = [seen("relu", False, 0, (n,), s) for n, s in ((10, 1e-5), (1000, 9e-6), (100_000, 5e-6), (10**7, 1e-3))]
    times = kernel_bench.fit(rows)["relu"]
    taken = [times.memory_s((n,)) for n in (10, 500, 1000, 50_000, 10**5, 10**6, 10**7, 10**8)]
    assert taken == sorted(taken)
    assert times.launch_s >= 0


def test_spread_is_that_of_the_runs():
    rows = [Seen("relu", False, 0, (n,), (0.9 * n, 0.95 * n, 1.0 * n, 1.05 * n, 1.1 * n)) for n in (10, 1000)]
    assert math.isclose(kernel_bench.fit(rows)["relu"].spread, 0.05, rel_tol=1e-6)


# --- benches ----------------------------------------------------------------------------------------------------------


class Clock:
    """Time passes by what the engine was seen to do."""

    def __init__(self):
        self.now, self.disturbed = 0.0, 0

    def __call__(self):
        self.now += 1e-4
        return self.now


def test_every_kind_of_a_step_is_timed_at_every_size(few):
    job, clock, ticks = prepare(Request("gpt2-small")), Clock(), []
    steps = kernel_bench.graphs([job])
    found = kernel_bench.see(NumpyEngine(clock), steps, 0.01, clock, lambda: ticks.append(1))
    kinds = {op.kind.name for op in steps[0].ops if not op.kind.view}
    assert {each.kind for each in found} == kinds
    assert len(ticks) == len(found) == kernel_bench.work_to_do(steps)
    assert len({(each.kind, each.elements, each.macs) for each in found}) == len(found)
    assert all(len(each.seconds) >= 4 for each in found)
    assert [graph.sizes["model"] for graph in steps] == [8, 12]


class Quantizer(NumpyEngine):
    """Quantizes in no time but what a law says."""

    def quantizer(self, format, x):
        def task():
            self._clock.now += 2e-5 + (3e-9 if format == "int8" else 5e-9) * 2 * x.size

        return task


def test_quantize_kernels_are_timed_and_take_as_long_at_other_sizes(few):
    clock, ticks = Clock(), []
    found = kernel_bench.see(Quantizer(clock), [], 0.01, clock, lambda: ticks.append(1), ("int8", "bfp8"))
    assert len(ticks) == len(found) == kernel_bench.work_to_do([], ("int8", "bfp8"))
    fitted = kernel_bench.fit(found)
    assert set(fitted) == {"quantize int8", "quantize bfp8"}
    for kind, each_s in (("quantize int8", 3e-9), ("quantize bfp8", 5e-9)):
        for n in (30_000, 300_000, 3_000_000, 30_000_000):
            assert n not in {rows * columns for rows, columns in kernel_bench.QUANTIZED}
            expected = 1e-4 + 2e-5 + each_s * 2 * n  # and one look at the clock
            assert math.isclose(fitted[kind].seconds(0, (n, n)), expected, rel_tol=1e-6)


def test_the_reference_quantizes_to_each_format_that_is_timed():
    x = np.linspace(-3, 3, 64, dtype=np.float32).reshape(2, 32)
    engine = NumpyEngine()
    for name in engine.quantizes:
        assert (engine.quantizer(name, x)() == quantize(x, parse_format(name))).all()


@pytest.mark.parametrize("name", kernel_bench.WORKLOADS)
def test_steps_of_other_sizes_run(name, few):
    """Whatever dims a family has, those of benches go together."""
    steps = kernel_bench.graphs([prepare(Request(name))])
    assert kernel_bench.see(NumpyEngine(), steps[:1], 0.0, Clock(), lambda: None)


def test_a_profile_with_kernels_is_read_and_used(few, tmp_path):
    bench = NumpyBench()
    bench.sizes = calibrate.Sizes(copy_bytes=4096, vector_elements=(16, 64), gemm=(2, 4, 8))
    job = prepare(Request("gpt2-small"))
    measured = calibrate.Kernels(NumpyEngine(), kernel_bench.graphs([job]), ("int8",))
    text = calibrate.calibrate(bench, 0.0, kernels=measured)
    path = tmp_path / "here.yaml"
    path.write_text(text)
    kinds = dict(load_hardware(str(path)).kernels)
    assert {"softmax", "adamw", ANY_PRODUCT, "quantize int8"} <= set(kinds)
    arguments = ["run", "gpt2-small", "--policy", "fp32", "--hardware", str(path), "--set", "model.layers=2"]
    done = CliRunner().invoke(main, [*arguments, "--format", "json"])
    assert done.exit_code == 0, done.output
    [record] = [each["hardware"]["here"] for each in json.loads(done.output)["rows"]]
    assert record["time_s"] > 0
    assert record["time_spread_s"] > 0
    shown = CliRunner().invoke(main, arguments)
    assert "kinds of kernels measured" in shown.output
    assert "times may be off" in shown.output


def test_a_bench_on_a_cuda_device_waits_before_it_looks_at_the_clock():
    """Each run that counts: caches filled, the device idle, the clock, the task, the device idle, the clock."""
    done = []
    filling = SimpleNamespace(add_=lambda n: done.append("fill"))
    cuda = SimpleNamespace(get_device_name=lambda: "Nothing", synchronize=lambda: done.append("wait"))
    fake = SimpleNamespace(__version__="2", cuda=cuda, zeros=lambda n, device: (done.append(device), filling)[1])
    now = iter(range(100))

    def clock():
        done.append("clock")
        return float(next(now))

    seconds = kernel_bench.time_op(lambda: done.append("task"), TorchEngine(fake, "cuda"), clock, 0.0)
    assert seconds[0] == 1.0
    assert done[:3] == ["task", "wait", "clock"]
    run = ["fill", "wait", "clock", "task", "wait", "clock"]
    assert done[3] == "cuda"  # where the filling is made
    assert done[4:10] == run
    assert done[10 : 10 + len(run)] == run
