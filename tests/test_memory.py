"""Peak memory: against what the reference holds, and against published closed forms."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import POLICIES, STEPS, adamw, decoder_step, in_turn, live_bytes, pairs, shipped_policy

from costsim.cli import main
from costsim.cost.memory import COMPONENTS, memory, of_policy
from costsim.errors import InputError
from costsim.formats.pack import pack
from costsim.graph.autodiff import stash
from costsim.graph.fusion import group_ops
from costsim.models import decoder
from costsim.models.training_step import training_step
from costsim.policy.assign import assign
from costsim.policy.load import load_policy
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.run.batch import largest_batch, with_batch
from costsim.run.job import Request, prepare

WAYS = [({}, "unfused"), ({"attention": "flash"}, "fused"), ({"checkpointing": "full"}, "fused")]


def measured_peak(graph, assignment, traffic):
    """The most bytes held at once, from the lengths of the packed buffers that a run really stores and loads."""
    group = group_ops(graph, traffic)
    rng = np.random.default_rng(0)
    weights = {n: w.astype(np.float32) for n, w in draw_weights(graph, rng).items()}
    batch = draw_batch(graph, rng, np.float32)
    ran = run(graph, weights, [batch], assignment=assignment, group=group, measure=True)
    kernel = {op.name: group[op.position] for op in graph.ops}
    at = 0
    first, last, size = {}, {}, {}
    for name, seen in ran.measured.items():  # in the order in which they ran; a cast comes before the op that wants it
        cast = name.removesuffix(".cast")
        if name in kernel:
            at = kernel[name]
        else:
            later = list(ran.measured)[list(ran.measured).index(name) :]
            at = next(kernel[other] for other in later if other in kernel)
            assert cast in seen.written_bits
        for tensor, bits in seen.written_bits.items():
            root = graph.place.get(tensor, tensor)
            first.setdefault(root, at)
            last[root] = max(at, last.get(root, at))
            size[root] = max(bits, size.get(root, 0))
        for tensor, bits in seen.read_bits.items():
            root = graph.place.get(tensor, tensor)
            last[root] = at
            if root in graph.shared:  # written in pieces, read as a whole
                size[root] = max(bits, size.get(root, 0))
            first.setdefault(root, 0)
    end = group[-1]
    for tensor in graph.tensors.values():
        name = tensor.name
        if name in graph.producer or tensor.alias is not None:
            continue
        given = weights.get(name, batch.get(name, np.ones(graph.shape(name), np.float32)))
        if tensor.role in ("weight", "state"):
            first[name], last[name] = 0, end
        if name in last:
            first[name] = 0
            size[name] = pack(given, assignment.format(name)).bits
    for name in first:
        source = name.partition("@")[0]
        if "@" in name and source not in graph.producer and not name.endswith(".stored"):
            first[name] = 0  # copies that the last update left
            if graph.tensors[source].role in ("weight", "state"):
                last[name] = end
    read = {graph.place.get(t, t) for seen in ran.measured.values() for t in seen.read_bits}
    again = {t.name: t.recomputes for t in graph.tensors.values() if t.recomputes}
    done = read | set(again) | set(again.values())  # what else nobody reads is a result of the step
    live = [0] * (end + 1)
    for name in first:
        for i in range(first[name], (last[name] if name in done else end) + 1):
            live[i] += -(-size[name] // 8)
    return max(live)


@pytest.mark.parametrize(
    ("family", "name", "way"),
    in_turn(pairs([*POLICIES, "w8a8+as-coded", "w8a8+deployed"]), range(len(WAYS))),
)
def test_the_peak_is_what_the_reference_holds(family, name, way):
    options, traffic = WAYS[way]
    graph = STEPS[family](dropout=0.1, optimizer=adamw(clip_norm=1.0), **options)
    assignment = assign(graph, shipped_policy(name))
    assert memory(graph, assignment, traffic).peak_bytes == measured_peak(graph, assignment, traffic)


def test_components_sum_to_the_peak(step):
    for name in ("fp32", "bf16-mixed", "dsq"):
        graph = step(micro_batches=2)
        its = memory(graph, assign(graph, shipped_policy(name)), "fused")
        assert tuple(its.components) == COMPONENTS
        assert sum(its.components.values()) == its.peak_bytes == max(live_bytes(its))
        for component in COMPONENTS:
            assert sum(stored.size_bytes for stored in its.at_peak(component)) == its.components[component]


def test_zero_needs_sixteen_bytes_a_parameter(tmp_path):
    """Rajbhandari et al., SC 2020, section 3.1: fp16 weights and gradients, fp32 master weights and two moments."""
    path = tmp_path / "fp16.yaml"
    path.write_text(
        "description: fp16 with fp32 master weights\n"
        "rules:\n"
        "  - {format: fp16}\n"
        "  - {format: fp32, role: [weight, state]}\n"
        "  - {copy: operand, operand: [w], role: [weight], format: fp16, placement: at_producer}\n"
    )
    graph = decoder_step(tied=False)
    matrices = {op.inputs[1] for op in graph.ops if op.gemm == "wgrad" or op.gemm == "dgrad"}
    matrices = {name for name in matrices if graph.tensors[name].role == "weight"}
    size = dict.fromkeys(COMPONENTS, 0)
    for stored in memory(graph, assign(graph, load_policy(path)), "unfused").stored:
        of = stored.tensor.removesuffix(".grad").removesuffix(".m").removesuffix(".v")
        size[stored.component] += stored.size_bytes if of in matrices else 0
    number = sum(graph.elements(graph.tensors[name].dims) for name in matrices)
    assert (size["weights"], size["gradients"]) == (2 * number, 2 * number)
    assert (size["master_weights"], size["optimizer_states"]) == (4 * number, 8 * number)
    assert sum(size.values()) == 16 * number


# --- Korthikanti et al., MLSys 2023 -----------------------------------------------------------------------------------


def korthikanti(**changes):
    """One layer as in the paper: dropout everywhere, a fused GELU; s, b, h and a of its formulas."""
    s, b, h, a = 32, 4, 48, 6
    model = decoder.Model(
        family="decoder",
        d_model=h,
        ffn_dim=4 * h,
        heads=a,
        layers=3,
        vocab=7,
        max_positions=s,
        activation="gelu",
        dropout=0.1,
        attention_dropout=0.1,
        **changes,
    )
    return training_step(model, decoder.Batch(sequences=b, tokens=s), adamw()), (s, b, h, a)


def kept_of_a_layer(graph):
    """Bytes of the stash that the middle layer makes, at 2 bytes a number and 1 a mask; norm statistics apart."""
    numbers = statistics = 0
    for name in stash(graph):
        tensor = graph.tensors[name]
        size = graph.elements(tensor.dims) * (1 if tensor.values == "mask" else 2)
        if tensor.layer == "decoder.1":
            if name.endswith((".mean", ".rstd")):
                statistics += size
            else:
                numbers += size
    return numbers, statistics


def test_bytes_of_a_layer():
    """Equation 2: 34 sbh + 5 a s^2 b; the paper leaves the statistics of the norms out."""
    graph, (s, b, h, a) = korthikanti()
    numbers, statistics = kept_of_a_layer(graph)
    assert numbers == 34 * s * b * h + 5 * a * s * s * b
    assert statistics == 2 * 2 * 2 * s * b  # two norms, mean and rstd


def test_selective_recomputation_keeps_34_sbh():
    """Section 5: what attention keeps beyond q, k, v and its result goes."""
    graph, (s, b, h, _) = korthikanti(checkpointing="selective")
    assert kept_of_a_layer(graph)[0] == 34 * s * b * h


def test_full_recomputation_keeps_the_input_of_a_layer():
    graph, (s, b, h, _) = korthikanti(checkpointing="full")
    assert kept_of_a_layer(graph) == (2 * s * b * h, 0)


def test_model_flops_of_an_iteration_and_where_selective_recomputation_differs():
    """72 B L s h^2 (1 + s/6h + V/12Lh); with selective recomputation the paper has 1 + s/3h, the graph 1 + s/4h.

    Attention's two products take 4 B s^2 h FLOP forward and twice that backward: 12 B L s^2 h = 72 B L s h^2 (s/6h). To
    make the softmax again takes the scores alone, 2 B s^2 h; the paper's formula holds if all three of that are made.
    """
    graph, (s, b, h, _) = korthikanti()
    layers, v = 3, 7
    model = 72 * b * layers * s * h * h + 12 * b * layers * s * s * h + 6 * b * s * h * v
    assert sum(2 * graph.work(op)[0] for op in graph.ops) == model
    again, _ = korthikanti(checkpointing="selective")
    ours = sum(2 * again.work(op)[0] for op in again.ops)
    assert ours == model + 2 * b * layers * s * s * h
    paper = model + 12 * b * layers * s * s * h  # s/3h in place of s/6h
    assert paper - model == 6 * (ours - model)


# --- the command ------------------------------------------------------------------------------------------------------


def run_command(*arguments):
    return CliRunner().invoke(main, ["memory", *arguments])


def test_json_has_every_component_and_the_stash():
    result = run_command("gpt2-small", "--policy", "bf16-mixed", "--batch", "1,2", "--format", "json")
    assert result.exit_code == 0
    data = json.loads(result.output)
    assert data["parameters"] == 124_445_184
    for row, batch in zip(data["rows"], (1, 2), strict=True):
        assert row["batch"] == batch
        assert sum(int(row[f"{name}_bytes"]) for name in data["components"]) == int(row["peak_memory_bytes"])
        assert sum(int(entry["bytes"]) for entry in row["stash"]) == int(row["stash_bytes"])
        assert all(entry["consumer"] and entry["shape"] for entry in row["stash"])
    assert {"attention", "checkpointing", "fused_activation", "traffic", "micro_batches"} <= set(data["convention"])


def test_the_largest_batch_fits_and_one_more_does_not():
    job = prepare(Request("gpt2-small", policies=["bf16-mixed"]))
    [policy] = job.policies
    capacity = 12 * 10**9
    most = largest_batch(job, policy, capacity)
    peaks = [of_policy(with_batch(job, n).graph, policy, "fused")[1].peak_bytes for n in (most, most + 1)]
    assert peaks[0] <= capacity < peaks[1]
    assert largest_batch(job, policy, 10**9) == 0


def test_a_device_is_a_capacity():
    args = ("gpt2-small", "--policy", "fp32", "--format", "json")
    data = json.loads(run_command(*args, "--hardware", "a100-80gb").output)
    assert [row["capacity_bytes"] for row in data["rows"]] == [str(80 * 2**30)]
    both = run_command(*args, "--hardware", "a100-80gb", "--capacity-bytes", "1")
    assert (both.exit_code, "both say what there is" in both.output) == (2, True)
    unknown = run_command(*args, "--hardware", "edge-tpu")
    assert (unknown.exit_code, "does not know its DRAM" in unknown.output) == (2, True)


def test_accumulation_splits_the_batch():
    job = prepare(Request("gpt2-small", policies=["fp32"]))
    split = with_batch(job, 8, 4)
    assert (split.graph.sizes["batch"], split.graph.micro_batches) == (2, 4)
    with pytest.raises(InputError, match="--accumulation 3: a batch of 8 sequences does not divide"):
        with_batch(job, 8, 3)


@pytest.mark.parametrize("batch", ["0", "4,0", "a", "4,,8", "", "-1", "4.5"])
def test_a_wrong_batch_is_one_error(batch):
    result = run_command("gpt2-small", "--batch", batch)
    assert result.exit_code == 2
    assert "--batch: expected whole numbers above 0" in result.output


def test_an_unknown_way_of_checkpointing_is_one_error():
    result = run_command("gpt2-small", "--set", "model.checkpointing=some")
    assert result.exit_code == 2
    assert "expected one of none, selective, full, got 'some'" in result.output


@pytest.mark.parametrize("style", ["table", "csv", "markdown", "latex"])
def test_every_format_has_the_policies(style):
    result = run_command("gpt2-small", "--policy", "fp32", "--format", style, "--capacity-bytes", "80000000000")
    assert result.exit_code == 0, result.output
    assert "fp32" in result.output
    if style == "table":
        assert max(map(len, result.output.splitlines())) <= 80
        assert "at most" in result.output


def test_families_have_memory():
    for family in STEPS:
        assert memory(STEPS[family](), assign(STEPS[family](), shipped_policy("fp32")), "fused").peak_bytes > 0


@pytest.mark.parametrize("traffic", ["unfused", "fused"])
def test_what_is_made_again_does_not_stay_where_nobody_reads_it(traffic):
    """Statistics of norms in checkpointed layers: the backward reads those that it has made again."""
    graph = decoder_step(checkpointing="full")
    stored = memory(graph, assign(graph, shipped_policy("fp32")), traffic).stored
    statistics = [p for p in stored if p.tensor.endswith((".mean", ".rstd")) and p.tensor.startswith("decoder.0")]
    assert len(statistics) == 4
    assert all(place.first == place.last for place in statistics)


# --- does it fit? -----------------------------------------------------------------------------------------------------


def fits(size):
    return CliRunner().invoke(main, ["memory", "translation-small", "--policy", "fp32", "--fits", size])


def test_fits_to_the_byte():
    data = json.loads(
        CliRunner().invoke(main, ["memory", "translation-small", "--policy", "fp32", "--format", "json"]).stdout
    )
    peak = int(data["rows"][0]["peak_memory_bytes"])
    assert fits(str(peak)).exit_code == 0
    done = fits(str(peak - 1))
    assert done.exit_code == 1
    assert f"{peak} bytes do not fit into {peak - 1}, by 1 bytes; the largest is head.logits" in done.stderr
    done = CliRunner().invoke(
        main, ["memory", "translation-small", "--policy", "fp32", "--fits", "256KiB", "--format", "json"]
    )
    [row] = json.loads(done.stdout)["rows"]
    assert done.exit_code == 1
    assert (row["fits"], int(row["excess_bytes"])) == (False, peak - 256 * 1024)
    assert row["largest"] == {"name": "head.logits", "component": "logits", "bytes": str(32 * 13 * 2000 * 4)}


def test_one_thing_says_what_there_is():
    done = CliRunner().invoke(main, ["memory", "gpt2-small", "--fits", "1GB", "--capacity-bytes", "1GB"])
    assert done.exit_code == 2
    assert "--capacity-bytes and --fits both say what there is" in done.stderr


def test_small_tables_are_in_kilobytes():
    done = CliRunner().invoke(main, ["memory", "translation-small", "--policy", "fp32", "--batch", "1"])
    assert "kB (10^3 bytes) at the peak of a step" in done.stdout
