"""What the forward keeps for the backward: against published closed forms and PyTorch's counts."""

import json

import pytest
import yaml
from click.testing import CliRunner
from conftest import POLICIES, STEPS, adamw, pairs, shipped_policy
from test_torch_counts import GPT2, beside, gpt2, run_id

from costsim.cli import main
from costsim.cost.memory import memory
from costsim.graph.fusion import group_ops
from costsim.policy.assign import assign
from costsim.run import peaks
from costsim.run.job import Request, prepare
from costsim.tables import kept
from costsim.tables.memory import document
from costsim.tables.styles import render

# --- Korthikanti et al. 2022, arXiv:2205.05198, equation 2 and sections 4.2 and 5 -------------------------------------

SIZES = {
    "small": {"s": 32, "b": 4, "h": 48, "a": 6},
    "GPT-3": {"s": 2048, "b": 1, "h": 12288, "a": 96},  # 175 billion parameters in 96 layers, of which 3 are built
}
V = 7
LAYER = {  # bytes of a layer, numbers of 16 bits and masks of a byte
    "none": lambda s, b, h, a: 34 * s * b * h + 5 * a * s * s * b,
    "selective": lambda s, b, h, **_: 34 * s * b * h,
    "full": lambda s, b, h, **_: 2 * s * b * h,
}
STATISTICS = (".mean", ".rstd")  # of norms: costsim keeps them, in 16 bits as all else; the paper leaves them out


def workload(path, s, b, h, a, **changes):
    """The paper's model: dropout everywhere, GELU as one kernel, a norm before each part."""
    model = {"family": "decoder", "d_model": h, "ffn_dim": 4 * h, "heads": a, "layers": 3, "vocab": V}
    model |= {"max_positions": s, "activation": "gelu", "dropout": 0.1, "attention_dropout": 0.1, **changes}
    file = {
        "description": "Korthikanti et al. 2022",
        "model": model,
        "batch": {"sequences": b, "tokens": s, "padding_mask": False},
        "training": {"steps": 1},
        "optimizer": {"kind": "adamw", "lr": 0.001},
        "policies": ["bf16-mixed"],
        "baseline": "bf16-mixed",
    }
    path.write_text(yaml.safe_dump(file))
    return str(path)


def run_json(*arguments):
    result = CliRunner().invoke(main, ["memory", *arguments, "--activations", "--format", "json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)["rows"][0]


def of_layer(row, layer):
    """The bytes of a layer without the statistics of its norms, and those."""
    entries = [entry for entry in row["activations"] if entry["layer"] == layer]
    statistics = [entry for entry in entries if entry["name"].endswith(STATISTICS)]
    total, apart = (sum(int(entry["bytes"]) for entry in part) for part in (entries, statistics))
    return total - apart, apart


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("checkpointing", LAYER)
@pytest.mark.parametrize("traffic", ["unfused", "fused"])
def test_a_layer_keeps_what_the_paper_says_and_the_statistics_of_two_norms(size, checkpointing, traffic, tmp_path):
    sizes = SIZES[size]
    path = workload(tmp_path / "paper.yaml", **sizes, checkpointing=checkpointing)
    row = run_json(path, "--traffic", traffic)
    statistics = 0 if checkpointing == "full" else 2 * 2 * 2 * sizes["s"] * sizes["b"]
    for i in range(3):
        assert of_layer(row, f"decoder.{i}") == (LAYER[checkpointing](**sizes), statistics)


def test_the_example_of_the_paper_is_to_the_byte():
    assert LAYER["none"](**SIZES["GPT-3"]) == 2_868_903_936  # a layer of 175 billion parameters, b = 1


def test_what_is_kept_outside_of_layers_has_a_name(tmp_path):
    """Section 4.3: a mask of the embedding, sbh; the norm's and the projection's input, 4 sbh; logits, 4 sbv.

    Here a layer has its result, not its input: the last layer's is the norm's input, the first's is the embedding's.
    The paper's logits have 32 bits, those of the policy 16. Beside the paper's there are the norm's statistics, and ids
    and labels of 8 bytes.
    """
    s, b, h, _ = SIZES["small"].values()
    row = run_json(workload(tmp_path / "paper.yaml", **SIZES["small"]))
    ours = {e["name"]: int(e["bytes"]) for e in row["activations"] if not e["layer"].removeprefix("decoder.").isdigit()}
    paper = {
        "embedding.dropout.mask": s * b * h,
        "embedding.dropout": 2 * s * b * h,
        "decoder.final.norm": 2 * s * b * h,
    }
    logits = {"head.cross_entropy.logp": 2 * s * b * V}
    statistics = {f"decoder.final.norm{name}": 2 * s * b for name in STATISTICS}
    ids = {"embedding.tokens.ids": 8 * s * b, "embedding.positions.ids": 8 * s, "head.labels": 8 * s * b}
    assert ours == paper | logits | statistics | ids
    layers = 3 * sum(of_layer(row, "decoder.1"))
    assert int(row["activations_bytes"]) == layers + sum(ours.values())


def test_flash_attention_keeps_the_logarithms_of_sums_more_than_selective_recomputation(tmp_path):
    s, b, _, a = SIZES["small"].values()
    row = run_json(workload(tmp_path / "paper.yaml", **SIZES["small"], attention="flash"))
    assert of_layer(row, "decoder.1")[0] == LAYER["selective"](**SIZES["small"]) + 2 * a * s * b


# --- PyTorch's counts -------------------------------------------------------------------------------------------------

FP32 = [run for run in GPT2["runs"] if run["dtype"] == "float32" and run["with_loss"]]


@pytest.mark.parametrize("run", FP32, ids=run_id)
def test_gpt2_keeps_the_bytes_that_pytorch_saves(run):
    graph = gpt2(run["dropout"], attention=run["attention"])
    kept_bytes = sum(
        place.size_bytes for place in memory(graph, assign(graph, shipped_policy("fp32")), "fused").activations
    )
    assert kept_bytes == run["saved_bytes"] - sum(beside(run).values())


# --- nothing else lies there when the forward ends --------------------------------------------------------------------


@pytest.mark.parametrize(("family", "name"), pairs(POLICIES))
def test_all_that_crosses_the_end_of_the_forward_is_listed(family, name):
    """What is alive in the last kernel of the forward and after it: kept, or there through the whole step."""
    for way, traffic in (({}, "unfused"), ({"checkpointing": "full"}, "fused")):
        graph = STEPS[family](dropout=0.1, optimizer=adamw(clip_norm=1.0), micro_batches=2, **way)
        peak, group = memory(graph, assign(graph, shipped_policy(name)), traffic), group_ops(graph, traffic)
        end = max(group[op.position] for op in graph.ops if op.phase == "forward")
        crossing = {place.name for place in peak.stored if place.first <= end < place.last}
        forward = {name for name, tensor in graph.tensors.items() if tensor.role in ("activation", "data")}
        read = {p.name for p in peak.stored if p.tensor in forward and p.consumer}  # not the loss, which nobody reads
        assert {place.name for place in peak.activations} == crossing & read


# --- where to look, in every style ------------------------------------------------------------------------------------

AT_UPDATE = ("gpt2-small", "--policy", "fp32", "--set", "model.layers=1", "--set", "batch.tokens=4")


def test_activations_are_there_when_the_stash_is_gone_at_the_peak():
    row = run_json(*AT_UPDATE, "--batch", "1")
    assert int(row["stash_bytes"]) < int(row["activations_bytes"]) / 100
    assert len(row["stash"]) < len(row["activations"])
    assert sum(int(entry["bytes"]) for entry in row["activations"]) == int(row["activations_bytes"])


def test_notes_and_headings_say_where_to_look():
    away = CliRunner().invoke(main, ["memory", *AT_UPDATE, "--batch", "1", "--stash"])
    text = " ".join(away.output.split())
    assert "--activations lists all that it keeps" in text
    assert "alive at the peak (embedding.tokens." in text
    there = CliRunner().invoke(main, ["memory", "gpt2-small", "--policy", "fp32", "--set", "model.layers=1"])
    assert "--activations" not in there.output  # the peak is where the forward ends
    help_text = " ".join(CliRunner().invoke(main, ["memory", "--help"]).output.split())
    assert "List what of the stash is alive at the peak" in help_text
    assert "List all that the forward keeps for the backward" in help_text


def test_notes_say_which_of_many_devices_it_is():
    done = CliRunner().invoke(main, ["memory", *AT_UPDATE, "--set", "parallel={data: 2, zero: 1}"])
    assert "\none of 2 devices: data 2, zero 1\n" in done.output
    swept = CliRunner().invoke(main, ["memory", *AT_UPDATE, "--sweep", "parallel.data=1,2"])
    assert "one of" not in swept.output  # the columns say it


@pytest.fixture(scope="module")
def small():
    return prepare(
        Request("gpt2-small", policies=["fp32", "bf16-mixed"], assignments=["model.layers=2", "batch.tokens=4"])
    )


def rendered(job, style, *lists):
    return render(document(job, peaks.Asked(batches=(1, 2), lists=lists)), style)


def test_every_style_lists_every_tensor(small):
    rows = peaks.rows(small, peaks.Asked(batches=(1, 2)), lambda row: row)
    expected = [(row, entry) for row in rows for entry in kept.listed(row, "activations")]
    lines = rendered(small, "csv", "activations").splitlines()
    assert len(lines) == 1 + len(expected)
    for line, (row, entry) in zip(lines[1:], expected, strict=True):
        cells = dict(zip(lines[0].split(","), line.split(","), strict=True))
        assert (cells["policy"], cells["batch"], cells["list"]) == (row.policy.name, str(row.sequences), "activations")
        assert {name: cells[name] for name in ("name", "layer", "bytes", "format")}.items() <= entry.items()
        assert cells["shape"] == "x".join(map(str, entry["shape"]))
    for style in ("table", "markdown", "latex"):
        text = rendered(small, style, "activations").replace(r"\allowbreak{}", "").replace(r"\_", "_")
        for row in rows:
            assert f"{row.policy.name} at batch {row.sequences}" in text
        assert text.count("self_attention.context") == len(rows) * 2
        assert sum(line.count("all 15") for line in text.splitlines()) == len(rows) * 2
    assert rendered(small, "latex", "activations").count(r"\label{") == 1 + len(rows)
    assert len(set(rendered(small, "latex", "stash", "activations").split(r"\label{"))) == 2 + 2 * len(rows)


def test_layers_add_up_to_the_whole(small):
    for row in peaks.rows(small, peaks.Asked(), lambda row: row):
        layers = kept.by_layer(kept.listed(row, "activations"))
        assert list(layers) == ["embedding", "decoder.0", "decoder.1", "decoder.final", "head"]
        total = sum(int(entry["bytes"]) for entries in layers.values() for entry in entries)
        assert total == sum(place.size_bytes for place in row.memory.activations)


@pytest.mark.parametrize("style", ["table", "csv", "markdown", "latex", "json"])
def test_a_list_of_nothing_says_so(style):
    """A peak that no stash is left at: an empty table, not an error."""
    frozen = ["training.micro_batches=1", "batch.sequences=1", "batch.tokens=8"]
    job = prepare(Request("llama-2-7b-lora", policies=["fp32"], assignments=frozen))
    text = render(document(job, peaks.Asked(lists=["stash"])), style)
    expected = {"csv": ",stash,,,,,,,0", "json": '"stash": []'}.get(style, "stash of fp32 at batch 1: 0 bytes")
    assert expected in text
