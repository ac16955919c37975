"""All ways to split a step over devices."""

import json
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import product

import pytest
from click.testing import CliRunner
from overlaps import faults

import costsim
from costsim import plots
from costsim.cli import main
from costsim.errors import InputError
from costsim.plots import splits as figures
from costsim.plots.look import look_of
from costsim.run import few_layers
from costsim.run.few_layers import NotAlikeError, alike, few_jobs, step_from_few
from costsim.run.job import Request, prepare, with_fields
from costsim.run.simulate import execute
from costsim.run.stages import step_of, steps_of
from costsim.search.sensitivity import of_rows
from costsim.search.split_formats import Wanted
from costsim.search.splits import splits, ways, zeros_of

SMALL = ["model.layers=4", "training.micro_batches=8", "batch.tokens=128", "batch.sequences=1"]


def job(workload="llama-small", *sets, policies=("bf16-mixed",)):
    return prepare(Request(workload, policies, assignments=[*SMALL, *sets], hardware=["h100-node"]))


def test_ways_multiply_to_the_devices_and_keep_the_batch():
    found = list(ways(job(), 8))
    assert len(found) == len(set(found)) > 20
    for parallel, micro_batches in found:
        assert parallel.tensor * parallel.pipeline * parallel.data == 8
        assert parallel.data * micro_batches == 8
    assert {parallel.zero for parallel, _ in found if parallel.data == 1} == {0}
    assert {parallel.zero for parallel, _ in found if parallel.pipeline > 1} == {0, 1}
    assert [parallel.tensor for parallel, _ in ways(job(), 3)] == [1, 3]  # 8 micro-batches are not for 3 ranks


def test_splits_are_what_a_run_of_each_says():
    here = job()
    found = splits(here, here.policies, here.hardware[0], 4)
    assert found == sorted(found, key=lambda split: (not split.fits, split.step_s))
    for split in found:
        again = prepare(
            Request("llama-small", ["bf16-mixed"], assignments=[*SMALL, *split.fields], hardware=["h100-node"])
        )
        step = step_of(again, again.policies[0], 0, again.hardware[0])
        assert step.time_s == split.step_s
        assert max(stage.peak_bytes for stage in step.stages) == split.peak_bytes
    assert {split.parallel.pipeline for split in found} == {1, 2, 4}
    assert {split.parallel.tensor for split in found} == {1, 2}  # 10 heads


def test_a_step_of_one_stage_takes_what_its_kernels_take():
    here = job("llama-small", "parallel.tensor=2")
    result = execute(here)
    ((steps, step),) = steps_of(here, here.policies[0], here.hardware[0])
    assert steps * step.time_s == pytest.approx(result.spent["bf16-mixed", "h100-node"].time_s)
    assert step.play.bubble_share == pytest.approx(0)


def test_stages_wait_longer_than_equal_ones_without_sends():
    """(p-1)/(m+p-1) is what equal stages wait; the ends have the embedding and a head, too, and sends take time."""
    large = ["model.vocab=64", "batch.tokens=1024", "batch.sequences=8"]
    here = job("llama-small", "parallel.pipeline=4", *large)
    step = step_of(here, here.policies[0], 0, here.hardware[0])
    assert 3 / 11 < step.play.bubble_share < 0.4
    busy = [stage.forward_s + stage.backward_s for stage in step.stages]
    assert step.play.busy_s == pytest.approx([8 * each for each in busy])
    assert step.time_s > max(step.play.busy_s)


def test_chunks_wait_less_and_hold_more():
    """The bubble is 1/v of 1F1B's, (p-1)/(v m), where all parts take the same; here they nearly do."""
    large = ["model.layers=8", "model.vocab=64", "batch.tokens=1024", "parallel.pipeline=2"]
    one = job("llama-small", *large)
    two = job("llama-small", *large, "parallel.chunks=2", "parallel.schedule=interleaved")
    plain, chunked = (step_of(here, here.policies[0], 0, here.hardware[0]) for here in (one, two))
    ideal = [1 / 8, 1 / 16]
    for step, share in zip((plain, chunked), ideal, strict=True):
        assert share < step.play.bubble_of_ideal < 1.3 * share
    assert [stage.in_flight for stage in plain.stages] == [2, 1]
    assert [stage.in_flight for stage in chunked.stages] == [5, 3]  # of chunks half as large
    assert chunked.stages[0].peak_bytes > plain.stages[0].peak_bytes
    assert [len(stage.chunks) for stage in chunked.stages] == [2, 2]
    for number in range(2):
        assert chunked.stages[number].backward_s == pytest.approx(plain.stages[number].backward_s, rel=0.01)


def test_a_send_is_one_message():
    """A stage between others sends both ways: the time of a send was that of both."""
    here = job("llama-small", "parallel.pipeline=4", "batch.tokens=1024")
    step = step_of(here, here.policies[0], 0, here.hardware[0])
    graph = here.graph
    bits = 1024 * graph.sizes["model"] * 16
    link = here.hardware[0].links[0]
    assert step.send_s == pytest.approx(bits / 8 / (link.bytes_per_s * link.efficiency) + link.latency_s)


def test_zeros_are_numbers():
    assert zeros_of("1, 0") == [0, 1]
    with pytest.raises(InputError, match="expected some of 0, 1, 2, 3"):
        zeros_of("4")


def split(*arguments):
    sets = [text for each in SMALL for text in ("--set", each)]
    return CliRunner().invoke(main, ["split", "llama-small", "--policy", "bf16-mixed", *sets, *arguments])


def test_the_command_prints_the_best_and_how_to_run_it():
    done = split("--devices", "4", "--hardware", "h100-node", "--format", "json")
    rows = json.loads(done.output)["rows"]
    assert [row["step_s"] for row in rows] == sorted(row["step_s"] for row in rows)
    shown = split("--devices", "4", "--hardware", "h100-node", "--rows", "3").output
    assert "the first 3" in shown
    assert f"--policy bf16-mixed --hardware h100-node --set {rows[0]['set'].split()[0]}" in " ".join(shown.split())


def test_a_device_without_links_takes_no_split():
    done = split("--devices", "4", "--hardware", "h100-sxm", "--zero", "0")
    assert (done.exit_code, done.output.count("Traceback")) == (2, 0)
    assert "--hardware h100-sxm: has no links to send over; say a cluster" in done.output


def test_devices_are_those_of_the_workload_if_it_names_some():
    asked = ("--devices", "4", "--format", "json")
    named = split(*asked, "--hardware", "h100-node")
    assert split(*asked, "--set", "hardware=[h100-node]").output == named.output
    done = split(*asked)
    assert done.exit_code == 2
    assert "--hardware NAME" in done.stderr


def test_a_figure_has_every_split_and_where_memory_ends():
    """The front by comparing all pairs, points by their data, texts at three widths."""
    here = prepare(Request("llama-small", ["bf16-mixed", "fp32"], assignments=SMALL, hardware=["h100-node"]))
    found = splits(here, here.policies, here.hardware[0], 4)
    beaten = {
        a for a in found for b in found
        if a.policy == b.policy and (b.peak_bytes, b.step_s) != (a.peak_bytes, a.step_s)
        and b.peak_bytes <= a.peak_bytes and b.step_s <= a.step_s
    }  # fmt: skip
    for policy in ("bf16-mixed", "fp32"):
        of_policy = [split for split in found if split.policy == policy]
        best = {(split.peak_bytes, split.step_s) for split in of_policy if split not in beaten}
        assert {(split.peak_bytes, split.step_s) for split in figures.front(of_policy)} == best
    tight = [split._replace(capacity_bytes=split.peak_bytes - (split.policy == "fp32")) for split in found]
    small = replace(here, hardware=(replace(here.hardware[0], dram_bytes=found[0].peak_bytes),))
    for width in ("84mm", "120mm", "174mm"):
        figure = plots.drawn(partial(figures.splits, small, tight, 4), look_of(width=width, font_size=8))
        assert faults(figure) == [], width
    lines = figure.axes[0].get_lines()
    points = [line for line in lines if line.get_linestyle() == "None" and len(line.get_xdata())]
    assert [len(line.get_xdata()) for line in points] == [len(found) // 2] * 2
    assert [line.get_markerfacecolor() == "white" for line in points] == [False, True]
    unit = 10 ** (3 * ((len(str(max(split.peak_bytes for split in found))) - 1) // 3))
    (end,) = (line.get_xdata()[0] for line in lines if line.get_linestyle() == "--")
    assert end * unit == pytest.approx(found[0].peak_bytes)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (legend[:3], len(legend)) == (["bf16 mixed", "fp32", "too large"], 4)


def test_out_takes_a_figure(tmp_path):
    out = tmp_path / "splits.svg"
    done = split("--devices", "2", "--hardware", "h100-node", "--zero", "0", "--out", str(out), "--width", "84mm")
    assert (done.exit_code, done.output.strip()) == (0, str(out))
    assert "peak memory of the fullest device" in out.read_text()
    done = split("--devices", "2", "--hardware", "h100-node", "--width", "84mm")
    assert (done.exit_code, "--width: says how a figure looks" in done.output) == (2, True)


# --- with formats -----------------------------------------------------------------------------------------------------

FORMATS = ("bf16", "fp8-e4m3-tensor")
WANTED = Wanted(("gemm",), ("operand", "sent"), FORMATS)


def steps_by_choice(split, here):
    """The step of each policy of the space of a split, by choices."""
    again = prepare(Request("llama-small", ["bf16-mixed"], assignments=[*SMALL, "model.layers=2", *split.fields],
                            hardware=["h100-node"]))  # fmt: skip
    space = split.chosen.space
    return {
        choices: step_of(again, space.point(dict(enumerate(choices)), "it"), 0, again.hardware[0])
        for choices in product(*map(range, space.sizes))
    }


@pytest.fixture(scope="module")
def chosen():
    """Splits over 2 devices with formats, unbounded."""
    pytest.importorskip("scipy")
    here = job("llama-small", "model.layers=2")
    return splits(here, here.policies, here.hardware[0], 2, wanted=WANTED)


def test_formats_of_a_split_are_the_best_of_all(chosen):
    here = job("llama-small", "model.layers=2")
    assert len(chosen) >= 6
    for split in chosen:
        steps = steps_by_choice(split, here)
        own = steps[split.chosen.choices]
        assert (own.time_s, max(stage.peak_bytes for stage in own.stages)) == (split.step_s, split.peak_bytes)
        if split.parallel.pipeline == 1:
            assert split.step_s == pytest.approx(min(step.time_s for step in steps.values()), rel=1e-6)


def test_formats_keep_budgets(chosen):
    """Of memory where any do, and of loss: the fastest of those that keep them, by enumeration."""
    here = job("llama-small", "model.layers=2")
    (split,) = (each for each in chosen if each.parallel.zero == 1 and each.parallel.pipeline == 1)
    steps = steps_by_choice(split, here)
    names = [variable.name for variable in split.chosen.space.variables]
    table = of_rows([(name, format, (i + 1) * at) for i, name in enumerate(names) for at, format in enumerate(FORMATS)])
    lost = {choices: sum((i + 1) * at for i, at in enumerate(choices)) for choices in steps}
    peaks = {choices: max(stage.peak_bytes for stage in step.stages) for choices, step in steps.items()}
    most_bytes, most_loss = sorted(peaks.values())[len(peaks) // 2], 4
    wanted = WANTED._replace(losses=table, most_loss=Fraction(most_loss), most_bytes=most_bytes)
    found = splits(here, here.policies, here.hardware[0], 2, [1], wanted=wanted)
    (split,) = (each for each in found if each.parallel == split.parallel)
    keeping = [choices for choices in steps if lost[choices] <= most_loss and peaks[choices] <= most_bytes]
    assert split.chosen.choices in keeping
    assert split.step_s == pytest.approx(min(steps[choices].time_s for choices in keeping), rel=1e-6)
    assert split.chosen.loss == lost[split.chosen.choices]
    tight = WANTED._replace(losses=table, most_loss=Fraction(-1))
    with pytest.raises(InputError, match="no policy of these groups and formats does; the least loss is 0"):
        splits(here, here.policies, here.hardware[0], 2, [1], wanted=tight)


def test_what_is_saved_runs_as_it_was_found(tmp_path):
    pytest.importorskip("scipy")
    arguments = ["--devices", "2", "--hardware", "h100-node", "--formats", ",".join(FORMATS), "--group", "gemm"]
    done = split(*arguments, "--zero", "1", "--format", "json", "--save", str(tmp_path / "found"))
    assert done.exit_code == 0, done.output
    best = json.JSONDecoder().raw_decode(done.output)[0]["rows"][0]
    path = tmp_path / "found" / f"{best['policy']}.yaml"
    sets = [*SMALL, *best["set"].split()]
    again = prepare(Request("llama-small", [str(path)], assignments=sets, hardware=["h100-node"]))
    step = step_of(again, again.policies[0], 0, again.hardware[0])
    assert step.time_s == best["step_s"]
    assert str(max(stage.peak_bytes for stage in step.stages)) == best["peak_memory_bytes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at-most", "loss=1"], "--at-most: is about formats that are chosen; say --formats"),
        (["--formats", "bf16", "--at-most", "los=1"], "unknown field 'los'; did you mean 'loss'?"),
        (["--formats", "bf16", "--at-most", "loss=1"], "--at-most loss: say what bits cost in quality"),
        (
            ["--formats", "bf16", "--at-most", "peak_memory_bytes=x"],
            "expected a number, such as peak_memory_bytes=1e10",
        ),
        (["--formats", "bf61"], "--formats: unknown format 'bf61'"),
        (["--formats", "bf16", "--group", "rolle"], "--group: unknown field 'rolle'; did you mean 'role'?"),
    ],
)
def test_what_is_wrong_with_a_choice_is_said(arguments, message):
    done = split("--devices", "2", "--hardware", "h100-node", *arguments)
    assert (done.exit_code, "Traceback" in done.output) == (2, False)
    assert message in done.output


# --- steps of many layers from steps of few ---------------------------------------------------------------------------

MANY = ["model.layers=19", "training.micro_batches=4", "batch.tokens=64", "batch.sequences=1"]
FEW_LAYERS = [
    ("llama-small", "bf16-mixed", ["optimizer.clip_norm=1.0"], "{tensor: 2, data: 2, zero: 1}"),
    ("llama-small", "fp8-block", ["model.checkpointing=full"], "{pipeline: 3, tensor: 2, schedule: zb-h1}"),
    ("gpt2-small", "dsq", ["traffic=unfused"], "{pipeline: 2, data: 2, overlap: data}"),
    ("mixtral-8x7b", "bf16-mixed", ["model.d_model=64", "model.ffn_dim=64"], "{data: 4, expert: 2, zero: 3}"),
]


@pytest.mark.parametrize(("workload", "policy", "sets", "split"), FEW_LAYERS)
def test_steps_of_few_layers_say_what_one_of_many_takes(workload, policy, sets, split):
    """To the last bit of every time, and to the byte."""
    here = prepare(Request(workload, [policy], assignments=[*MANY, *sets], hardware=["h100-node"]))
    assert alike(here, here.policies[0])
    index, device, fields = len(here.policies[0].file.phases) - 1, here.hardware[0], [f"parallel={split}"]
    whole = with_fields(here, fields)
    few = few_jobs(here, fields, whole.file.parallel.pipeline)
    assert step_from_few(few, 19, here.policies[0], index, device) == step_of(whole, here.policies[0], index, device)


@pytest.mark.parametrize(
    ("policy", "sets"),
    [
        ("nvfp4-pretrain", []),  # the last layers are in bf16
        ("bf16-mixed", ["model.windows=[64, null]"]),
        ("bf16-mixed", ["training.trainable=['decoder.1?.*']"]),
        ("bf16-mixed", ["training.trainable=['decoder.[0-5].*']"]),
        ("bf16-mixed", ["training.trainable=['*.3.ffn.*']"]),
    ],
)
def test_layers_that_are_told_apart_are_not_alike(policy, sets):
    here = prepare(Request("llama-small", [policy], assignments=["model.layers=12", *sets]))
    assert not alike(here, here.policies[0])
    assert alike(prepare(Request("llama-small", ["bf16-autocast"])), costsim.load_policy("bf16-mixed"))


def test_layers_that_differ_unsaid_are_found_out(monkeypatch):
    """Were windows of every other layer not seen, numbers of kernels would be on no line."""
    monkeypatch.setattr(few_layers, "_of_one_kind", lambda _model: True)
    sets = ["model.layers=40", "model.windows=[16, null]", "attention_pairs=window", "batch.tokens=64"]
    here = prepare(Request("llama-small", ["bf16-mixed"], assignments=sets, hardware=["h100-node"]))
    with pytest.raises(NotAlikeError):
        step_from_few(few_jobs(here, [], 1), 40, here.policies[0], 0, here.hardware[0])


def test_a_stage_of_a_decoder_sends_what_it_made_and_the_encoders_output():
    """Who waits for the next stage waits for both; bytes by hand."""
    sets = ["scope=step", "model.decoder_layers=2", "batch.source_tokens=16"]
    cut = [*sets, "parallel={pipeline: 3, encoder_stages: 1}"]
    here = prepare(Request("translation-small", ["fp32"], assignments=cut, hardware=["h100-node"]))
    step = step_of(here, here.policies[0], 0, here.hardware[0])
    sizes, link = here.graph.sizes, here.hardware[0].links[0]
    rows = [sizes["batch"] * sizes[length] * sizes["model"] * 4 for length in ("source", "target")]
    assert rows[0] != rows[1]
    assert step.send_s == pytest.approx(sum(link.latency_s + n / link.bytes_per_s / link.efficiency for n in rows))
    alone = prepare(Request("translation-small", ["fp32"], assignments=sets)).graph
    twice = alone.elements(alone.tensors["embedding.target.weight"].dims)  # is the head, in the last stage, too
    assert sum(stage.parameters for stage in step.stages) == alone.parameters + twice
