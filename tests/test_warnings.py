"""What readers are warned of: lines under tables and texts in JSON, where what is counted may not be what was meant."""

import json

import pytest
from click.testing import CliRunner

from costsim.cli import main
from costsim.cost.memory import of_policy
from costsim.inputs import files
from costsim.page.page import page
from costsim.run import simulate
from costsim.run.job import Request, prepare
from costsim.tables import warnings

TWO_LAYERS = ("--set", "model.layers=2")
# The matrices of a layer of Llama 2 7B: four of attention, three of its gated feed forward.
MATRICES = 7
ELEMENTS = 4 * 4096 * 4096 + 3 * 4096 * 11008


def run_command(*arguments, code=0):
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


def text_of(*arguments, code=0):
    """On one line, without the places where LaTeX may break a word."""
    return " ".join(run_command(*arguments, code=code).replace("\\allowbreak{}", "").split())


# --- frozen weights ---------------------------------------------------------------------------------------------------

UNFROZEN = "qlora: its rules for frozen weights do nothing, for every weight is trained"
FULL = ("llama-2-7b", "--policy", "qlora", *TWO_LAYERS)
COMMANDS = {
    "run": ("run", *FULL),
    "run --by layer": ("run", *FULL, "--by", "layer"),
    "run --sweep": ("run", *FULL, "--sweep", "batch=1,2"),
    "memory": ("memory", *FULL),
}


@pytest.mark.parametrize("style", ["table", "markdown", "latex", "json"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_policy_for_frozen_weights_says_that_none_is_and_what_to_set(command, style):
    text = text_of(*COMMANDS[command], "--format", style)
    if style == "json":
        [warning] = json.loads(text)["warnings"]
        assert warning.startswith(UNFROZEN)
        assert 'training.trainable which are, such as ["*.lora_*"]; adapters to train instead are model.lora' in warning
    else:
        assert UNFROZEN in text
        assert "training.trainable which are" in text
        assert "model.lora" in text


def test_nothing_is_said_where_weights_are_frozen():
    for command in ("run", "memory"):
        assert "frozen" not in text_of(command, "llama-2-7b-lora", "--policy", "qlora", *TWO_LAYERS)
        data = json.loads(run_command(command, "llama-2-7b-lora", *TWO_LAYERS, "--format", "json"))
        assert data["warnings"] == []


def test_adapters_that_are_there_are_not_named_again():
    text = text_of("memory", "llama-2-7b-lora", "--policy", "qlora", *TWO_LAYERS, "--set", "training.trainable=['*']")
    assert UNFROZEN in text
    assert "adapters to train instead" not in text


def test_the_baseline_and_the_page_are_warned_of_too():
    job = prepare(Request("llama-2-7b", policies=["bf16-mixed"], baseline="qlora", assignments=["model.layers=1"]))
    result = simulate.execute(job)
    assert [line.partition(":")[0] for line in warnings.of_run(result, "policy")] == ["qlora"]
    assert UNFROZEN in page(result)


def test_a_rule_that_must_match_frozen_weights_says_so_too(tmp_path):
    path = tmp_path / "base8.yaml"
    path.write_text("description: x\ncompose: [lora]\nrules:\n  - {trainable: false, format: fp8-e4m3-tensor}\n")
    text = text_of("run", "llama-2-7b", "--policy", str(path), *TWO_LAYERS, code=2)
    assert (
        "4:5: rules.0: this rule matches nothing in the workload, which freezes no weight (training.trainable" in text
    )


# --- copies beside narrower tensors -----------------------------------------------------------------------------------

FP8 = """description: adapters over a base stored in fp8 only
compose: [lora]
rules:
  - {role: [weight], trainable: false, name: "decoder.*.weight", not_name: ["*norm.weight"], format: fp8-e4m3-tensor}
"""
ON_CHIP = "  - {copy: operand, operand: [w], role: [weight], trainable: false, format: bf16, placement: on_chip}\n"


@pytest.fixture
def bases(tmp_path):
    """A frozen base in fp8: with the bf16 copies that bf16-mixed makes of all weights, and without."""
    (tmp_path / "stored.yaml").write_text(FP8)
    (tmp_path / "chip.yaml").write_text(FP8 + ON_CHIP)
    return [str(tmp_path / name) for name in ("stored.yaml", "chip.yaml")]


def test_a_base_in_fp8_that_raises_the_peak_says_by_how_much(bases):
    """Beside the base of 1 byte a number (and a scale of 4 a tensor) lie copies of 2 bytes a number."""
    policies = [argument for base in bases for argument in ("--policy", base)]
    data = json.loads(
        run_command("memory", "llama-2-7b-lora", "--policy", "lora", *policies, *TWO_LAYERS, "--format", "json")
    )
    peaks = {row["policy"]: int(row["peak_memory_bytes"]) for row in data["rows"]}
    stored = 2 * (ELEMENTS + 4 * MATRICES)
    assert peaks["stored"] - peaks["lora"] == stored == 404_750_392
    assert peaks["lora"] - peaks["chip"] == 2 * 2 * ELEMENTS - stored
    [warning] = data["warnings"]
    assert warning == (
        f"stored: {2 * 2 * ELEMENTS} bytes of its peak are copies that lie beside the narrower tensors that they are "
        f"made from; the peak is {stored} bytes above that of lora; with placement on_chip they take none"
    )


def test_that_is_said_wherever_memory_is_shown(bases):
    arguments = ("llama-2-7b-lora", "--policy", bases[0], *TWO_LAYERS)
    said = "stored: 809500672 bytes of its peak are copies that lie beside the narrower tensors"
    assert said in text_of("memory", *arguments)
    assert said in text_of("run", *arguments, "--by", "reduction")
    assert said not in text_of("run", *arguments)  # no memory there
    assert said in json.loads(run_command("run", *arguments, "--format", "json"))["warnings"][0]
    result = simulate.execute(prepare(Request("llama-2-7b-lora", policies=[bases[0]], assignments=["model.layers=1"])))
    assert "bytes of its peak are copies that lie beside the narrower tensors" in page(result)


def test_copies_that_are_narrower_or_of_other_blocks_are_no_matter():
    """What mixed precision does on purpose: bf16 beside fp32, or the same bits in blocks along other dims."""
    for workload, policies in (
        ("gpt2-small", ["bf16-mixed", "dsq", "fp8-block", "nvfp4", "w8a8"]),
        ("llama-2-7b-lora", ["lora", "qlora", "bf16-mixed"]),
    ):
        job = prepare(Request(workload, policies=policies, assignments=["model.layers=2"]))
        for policy in job.policies:
            memory = of_policy(job.graph, policy, "fused")[1]
            assert list(warnings.copies(job, policy, memory)) == []


# --- dropout ----------------------------------------------------------------------------------------------------------

SAID = "model.attention_dropout is not said: attention counts as without dropout"
EAGER = ("gpt2-small", "--policy", "fp32", "--set", "model.layers=1", "--set", "model.attention=eager")


def test_dropout_without_a_word_on_attention_says_how_attention_counts():
    dropout = ("--set", "model.dropout=0.1")
    assert f"model.dropout is 0.1 and {SAID}" in text_of("memory", *EAGER, *dropout)
    for rate in (0.0, 0.1):
        assert SAID not in text_of("memory", *EAGER, *dropout, "--set", f"model.attention_dropout={rate}")
    assert SAID not in text_of("memory", *EAGER, "--set", "model.dropout=0")


def test_what_is_not_said_keeps_as_much_as_no_dropout_in_attention():
    """Without, attention keeps 3 of the 5 bytes of Korthikanti et al. 2022 less (here in fp32): a mask and a result."""
    kept = {}
    for rate in ("", "0.0", "0.1"):
        more = ("--set", f"model.attention_dropout={rate}") if rate else ()
        data = json.loads(run_command("memory", *EAGER, "--set", "model.dropout=0.1", *more, "--format", "json"))
        kept[rate] = int(data["rows"][0]["activations_bytes"])
        assert bool(data["warnings"]) == (rate == "")
    scores = 8 * 12 * 1024 * 1024  # batch, heads, queries, keys
    assert kept[""] == kept["0.0"] == kept["0.1"] - (1 + 4) * scores


@pytest.mark.parametrize("name", sorted(files.list_shipped("workloads")))
def test_shipped_workloads_with_their_own_policies_have_nothing_to_be_warned_of(name):
    assert json.loads(run_command("memory", name, "--format", "json"))["warnings"] == []


# --- nothing fits -----------------------------------------------------------------------------------------------------


def test_where_nothing_fits_the_largest_component_is_named():
    arguments = ("memory", "gpt2-small", "--policy", "fp32", "--set", "model.layers=1", "--batch", "1")
    data = json.loads(run_command(*arguments, "--capacity-bytes", "1000", "--format", "json"))
    [row] = data["rows"]
    largest = max(data["components"], key=lambda name: int(row[f"{name}_bytes"]))
    text = text_of(*arguments, "--capacity-bytes", "1000")
    expected = f"at most 0 sequences do; the most is in {largest.replace('_', ' ')}, {row[f'{largest}_bytes']} bytes"
    assert f"{expected} at batch 1" in text
    assert "the most is in" not in text_of(*arguments, "--capacity-bytes", "80e9")
