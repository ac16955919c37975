"""Measuring this machine: the profile that is written, efficiency by size, predicted beside measured time."""

import datetime
import itertools
import json
import os
import sys

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import decoder_step, shipped_policy

from costsim.cli import main
from costsim.cost.count import count
from costsim.devices.profile import load_hardware
from costsim.devices.roofline import kernels, spend
from costsim.errors import InputError
from costsim.policy.assign import assign
from costsim.reference import calibrate, engines, measure, shrink
from costsim.reference.bench import Sizes
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import Executor
from costsim.reference.numpy_bench import NumpyBench
from costsim.run.job import Request, prepare
from costsim.tables.styles import render
from costsim.tables.validation import time_document

TINY = Sizes(copy_bytes=4096, vector_elements=(16, 64), gemm=(2, 4, 8))
# Two layers of few numbers; the shipped file has what no test should wait for.
SMALL = [
    "model.d_model=16",
    "model.ffn_dim=32",
    "model.heads=2",
    "model.vocab=50",
    "model.max_positions=40",
    "batch.sequences=4",
    "batch.tokens=32",
]


@pytest.fixture
def bench():
    bench = NumpyBench()
    bench.sizes = TINY
    return bench


@pytest.fixture
def tiny(few, monkeypatch):
    """The command measures small arrays."""
    monkeypatch.setattr(NumpyBench, "__init__", _tiny_init(NumpyBench.__init__))


def _tiny_init(init):
    def made(self):
        init(self)
        self.sizes = TINY

    return made


def invoke(*arguments, code=0):
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == code, done.output
    return done


# --- timing -----------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass only as tasks say."""

    def __init__(self, *durations):
        self.now, self.durations = 0.0, itertools.cycle(durations)

    def __call__(self):
        return self.now

    def task(self):
        self.now += next(self.durations)


def test_the_figure_is_the_median_of_samples_and_the_first_run_does_not_count():
    clock = Clock(100.0, 1.0, 2.0, 3.0, 10.0)  # the first warms up, the second says how many to time together
    timed = calibrate.time_task(clock.task, lambda: None, clock, budget_s=0)
    assert timed.samples == (2.0, 3.0, 10.0)
    assert timed.median_s == 3.0
    assert timed.quartiles_s == (2.5, 6.5)


def test_short_tasks_are_timed_together_for_the_time_that_there_is():
    clock = Clock(2**-12)
    timed = calibrate.time_task(clock.task, lambda: None, clock, budget_s=2**-5)
    assert set(timed.samples) == {2**-12}
    runs = round(clock.now * 2**12)
    assert (runs - 2) % 5 == 0  # 5 x 2^-12 s is the first above a millisecond
    assert (runs - 2) // 5 == len(timed.samples)
    assert 2**-5 <= clock.now <= 2**-5 + 8 * 2**-12


def test_a_clock_that_stands_still_ends_too():
    timed = calibrate.time_task(lambda: None, lambda: None, lambda: 0.0, budget_s=1)
    assert len(timed.samples) == 200
    assert timed.median_s > 0


# --- the profile ------------------------------------------------------------------------------------------------------


def exactly(bench, launch=0.0, copy=1.0, vector=1.0, gemm=None):
    """As if measured: seconds by size, every sample alike."""

    def timed(seconds):
        return calibrate.Timed((seconds,) * 3)

    by_size = {n: timed(seconds) for n, seconds in (gemm or {}).items()}
    return calibrate.Samples(timed(launch), timed(copy), {64: timed(vector)}, {"fp32": by_size} if by_size else {})


def loaded(fields, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    return load_hardware(str(path))


def test_figures_by_hand(bench, tmp_path):
    """A copy of 4096 bytes moves 8192; 4^3 MACs in 2 us, of which the launch takes 1; 64 operations in 3 us."""
    samples = exactly(bench, launch=1e-6, copy=1e-6, vector=3e-6, gemm={2: 1e-6, 4: 2e-6, 8: 3e-6})
    device = loaded(calibrate.profile(samples, bench, TINY, datetime.date(2020, 1, 2)), tmp_path)
    assert device.dram_bytes_per_s == pytest.approx(8192e6)
    assert device.vector_op_per_s == pytest.approx(32e6)
    assert device.launch_s == 1e-6
    [rate] = device.rates
    assert rate.name == "fp32 x fp32 + fp32"
    assert rate.mac_per_s == pytest.approx(512 / 2e-6)
    # 8 MACs in half of 1 us, as no launch takes more than half; 64 in 1 us; 512 in 2 us.
    assert device.gemm_efficiency == ((8, 0.0625), (64, 0.25), (512, 1.0))
    assert "8 x 8 matrices, the fastest; median of 3 samples, middle half 2.56e+08 to 2.56e+08 MAC/s" in rate.source


def test_the_profile_says_when_how_and_with_what_spread(bench, tmp_path):
    samples = exactly(bench, gemm={2: 1.0})
    device = loaded(calibrate.profile(samples, bench, TINY, datetime.date(2020, 1, 2)), tmp_path)
    measured = {"rates.0", "vector_op_per_s", "dram_bytes_per_s", "launch_s", "gemm_efficiency.0"}
    assert measured <= set(device.source)
    for name in measured:
        text = device.source[name]
        assert "costsim calibrate" in text
        assert "on 2020-01-02" in text
        assert "NumPy" in text
        assert "cores" in text
        assert "median of 3 samples, middle half" in text
    assert not device.unverified


def test_a_format_that_does_not_run_is_left_out_and_said(bench, tmp_path):
    bench.accumulators = {"fp32": "fp32", "int8": "int32"}

    def gemm(format, n, known=bench.gemm):
        if format == "int8":
            raise RuntimeError("no such\nproduct")
        return known(format, n)

    bench.gemm = gemm
    ticks = []
    samples = calibrate.measure(bench, 0, tick=lambda: ticks.append(1))
    assert len(ticks) == calibrate.work_to_do(bench)
    fields = calibrate.profile(samples, bench, TINY, datetime.date(2020, 1, 2))
    assert [rate.name for rate in loaded(fields, tmp_path).rates] == ["fp32 x fp32 + fp32"]
    assert "int8 was not measured: no such\\nproduct" in fields["notes"]


def test_a_format_that_a_device_only_emulates_is_timed_in_small_sizes(bench):
    """Else a few runs of the largest take longer than all that there is to measure."""
    clock = Clock(0.0)

    def gemm(format, n):
        def task():
            clock.now += 0.3 * n**3 if format == "bf16" else 2**-12

        return task

    bench.accumulators, bench.gemm = {"fp32": "fp32", "bf16": "fp32"}, gemm
    ticks = []
    samples = calibrate.measure(bench, 60, TINY, clock, lambda: ticks.append(1))
    assert set(samples.gemm["fp32"]) == {2, 4, 8}
    assert set(samples.gemm["bf16"]) == {2}  # of 4 five runs would be 96 s
    assert len(ticks) == calibrate.work_to_do(bench)


def test_nothing_that_runs_is_an_error(bench):
    with pytest.raises(InputError, match="no product of matrices"):
        calibrate.profile(exactly(bench), bench, TINY, datetime.date(2020, 1, 2))


def test_sizes_are_sane(bench):
    sizes = NumpyBench().sizes
    assert sizes.copy_bytes >= 2**20
    assert list(sizes.gemm) == sorted(sizes.gemm)


# --- efficiency by size -----------------------------------------------------------------------------------------------

CURVE = """\
gemm_efficiency:
  - {macs: 100, value: 0.2, source: [us]}
  - {macs: 10000, value: 0.6, source: [us]}
  - {macs: 1000000, value: 0.5, source: [us]}
"""


def with_curve(tmp_path, text=CURVE, more=""):
    path = tmp_path / "curve.yaml"
    path.write_text(
        "schema_version: 1\ndescription: round figures\nmemory: hbm2\nrates:\n"
        "  - {operands: [fp32, fp32], accumulator: fp32, mac_per_s: 1000000000000, source: [us]}\n"
        "vector_op_per_s: unknown\ndram_bytes_per_s: unknown\ndram_bytes: unknown\non_chip_bytes: unknown\n"
        f"sources: {{us: round}}\n{text}{more}"
    )
    return load_hardware(str(path))


@pytest.mark.parametrize(
    ("macs", "part"),
    [(1, 0.2), (100, 0.2), (1000, 0.4), (10**4, 0.6), (10**5, 0.55), (10**6, 0.5), (10**9, 0.5), (0.5, 0.2)],
)
def test_efficiency_is_straight_over_the_logarithm_of_macs(tmp_path, macs, part):
    assert with_curve(tmp_path).mac_part(macs) == pytest.approx(part)
    half = with_curve(tmp_path, more="efficiency: {mac: {value: 0.5, source: [us]}}\n")
    assert half.mac_part(macs) == pytest.approx(part / 2)


def test_without_a_curve_a_peak_is_a_peak(tmp_path):
    assert with_curve(tmp_path, text="").mac_part(1) == 1.0


def test_time_uses_the_efficiency_of_one_run(tmp_path):
    """The output layer, 3 micro-batches of 2 x 6 tokens, 16 wide, 11 words: 2112 MACs a run, not 6336."""
    graph = decoder_step(batch={"sequences": 2, "tokens": 6}, tied=False, d_model=16, micro_batches=3)
    rows = count(graph, assign(graph, shipped_policy("fp32")))
    [head] = [k for k in kernels(graph, rows, "unfused", "step", each=True) if k.first[1].name == "head.logits"]
    device = with_curve(tmp_path)
    assert head.rows[0].macs == 3 * 2112
    assert spend(head, device).mac_s == pytest.approx(3 * 2112 / (1e12 * device.mac_part(2112)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gemm_efficiency: [{macs: 8, value: 0.5}]", "gemm_efficiency.0.source: missing"),
        ("gemm_efficiency: [{macs: 8, value: 0.5, source: [you]}]", "'you' is not in sources"),
        ("gemm_efficiency: [{macs: 8, value: 1.5, source: [us]}]", "gemm_efficiency.0.value: expected at most 1"),
        ("gemm_efficiency: [{macs: 0, value: 0.5, source: [us]}]", "gemm_efficiency.0.macs: expected at least 1"),
        (
            "gemm_efficiency: [{macs: 8, value: 0.5, source: [us]}, {macs: 8, value: 0.6, source: [us]}]",
            "gemm_efficiency.1.macs: expected more than the 8 before it, got 8",
        ),
    ],
)
def test_bad_curves(tmp_path, text, message):
    with pytest.raises(InputError, match=r"curve\.yaml:") as wrong:
        with_curve(tmp_path, text + "\n")
    assert message in str(wrong.value)


# --- the command ------------------------------------------------------------------------------------------------------


def test_calibrate_writes_a_profile_that_runs_take(tiny, tmp_path):
    path = tmp_path / "my-machine.yaml"
    assert invoke("calibrate", "--seconds", "0", "--out", str(path)).stdout.strip() == str(path)
    device = load_hardware(str(path))
    assert device.name == "my-machine"
    assert [macs for macs, _ in device.gemm_efficiency] == [8, 64, 512]
    assert max(value for _, value in device.gemm_efficiency) == 1.0
    assert device.launch_s > 0
    assert "fp32" in invoke("run", "glue-mrpc-dsq", "--policy", "fp32", "--hardware", str(path)).stdout


def test_calibrate_prints_without_out(tiny):
    assert yaml.safe_load(invoke("calibrate", "--seconds", "0").stdout)["schema_version"] == 1


def no_bench(*_):
    raise AssertionError("measured before the error was found")


@pytest.mark.parametrize("where", ["/dev/null/my.yaml", ".", ""])
def test_a_file_that_cannot_be_written_is_an_error_before_measuring(where, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "open_bench", no_bench)
    monkeypatch.chdir(tmp_path)
    done = invoke("calibrate", "--out", where, code=2)
    assert done.stderr.startswith("costsim: ")
    assert done.stderr.count("\n") == 1
    assert not os.listdir(tmp_path)


@pytest.fixture
def no_torch(monkeypatch):
    """As if PyTorch were not installed, whether it is or not."""
    monkeypatch.setitem(sys.modules, "torch", None)


class NoCuda:
    """As much of PyTorch as is asked for on a machine without a CUDA device."""

    class cuda:
        is_available = staticmethod(lambda: False)


MEASURE = ("validate", "gpt2-small", "--measure")


@pytest.mark.parametrize("command", [("calibrate",), MEASURE])
@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (("--engine", "torch"), "--engine torch"),
        (("--device", "cuda"), "--device cuda"),
        (("--engine", "torch", "--device", "cuda"), "--engine torch"),
    ],
)
def test_without_torch(command, options, asked, no_torch):
    expected = f"costsim: {asked}: PyTorch is not installed; pip install 'costsim[torch]'\n"
    assert invoke(*command, *options, code=2).stderr == expected


@pytest.mark.parametrize("command", [("calibrate",), MEASURE])
def test_without_a_device(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", NoCuda)
    expected = "costsim: --device cuda: PyTorch finds no CUDA device\n"
    assert invoke(*command, "--device", "cuda", code=2).stderr == expected
    expected = "costsim: --device cuda: NumPy has none; --engine torch has\n"
    assert invoke(*command, "--device", "cuda", "--engine", "numpy", code=2).stderr == expected


@pytest.mark.parametrize("option", [("--engine", "numpy"), ("--device", "cpu")])
def test_engines_are_of_measure(option):
    expected = f"costsim: {option[0]}: only --measure compares times\n"
    assert invoke("validate", "gpt2-small", *option, code=2).stderr == expected


# --- predicted beside measured ----------------------------------------------------------------------------------------


def small(name="gpt2-small", *more):
    return prepare(Request(name, assignments=[*SMALL, *more]))


def test_the_copy_keeps_widths_and_cuts_the_rest():
    copy, fields = shrink.moderate(prepare(Request("gpt2-small")))
    model, batch = copy.file.model, copy.document.data["batch"]
    assert (model["layers"], model["d_model"], model["vocab"]) == (2, 768, 50264)
    assert copy.graph.micro_batches == 1
    assert model["attention"] == "eager"  # NumPy runs it op by op
    assert shrink.macs_of(copy.graph) <= shrink.MOST_MACS
    assert batch["sequences"] == 1
    assert {"model.layers=2", "batch.sequences=1", "training.micro_batches=1"} <= set(fields)


def test_lengths_are_halved_once_there_is_one_sequence():
    job = prepare(Request("iwslt17-dsq"))
    copy, _ = shrink.moderate(job, most_macs=1)
    batch, before = copy.document.data["batch"], job.document.data["batch"]
    assert batch["sequences"] == 1
    for name in ("source_tokens", "target_tokens"):
        assert 16 <= batch[name] < 32
        assert before[name] % batch[name] < before[name]


def test_what_is_small_enough_stays():
    copy, fields = shrink.moderate(small("glue-mrpc-dsq", "model.layers=1"))
    assert fields == ()
    assert copy.document.data["batch"]["sequences"] == 4


def test_every_op_is_timed_and_predicted(bench):
    job = small()
    graph = shrink.moderate(job)[0].graph
    ticks = itertools.count()
    engine = engines.NumpyEngine(clock=lambda: float(next(ticks)))
    timing = measure.measure(job, calibrate.device_here(bench=bench, seconds=0), steps=2, engine=engine)
    # The clock moves by one at each look, so every run of an op takes a second.
    assert timing.total.measured_s == len(graph.ops) == timing.total.runs
    assert timing.totals_s == (len(graph.ops),) * 2
    assert {kind.kind: kind.measured_s for kind in timing.kinds} == {kind.kind: kind.runs for kind in timing.kinds}
    assert sum(kind.runs for kind in timing.kinds) == timing.gemms.runs + timing.others.runs == timing.total.runs
    assert timing.total.macs == timing.gemms.macs == shrink.macs_of(graph)
    assert timing.total.predicted_s == pytest.approx(sum(kind.predicted_s for kind in timing.kinds))
    assert timing.total.error_percent == pytest.approx(100 * (timing.total.predicted_s / len(graph.ops) - 1))


def test_the_clock_changes_no_number():
    graph = decoder_step(dropout=0.1)
    rng = np.random.default_rng(0)
    weights, batches = draw_weights(graph, rng), [draw_batch(graph, rng)]
    ticks = itertools.count()
    executors = Executor(graph), Executor(graph, clock=lambda: float(next(ticks)))
    plain, timed = (executor.step(weights, batches) for executor in executors)
    assert plain.losses == timed.losses
    for name in plain.values:
        np.testing.assert_array_equal(plain.values[name], timed.values[name])
    assert all(record.seconds == 0 for record in plain.measured.values())
    assert all(timed.measured[op.name].seconds == 1 for op in graph.ops)


def test_memory_that_is_not_there_is_an_error(monkeypatch, bench):
    sizes = {"SC_AVPHYS_PAGES": 1, "SC_PAGE_SIZE": 4096}
    device = calibrate.device_here(bench=bench, seconds=0)
    monkeypatch.setattr(os, "sysconf", lambda name: sizes[name])
    with pytest.raises(InputError, match="bytes of memory, 4096 are free"):
        measure.measure(small(), device)


def fields(*more):
    return [part for text in (*SMALL, *more) for part in ("--set", text)]


def test_validate_measure_prints_kinds_and_sums(tiny):
    text = invoke("validate", "gpt2-small", "--measure", *fields()).stdout
    lines = text.splitlines()
    for name in ("adamw", "softmax", "GEMMs", "others", "total"):
        assert any(line.startswith(name) for line in lines), name
    assert "predicted ms" in text
    assert "this-machine: fp32 x fp32 + fp32" in text
    assert all(len(line) <= 120 for line in lines)


def test_validate_measure_as_json():
    text = invoke("validate", "gpt2-small", "--measure", "--hardware", "t4", "--format", "json", *fields()).stdout
    data = json.loads(text)
    record = {"kind", "runs", "macs", "vector_ops", "dram_bits", "bound", "predicted_s", "measured_s", "error_percent"}
    for sums in (data["total"], data["gemms"], data["others"], *data["kinds"]):
        assert set(sums) == record
        assert sums["measured_s"] >= 0
    assert data["hardware"]["name"] == "t4"
    assert data["engine"].split(",")[0] == f"NumPy {np.__version__}"  # behind that, where freed memory is kept
    assert data["steps"] == len(data["totals_s"]) == measure.STEPS
    assert data["fields"][0] == "model.layers=2"
    assert data["total"]["predicted_s"] > 0


def test_what_a_profile_lacks_is_not_predicted(tmp_path):
    device = with_curve(tmp_path)
    timing = measure.measure(small(), device, steps=1)
    assert timing.total.predicted_s is None
    assert timing.total.error_percent is None
    assert json.loads(render(time_document(timing), "json"))["total"]["predicted_s"] is None
    assert "n/a" in render(time_document(timing), "table")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--measure", "--policy", "dsq"], "--policy"),
        (["--measure", "--traffic", "fused"], "--traffic"),
        (["--measure", "--steps", "2"], "--measure"),
        (["--measure", "--hardware", "t4", "--hardware", "v100"], "--measure"),
        (["--hardware", "t4"], "--hardware"),
        (["--measure", "--hardware", "nothing"], "hardware profile"),
    ],
)
def test_options_that_do_not_go_together(arguments, what):
    assert invoke("validate", "gpt2-small", *arguments, code=2).stderr.startswith(f"costsim: {what}")
