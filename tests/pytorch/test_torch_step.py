"""The step in PyTorch beside the reference: every op on the same inputs, and whole steps."""

import itertools
import json
import zlib
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import pytest
import test_ops
import torch
from click.testing import CliRunner
from conftest import MORE_STEPS, STEPS, adamw
from test_pointwise import EQUATIONS, kind_and_run

from costsim.cli import main
from costsim.devices.measured import ANY_PRODUCT, QUANTIZE
from costsim.devices.profile import load_hardware
from costsim.errors import InputError
from costsim.formats.named import parse_format
from costsim.formats.quantize import quantize
from costsim.graph.ops import OPS
from costsim.reference import calibrate, engines, kernel_bench, measure, torch_bench, torch_compiled, torch_step
from costsim.reference.bench import Sizes
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.numpy_ops import run_op, runtime
from costsim.reference.shrink import moderate
from costsim.reference.torch_kernels.products import contract
from costsim.reference.torch_kernels.table import KERNELS, kernel_of
from costsim.run.job import Request, prepare

torch.set_num_threads(1)  # the tensors are tiny

SEED = 3
SHARED_EXPERTS = {"number": 3, "chosen": 2, "ffn_dim": 5, "dense_layers": (0,)}
SHARED_EXPERTS |= {"shared_ffn_dim": 7, "shared_gate": True}
GROUPED_EXPERTS = {"number": 4, "chosen": 2, "groups": 2, "chosen_groups": 1, "group_score": "top2"}
GROUPED_EXPERTS |= {"router": "sigmoid", "correction_bias": True, "scaling": 2.5}
GPT_OSS = {"attention_sinks": True, "swiglu_limit": 0.5, "experts": {"number": 3, "chosen": 2, "bias": True}}
GPT_OSS["experts"] |= {"router": "softmax_of_chosen", "router_bias": True}
LATENT = {"kv_heads": None, "head_dim": 6, "rotary_dim": 4}
LATENT |= {"latent": {"kv_rank": 5, "q_rank": 3, "nope_dim": 2, "rope_dim": 4, "value_dim": 3}}
# What the families above do not reach.
MORE = {
    "classifier-gelu": ("encoder-classifier", {"activation": "gelu", "padding_mask": True}),
    "flash": ("decoder", {"attention": "flash", "dropout": 0.1}),
    "by-steps": ("decoder", {"fused_activation": False}),
    "norms-by-steps": ("llama", {"fused_norm": False, "upcast": True}),
    "silu": ("decoder", {"activation": "silu", "attention_dropout": 0.1}),
    "adam": ("encoder-decoder", {"optimizer": adamw(kind="adam", clip_norm=0.05, eps=1e-3), "micro_batches": 3}),
    "bert": ("encoder-classifier", {"task_head": "bert", "dropout": 0.1}),
    "checkpointed": ("llama", {"checkpointing": "full"}),
    "windows": ("llama", {"windows": (2, None)}),
    "gemma-by-steps": ("gemma", {"fused_norm": False, "upcast": True, "fused_activation": False}),
    "chunked-in-place": ("decoder", {"head": {"chunks": 4}, "label_smoothing": 0.1, "micro_batches": 2}),
    "replaced-tokens": ("encoder-classifier", {"task_head": "replaced-token", "classes": None, "embedding_dim": 6}),
    "sgd": ("decoder", {"optimizer": adamw(kind="sgd")}),
    "momentum": ("decoder", {"optimizer": adamw(kind="momentum")}),
    "lion": ("llama", {"optimizer": adamw(kind="lion")}),
    "adafactor": ("llama", {"optimizer": adamw(kind="adafactor", eps=1e-7)}),
    "muon": ("decoder", {"optimizer": adamw(kind="muon", eps=1e-3)}),
    "muon-experts": ("experts", {"optimizer": adamw(kind="muon", eps=1e-3)}),
    "galore": ("decoder", {"optimizer": adamw(kind="galore", rank=3, eps=1e-3)}),
    "soap": ("decoder", {"optimizer": adamw(kind="soap", eps=1e-3)}),
    "shared-experts": ("experts", {"experts": SHARED_EXPERTS}),
    "groups-of-experts": ("experts", {"experts": GROUPED_EXPERTS}),
    "largest-groups": ("experts", {"experts": {**GROUPED_EXPERTS, "group_score": "max"}}),
    "gpt-oss": ("experts", {**GPT_OSS, "attention": "flash"}),
    "gpt-oss-eager": ("experts", GPT_OSS),
    "latent": ("llama", LATENT),
    "images": ("image-classifier", {"label_smoothing": 0.1}),
    "speech": ("speech-recognizer", {"attention": "flash"}),
    "rotary-encoder": ("modernbert", {"dropout": 0.1}),
    "distances": ("deberta", {"dropout": 0.1}),
    "t5": ("encoder-decoder", {"positions": "relative", "relative_buckets": 5, "scale_head": True}),
    "many-experts": ("experts", {"micro_batches": 2, "fused_activation": False}),
}


def made(name):
    if name == "traced":
        return prepare(Request(str(TRACED))).graph
    family, changes = MORE.get(name, (name, {}))
    changes = dict(changes)
    padding = changes.pop("padding_mask", None)
    changes.setdefault("optimizer", adamw(eps=1e-3))  # a key bias's gradient is noise: less is divided by itself
    step = {**STEPS, **MORE_STEPS}[family]
    return step(**changes, **({} if padding is None else {"batch": {"padding_mask": padding}}))


NAMES = [*STEPS, *MORE]
TRACED = Path(__file__).parents[1] / "data" / "traced" / "gpt.yaml"


def drawn(graph, dtype=np.float64):
    rng = np.random.default_rng(SEED)
    weights = draw_weights(graph, rng, dtype)
    return weights, [draw_batch(graph, rng, dtype) for _ in range(graph.micro_batches)]


def compare_op(graph, op, values, key):
    """One op on both sides in float64; the kernels may write into what they are given."""
    inputs = [values.get(name) for name in op.inputs]
    ours, _ = run_op(graph, op, inputs, seed=SEED, step=2, micro=0)
    given = [None if x is None else torch.tensor(x) for x in inputs]
    if op.kind.is_contraction:
        theirs = contract(op.kind.name, *given)
    else:
        theirs = kernel_of(op.kind)(*given, **op.params, **runtime(graph, op, 2, key))
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    for name, x, y in zip(op.outputs, ours, theirs, strict=True):
        assert tuple(y.shape) == graph.shape(name), op.name
        if op.kind.name == "bernoulli":
            assert y.dtype == torch.bool
        else:
            np.testing.assert_allclose(y.numpy(), x, rtol=1e-9, atol=1e-12, err_msg=f"{op.name}: {op.kind.name}")


@pytest.mark.parametrize("name", [*NAMES, "traced"])
def test_every_op(name):
    graph = made(name)
    weights, batches = drawn(graph)
    values = run(graph, weights, batches, seed=SEED).values
    # What an update in place has overwritten: the name of the memory holds the first value that it had.
    values = {**values, **weights}
    key = torch.Generator().manual_seed(0)
    for op in graph.ops:
        compare_op(graph, op, values, key)


@pytest.mark.parametrize("name", EQUATIONS)
def test_every_equation_of_traced_graphs(name):
    equation, params = EQUATIONS[name]
    kind, operands, ours = kind_and_run(name)
    theirs = kernel_of(kind)(*map(torch.tensor, operands), **params, shape=ours.shape)
    assert tuple(theirs.shape) == ours.shape, equation
    np.testing.assert_allclose(theirs.numpy(), ours.astype(float), rtol=1e-6, atol=1e-9, err_msg=equation)


def test_a_traced_graph_trains_as_in_the_reference():
    graph = made("traced")
    weights, batches = drawn(graph)
    step = torch_step.TorchStep(graph, weights, batches)
    step()
    ran = run(graph, weights, batches)
    assert step.losses == pytest.approx(ran.losses, rel=1e-5)
    step()
    assert sum(step.losses) < sum(ran.losses)


# Of a share of a vocabulary or of channels, of what is rounded before it is sent: no graph above has them.
OF_PARTS = sorted(name for name, kind in OPS.items() if kind.run.__module__.endswith((".shares", ".channels")))
OF_PARTS += ["round_to_send", "rounding_error"]


@pytest.mark.parametrize("name", OF_PARTS)
def test_ops_of_parts(name):
    kind = OPS[name]
    operands = test_ops.draw(kind)
    given = {**test_ops.PARAMS.get(name, {}), **test_ops.runtime(kind)}
    ours = test_ops.run(kind, operands)
    theirs = KERNELS[name](*map(torch.tensor, operands), **given)
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(y.numpy(), x, rtol=1e-9, atol=1e-12)


def test_the_graphs_above_have_every_kind_there_is():
    kinds = {op.kind.name for name in [*NAMES, "traced"] for op in made(name).ops}
    kinds |= {"left_vectors", "right_vectors", "orthonormal"}  # of few directions, the rest is noise: test_optimizers
    kinds.update(OF_PARTS)
    assert set(OPS) == set(KERNELS) <= kinds


def test_masks_are_drawn_at_the_rate():
    mask = KERNELS["bernoulli"](rate=0.3, shape=(100, 100), key=torch.Generator().manual_seed(0))
    assert 0.68 < mask.float().mean() < 0.72  # kept; a standard deviation is 0.005


@pytest.fixture
def same_masks(monkeypatch):
    """Masks as the reference draws them in each step."""

    def draw(graph, seed):
        ops = [op for op in graph.ops if op.kind.name == "bernoulli"]
        keys = (
            (seed, step, micro, zlib.crc32(op.original.encode()))
            for step in itertools.count(1)
            for micro in range(graph.micro_batches)
            for op in ops
        )

        def bernoulli(rate, shape, key):
            return torch.tensor(OPS["bernoulli"].run(rate, shape, next(keys)))

        monkeypatch.setitem(KERNELS, "bernoulli", bernoulli)

    return draw


@pytest.mark.parametrize("name", NAMES)
def test_whole_steps(name, same_masks):
    """Losses, and after the update all weights and states, over three steps: float32 on both sides."""
    graph = made(name)
    weights, batches = drawn(graph, np.float32)
    same_masks(graph, SEED)
    step, held = torch_step.TorchStep(graph, weights, batches, seed=SEED), weights
    for number in (1, 2, 3):
        seconds = step()
        done = run(graph, held, batches, seed=SEED, step=number)
        held = {**weights, **done.weights(graph)}
        np.testing.assert_allclose(step.losses, done.losses, rtol=2e-5)
        assert set(seconds) == {op.name for op in graph.ops}
        theirs = step.weights
        assert set(theirs) >= set(held)
        sorts = {}
        for name in held:
            sorts.setdefault(name.rpartition(".")[2], []).append(name)  # weight, bias, m, v
        for part, names in sorts.items():
            off = np.sqrt(sum(np.sum((theirs[name] - held[name]) ** 2.0) for name in names))
            assert off <= 1e-5 * np.sqrt(sum(np.sum(held[name] ** 2.0) for name in names)), (part, number)


# --- time -------------------------------------------------------------------------------------------------------------


class Looks:
    """A watch on which a second passes from look to look."""

    def __init__(self):
        self.number = 0

    def look(self):
        self.number += 1

    def laps(self):
        return [1.0] * (self.number - 1)


def test_every_run_that_is_counted_takes_a_lap(monkeypatch):
    """Also where gradients of micro-batches are summed: the first only starts the sum."""
    monkeypatch.setitem(torch_step.WATCHES, "cpu", Looks)
    graph = made("adam")
    assert graph.micro_batches == 3
    seconds = torch_step.TorchStep(graph, *drawn(graph, np.float32))()
    assert seconds == {op.name: op.times for op in graph.ops}
    assert {op.times for op in graph.ops} == {1, 2, 3}


def test_what_nobody_reads_any_more_is_given_back(monkeypatch):
    graph, most = made("llama"), 0
    step = torch_step.TorchStep(graph, *drawn(graph, np.float32))
    run_one = step._run

    def watched(op, values):
        nonlocal most
        run_one(op, values)
        most = max(most, len(values))
        unread = {graph.root[name] for name in op.inputs} - step._given.keys()
        later = {graph.root[name] for after in graph.ops[op.position + 1 :] for name in after.inputs}
        assert not (unread - later) & values.keys(), op.name

    monkeypatch.setattr(step, "_run", watched)
    step()
    assert most < 0.6 * len({graph.root[name] for name in graph.tensors})


def test_a_watch_on_the_host():
    watch = torch_step.HostWatch()
    for _ in range(3):
        watch.look()
    assert len(watch.laps()) == 2
    assert all(lap >= 0 for lap in watch.laps())


def test_a_watch_on_a_cuda_device(monkeypatch):
    """Events that stand for those of a device: read once it is idle, in milliseconds."""
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            self.at = None

        def record(self):
            self.at = next(times)

        def elapsed_time(self, other):
            assert done, "read before the device was idle"
            return other.at - self.at

    times = iter([5.0, 7.0, 11.0])
    monkeypatch.setattr(
        torch_step, "torch", SimpleNamespace(cuda=SimpleNamespace(Event=Event, synchronize=lambda: done.append(True)))
    )
    watch = torch_step.WATCHES["cuda"]()
    for _ in range(3):
        watch.look()
    assert watch.laps() == [0.002, 0.004]


def test_too_little_memory(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setitem(KERNELS, "layer_norm", full)
    graph = made("decoder")
    with pytest.raises(InputError, match=r"cpu: a step does not fit into memory; --set narrows the model"):
        torch_step.TorchStep(graph, *drawn(graph, np.float32))()
    with pytest.raises(InputError, match=r"cpu: a step does not fit into memory"):
        torch_step.TorchStep(graph, *drawn(graph, np.float32)).show(lambda op, task: None)


# --- the commands -----------------------------------------------------------------------------------------------------

TINY = Sizes(copy_bytes=4096, vector_elements=(64,), gemm=(16, 32))
ARGUMENTS = [
    part
    for text in ("d_model=16", "ffn_dim=32", "heads=2", "vocab=50", "max_positions=40")
    for part in ("--set", f"model.{text}")
] + ["--set", "batch.sequences=4", "--set", "batch.tokens=32"]


@pytest.fixture
def tiny(few, monkeypatch):
    monkeypatch.setattr(torch_bench, "cpu_sizes", lambda: TINY)


def invoke(*arguments):
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_validate_measure(tiny):
    command = ("validate", "gpt2-small", "--measure", "--engine", "torch", *ARGUMENTS)
    text = invoke(*command)
    assert f"measured: PyTorch {torch.__version__}, CPU, 1 threads" in " ".join(text.split())
    data = json.loads(invoke(*command, "--format", "json"))
    assert data["engine"].startswith("PyTorch")
    assert list(data["hardware"]["mac_per_s"]) == ["fp32 x fp32 + fp32"]  # no time is spent on other formats
    assert data["total"]["measured_s"] > 0
    ours = measure.measure(prepare(Request("gpt2-small", assignments=ARGUMENTS[1::2])), load_hardware("t4"), steps=1)
    assert {kind["kind"]: kind["runs"] for kind in data["kinds"]} == {kind.kind: kind.runs for kind in ours.kinds}


def test_calibrate(tiny, tmp_path):
    path = tmp_path / "mine.yaml"
    invoke("calibrate", "--engine", "torch", "--seconds", "0", "--out", str(path))
    device = load_hardware(str(path))
    rates = ["fp32 x fp32 + fp32", "bf16 x bf16 + fp32", "int8 x int8 + int32"]
    assert [rate.name for rate in device.rates] == rates
    assert f"PyTorch {torch.__version__}" in device.source["dram_bytes_per_s"]
    assert "through PyTorch" in device.description


def test_what_each_format_needs_of_pytorch(tmp_path):
    """Formats of CUDA devices too: all but the figures."""
    formats = ("fp32", "tf32", "bf16", "fp16", "fp8-e4m3", "int8")
    bench = torch_bench.TorchBench(torch, "cpu", formats)
    sizes = Sizes(copy_bytes=4096, vector_elements=(64,), gemm=(32, 64))
    samples = calibrate.measure(bench, 0, sizes)
    assert {"fp32", "tf32", "bf16", "fp16", "int8"} <= set(samples.gemm)
    assert set(samples.gemm) | set(samples.failed) == set(formats)
    bench.gemm("tf32", 32)
    assert torch.get_float32_matmul_precision() == "high"
    bench.gemm("fp32", 32)
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_bench_of_a_cuda_device(monkeypatch):
    """What it asks of the device; nothing here has run on one."""
    gpu = SimpleNamespace(name="NVIDIA Nothing", total_memory=2**34, L2_cache_size=2**25)
    waited = []
    fake = SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda="13.0"),
        cuda=SimpleNamespace(
            is_available=lambda: True,
            get_device_properties=lambda _: gpu,
            get_device_name=lambda: gpu.name,
            synchronize=lambda: waited.append(1),
        ),
        Generator=lambda device: SimpleNamespace(manual_seed=lambda seed: (device, seed)),
    )
    monkeypatch.setattr(engines, "import_module", lambda name: fake)
    bench = engines.open_bench("cuda")
    assert (bench.machine.vendor, bench.machine.dram_bytes, bench.machine.on_chip_bytes) == ("NVIDIA", 2**34, 2**25)
    assert (bench.curve, tuple(bench.accumulators)) == ("bf16", ("fp32", "tf32", "bf16", "fp16", "fp8-e4m3", "int8"))
    assert engines.open_bench("cuda", None, ("fp32",)).curve == "fp32"
    bench.wait()
    assert waited == [1]
    assert engines.open_engine("cuda").name.startswith("PyTorch 2.13.0, NVIDIA Nothing")


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_kernels_are_timed_in_torch_too(family):
    """Every op of a step is shown with a task that runs it, and the fit has a kind for each."""
    graph = STEPS[family](micro_batches=1)
    engine = engines.open_engine("cpu", "torch")
    ticks, formats = [], ("bf16", "fp8-e4m3")
    seen = kernel_bench.see(engine, [graph], 0.0, perf_counter, lambda: ticks.append(1), formats)
    kinds = {op.kind.name for op in graph.ops if not op.kind.view} | {QUANTIZE + name for name in formats}
    assert {each.kind for each in seen} == kinds
    assert len(ticks) == kernel_bench.work_to_do([graph], formats)
    assert set(kernel_bench.fit(seen)) == kinds | {ANY_PRODUCT}


def test_casts_in_torch_are_to_the_formats_that_they_stand_for():
    engine, x = engines.open_engine("cpu", "torch"), np.linspace(-3, 3, 64, dtype=np.float32)
    assert set(engine.quantizes) == {"bf16", "fp16", "fp8-e4m3"}
    for name in engine.quantizes:
        assert (engine.quantizer(name, x)().float().numpy() == quantize(x, parse_format(name))).all()


# --- through torch.compile --------------------------------------------------------------------------------------------


def test_a_compiled_step_is_the_step():
    """Two steps of two micro-batches, with dropout: the same losses and weights, and two times in place of many."""
    graph = STEPS["decoder"](micro_batches=2, dropout=0.1)
    rng = np.random.default_rng(SEED)
    weights, batches = draw_weights(graph, rng), [draw_batch(graph, rng) for _ in range(2)]
    plain = torch_step.TorchStep(graph, weights, batches, seed=SEED)
    compiled = torch_compiled.CompiledStep(graph, weights, batches, seed=SEED)
    compiled.backend = "eager"  # Dynamo without Inductor
    for _ in range(2):
        by_op, by_part = plain(), compiled()
        assert compiled.losses == pytest.approx(plain.losses, rel=1e-5)
        phases = {op.name: op.phase for op in graph.ops if not op.kind.view}
        assert [phases[name] for name in by_part] == ["forward", "update"]
        assert by_part.keys() < by_op.keys()
    for name, x in plain.weights.items():
        np.testing.assert_allclose(compiled.weights[name], x, rtol=1e-4, atol=1e-5)


def test_what_is_compiled_is_predicted_as_it_fuses():
    """Parts of a compiled step: all that is predicted of it is in one of them, and it moves less than op by op."""
    job, hardware = prepare(Request("translation-small")), load_hardware("t4")
    engine = engines.open_engine("cpu", "torch.compile")
    step = {"forward": 3.0, "update": 1.0}
    graph = moderate(job)[0].graph
    firsts = {op.phase: op.name for op in reversed(graph.ops) if not op.kind.view}
    engine.prepare = lambda *_: lambda: {firsts[phase]: seconds for phase, seconds in step.items()}
    timing = measure.measure(job, hardware, engine=engine)
    parts = {each.kind: each for each in timing.kinds}
    assert {name: each.measured_s for name, each in parts.items()} == {"forward and backward": 3, "update": 1}
    assert (timing.total.measured_s, timing.gemms, timing.others) == (4, None, None)
    fused = measure.predict(graph, hardware, traffic="fused")
    assert timing.total.predicted_s == pytest.approx(sum(each.time_s for each in fused.values()))
    assert timing.total.predicted_s == pytest.approx(sum(each.predicted_s for each in parts.values()))
    unfused = measure.predict(graph, hardware)
    assert timing.total.dram_bits < sum(each.dram_bits for each in unfused.values())
    assert timing.total.macs == sum(each.macs for each in unfused.values())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # by Inductor itself, as it is imported
def test_what_cannot_be_compiled_is_said(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    command = "validate translation-small --measure --engine torch.compile --hardware t4"
    done = CliRunner().invoke(main, command.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "costsim: --engine torch.compile: InvalidCxxCompiler: No working C++ compiler found in " + (
        "torch._inductor.config.cpp.cxx: ('/nowhere/g++',)\n"
    )
