"""The shipped policies: what meets the multipliers, what is stored, in how many bits. Worked out by hand."""

import pytest
from conftest import (
    COMPLETE,
    STEPS,
    TRANSFORMING,
    adamw,
    copies_of,
    counted,
    decoder_step,
    formats_of,
    llama_step,
    miscounts,
    moves,
    policy,
    shipped_policy,
)

from costsim.cost.totals import sum_rows
from costsim.graph.builder import GraphBuilder
from costsim.graph.fusion import UNTILED
from costsim.inputs import files
from costsim.inputs.parse import parse_yaml
from costsim.policy.assign import assign
from costsim.policy.load import compose, make_policy
from costsim.policy.policy import with_case

SHIPPED = sorted(files.list_shipped("policies"))
DROPOUT = {"dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.1}
WAYS = {
    "plain": {},
    "dropout": {**DROPOUT, "optimizer": adamw(clip_norm=1.0), "micro_batches": 2},
    "flash": {"attention": "flash"},
    "full": {"checkpointing": "full"},
    "both": {"attention": "flash", "checkpointing": "full"},
}
ADAPTERS = {"lora": {"rank": 2, "targets": ("*.q", "*.fc1")}, "trainable": ("*.lora_?.weight",)}
LAYER = "decoder.0.ffn.fc1"  # x[3, 5, 8] w[8, 12]: 15 tokens, 8 inputs, 12 outputs

# What meets the multipliers: x and w in y = x w, dy and w in dx, x and dy in dw.
RAW = ("bf16", "bf16")
LINEAR = {
    "bf16-mixed": (RAW, RAW, RAW),
    "w8-channel": (("bf16", "int8-row"), RAW, RAW),
    "w8-tensor": (("bf16", "int8"), RAW, RAW),
    "w4-channel": (("bf16", "int4-row"), RAW, RAW),
    "w4-tensor": (("bf16", "int4"), RAW, RAW),
    "w4-group128": (("bf16", "int4-1x128"), RAW, RAW),
    "a8-token": (("int8-row", "bf16"), RAW, RAW),
    "a8-tensor": (("int8", "bf16"), RAW, RAW),
    "a4-token": (("int4-row", "bf16"), RAW, RAW),
    "a4-tensor": (("int4", "bf16"), RAW, RAW),
    "a4-token-asym": (("int4-asym-row", "bf16"), RAW, RAW),
    "a4-channel": (("int4-column", "bf16"), RAW, RAW),
    "g8-token": (RAW, RAW, ("bf16", "int8-column")),
    "g8-tensor": (RAW, RAW, ("bf16", "int8")),
    "g4-token": (RAW, RAW, ("bf16", "int4-column")),
    "g8-token-dx": (RAW, ("int8-row", "bf16"), RAW),
    "g8-tensor-dx": (RAW, ("int8", "bf16"), RAW),
    "g4-token-dx": (RAW, ("int4-row", "bf16"), RAW),
    "m1-8-channel": (RAW, RAW, RAW),
    "m1-8-tensor": (RAW, RAW, RAW),
    "m1-4-channel": (RAW, RAW, RAW),
    "m1-4-tensor": (RAW, RAW, RAW),
    "m2-8": (RAW, RAW, RAW),
    "w8a8": (("int8-row", "int8-row"), RAW, RAW),
    "w8a8g8": (("int8-row", "int8-row"), RAW, ("bf16", "int8-column")),
}
OF_TODAY = {
    "fp32": (("fp32", "fp32"),) * 3,
    "bf16-pure": (RAW, RAW, RAW),
    "bf16-autocast": (RAW, RAW, RAW),
    "bf16-eager": (RAW, RAW, RAW),
    "fp16-mixed": (("fp16", "fp16"),) * 3,
    "lora": (RAW, RAW, RAW),
    "qlora": (RAW, RAW, RAW),
    "bf16-mixed+adam8bit": (RAW, RAW, RAW),
    "fp8-tensor": (
        ("fp8-e4m3-tensor", "fp8-e4m3-tensor"),
        ("fp8-e5m2-tensor", "fp8-e4m3-tensor"),
        ("fp8-e4m3-tensor", "fp8-e5m2-tensor"),
    ),
    "fp8-current": (
        ("fp8-e4m3-tensor", "fp8-e4m3-tensor"),
        ("fp8-e5m2-tensor", "fp8-e4m3-tensor"),
        ("fp8-e4m3-tensor", "fp8-e5m2-tensor"),
    ),
    "fp8-block": (
        ("fp8-e4m3-1x128", "fp8-e4m3-128x128"),
        ("fp8-e5m2-1x128", "fp8-e4m3-128x128"),
        ("fp8-e4m3-1x128", "fp8-e5m2-1x128"),
    ),
    "mxfp8": (("mxfp8", "mxfp8"),) * 3,
    "nvfp4": (("nvfp4", "nvfp4-16x16"), ("nvfp4", "nvfp4-16x16"), ("nvfp4", "nvfp4")),
}
QUANTIZED = sorted(LINEAR.keys() - {"bf16-mixed"})
ORIGINAL = {"forward": 0, "dgrad": 1, "wgrad": 2}


def named(name):
    """A shipped policy, on bf16-mixed if it says too little to stand alone."""
    return shipped_policy(name if name in COMPLETE or "+" in name else f"bf16-mixed+{name}")


def multiplied(graph, name):
    """{GEMM: the formats of its operands}"""
    assignment = assign(graph, named(name))
    return {op.name: tuple(assignment.multiplied(op, i).name for i in (0, 1)) for op in graph.ops if op.gemm}


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(STEPS))
@pytest.mark.parametrize("way", sorted(WAYS))
def test_every_policy_takes_every_family(family, way):
    graph = STEPS[family](**WAYS[way])
    for name in [name for name in SHIPPED if name not in TRANSFORMING]:
        formats = formats_of(graph, named(name))
        assert formats.keys() == graph.tensors.keys(), name


@pytest.mark.parametrize("family", ["decoder", "llama", "experts"])
def test_every_policy_takes_adapters(family):
    graph = STEPS[family](**{**ADAPTERS, "lora": {"rank": 2, "targets": ("*.q",)}})
    for name in [name for name in SHIPPED if name not in TRANSFORMING]:
        assert formats_of(graph, named(name)).keys() == graph.tensors.keys(), name


@pytest.mark.parametrize("name", SHIPPED)
def test_every_file_says_what_it_is(name):
    file = shipped_policy(name).file if name in COMPLETE else named(name).file
    fields = parse_yaml(files.read_text(files.list_shipped("policies")[name]), name).data
    assert fields["description"]
    assert "\n" not in fields["description"]
    assert fields["source"].strip()
    assert fields["grade"] in ("stated", "inferred", "recalled", "ours")
    assert len(fields.get("setup", "")) <= 14
    assert "setup" in fields or file.levels or name not in COMPLETE


def test_the_paper_and_today_are_all_there():
    known = (
        LINEAR.keys()
        | OF_TODAY.keys() - {"bf16-mixed+adam8bit"}
        | {"as-coded", "deployed", "adam8bit", "adam8bit-256", "mask1", "zeropp"}
    )
    other = ("bfp", "fixed", "stash-", "static", "dsq")  # in tests of their own
    recipes = {name for name in SHIPPED if named(name).file.published}  # in test_recipes
    assert {name for name in SHIPPED if not name.startswith(other)} - recipes == known - recipes


def test_masks_of_one_bit_take_an_eighth_of_bytes_and_nothing_else_changes():
    graph = STEPS["decoder"](**DROPOUT)
    plain, narrow = (assign(graph, shipped_policy(name)) for name in ("bf16-mixed", "bf16-mixed+mask1"))
    for tensor in graph.tensors.values():
        formats = plain.format(tensor.name).name, narrow.format(tensor.name).name
        drawn = tensor.values == "mask" and tensor.role == "activation"
        assert formats == ("mask8", "mask1") if drawn else formats[0] == formats[1]


# --- what meets the multipliers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LINEAR, *OF_TODAY])
def test_formats_in_the_three_gemms_of_a_linear_layer(name):
    graph = decoder_step(**(ADAPTERS if "lora" in name else {}))
    formats = multiplied(graph, name)
    expected = {**LINEAR, **OF_TODAY}[name]
    assert (formats[LAYER], formats[f"{LAYER}.dx"]) == expected[:2]
    assert ("lora" in name) or formats[f"{LAYER}.dw"] == expected[2]


@pytest.mark.parametrize("way", ["plain", "both"])
@pytest.mark.parametrize("name", [*LINEAR, "fp8-tensor", "fp8-current", "fp8-block", "mxfp8", "nvfp4"])
def test_all_linear_layers_alike_and_nothing_else(step, name, way):
    graph = step(**WAYS[way])
    seen = set()
    for op_name, formats in multiplied(graph, name).items():
        op = next(op for op in graph.ops if op.name == op_name)
        other = op_name.startswith("head.") or "_attention.scores" in op_name or "_attention.context" in op_name
        expected = RAW if other else {**LINEAR, **OF_TODAY}[name][ORIGINAL[op.gemm]]
        assert formats == expected, op_name
        seen.add(other)
    assert seen == {True, False}


@pytest.mark.parametrize("family", ["encoder-classifier", "decoder", "llama"])
def test_the_head_is_an_assumption(family):
    graph = STEPS[family]()
    for name, gemms in (("w8a8", LINEAR["w8a8"]), ("w8a8g8", LINEAR["w8a8g8"])):
        shipped = shipped_policy(name)
        [assumption] = shipped.assumptions
        changed = assign(graph, with_case(shipped, assumption, 0))
        heads = [op for op in graph.ops if op.gemm and op.name.startswith("head.")]
        assert heads
        for op in heads:
            assert tuple(changed.multiplied(op, i).name for i in (0, 1)) == gemms[ORIGINAL[op.gemm]]


# --- composing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", ["w8-channel+a8-token+g8-token", "g8-token+a8-token+w8-channel", "w8a8+g8-token"])
def test_parts_compose_in_any_order(together):
    graph = llama_step(micro_batches=2)
    assert counted(graph, shipped_policy(together)) == counted(graph, shipped_policy("w8a8g8"))


def test_a_width_is_changed_by_what_comes_later():
    graph = decoder_step()
    assert multiplied(graph, "w8a8+a4-token")[LAYER] == ("int4-row", "int8-row")
    assert multiplied(graph, "a4-token+w8a8")[LAYER] == ("int8-row", "int8-row")
    assert multiplied(graph, "w8a8+a4-channel")[LAYER] == ("int4-column", "int8-row")


def test_a_common_base_comes_once():
    rules = shipped_policy("w8-channel+a8-token").file.rules
    base = shipped_policy("bf16-mixed").file.rules
    assert rules[: len(base)] == base
    assert len(rules) == len(base) + 2


def test_what_is_recalled_stays_so_when_composed():
    recalled = make_policy(
        "r", {"description": "r", "grade": "recalled", "rules": [{"role": ["state"], "format": "bf16"}]}
    )
    assert compose([shipped_policy("fp8-block"), recalled]).recalled
    assert not shipped_policy("fp8-block+deployed").recalled


@pytest.mark.parametrize(("field", "unwanted"), [("not_op", "*.fc1"), ("not_name", "*_norm"), ("not_name", "*.ffn_*")])
def test_a_rule_leaves_alone_what_it_says(field, unwanted):
    graph = decoder_step()
    rules = ({"format": "fixed16"}, {"copy": "operand", "gemm": ("forward",), "format": "fixed4", "operand": ("x",)})
    every = copies_of(graph, policy(*rules))
    some = copies_of(graph, policy(rules[0], {**rules[1], field: (unwanted, "nothing.like.this")}))
    gone = {op for op, _ in every.keys() - some.keys()}
    fc1 = {f"decoder.{i}.ffn.fc1" for i in (0, 1)}
    normed = fc1 | {f"decoder.{i}.self_attention.{which}" for i in (0, 1) for which in "qkv"}
    assert gone == {"*.fc1": fc1, "*_norm": normed, "*.ffn_*": fc1}[unwanted]


# --- bits -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wide():
    """y = relu(x) w of x[4, 300], w[300, 5]: a group of 128 inputs is cut off."""
    b = GraphBuilder({"tokens": 4, "in": 300, "out": 5})
    with b.scope("layer", layer=True):
        x = b.op("relu", b.given("x", ("tokens", "in"), role="activation"), name="relu")
        b.linear(x, "fc", ("out",), bias=False)
    return b.build()


X, W = 4 * 300, 300 * 5
BITS = {  # of what the GEMM reads: x, then w
    "w8-channel": (16 * X, 8 * W + 5 * 32),
    "w8-tensor": (16 * X, 8 * W + 32),
    "w4-channel": (16 * X, 4 * W + 5 * 32),
    "w4-tensor": (16 * X, 4 * W + 32),
    "w4-group128": (16 * X, 4 * W + 5 * 3 * 32),  # 300 inputs are 3 groups, the last cut off
    "a8-token": (8 * X + 4 * 32, 16 * W),
    "a8-tensor": (8 * X + 32, 16 * W),
    "a4-token": (4 * X + 4 * 32, 16 * W),
    "a4-tensor": (4 * X + 32, 16 * W),
    "a4-token-asym": (4 * X + 4 * (32 + 4), 16 * W),  # a zero point of 4 bits beside each scale
    "a4-channel": (4 * X + 300 * 32, 16 * W),
    "w8a8": (8 * X + 4 * 32, 8 * W + 5 * 32),
}


@pytest.mark.parametrize("name", sorted(BITS))
def test_bits_of_the_copies_that_are_deployed(wide, name):
    read = moves(counted(wide, shipped_policy(f"{name}+deployed")))["layer.fc"]
    assert tuple(read.values())[:2] == tuple((bits, 0) for bits in BITS[name])


@pytest.mark.parametrize("name", sorted(BITS))
def test_as_coded_copies_are_as_wide_as_bf16(wide, name):
    read = moves(counted(wide, shipped_policy(f"{name}+as-coded")))["layer.fc"]
    assert tuple(read.values())[:2] == ((16 * X, 0), (16 * W, 0))


@pytest.mark.parametrize("name", ["w8-tensor", "a8-tensor", "a4-channel"])
def test_a_scale_of_the_step_itself_is_a_second_read(wide, name):
    row = counted(wide, shipped_policy(name))[-1]
    reads = [move.tensor(row.ops[0]) for move in row.moves if move.read_bits]
    assert reads.count("layer.fc.weight" if name[0] == "w" else "layer.relu") == 2


DY = 3 * 5 * 12
DEPLOYED_DY = {
    "g8-token": (16 * DY, 8 * DY + 15 * 32),  # read for dx, for dw
    "g8-tensor": (16 * DY, 8 * DY + 32),
    "g4-token": (16 * DY, 4 * DY + 15 * 32),
    "g8-token-dx": (8 * DY + 15 * 32, 16 * DY),
    "g8-tensor-dx": (8 * DY + 32, 16 * DY),
    "g4-token-dx": (4 * DY + 15 * 32, 16 * DY),
}


@pytest.mark.parametrize("name", sorted(DEPLOYED_DY))
def test_gradients_are_quantized_for_dw_or_for_dx(name):
    graph = decoder_step()
    moved = moves(counted(graph, shipped_policy(f"{name}+deployed")))
    dx, dw = moved[f"{LAYER}.dx"], moved[f"{LAYER}.dw"]
    assert (next(iter(dx.values()))[0], list(dw.values())[1][0]) == DEPLOYED_DY[name]


def test_what_the_backward_saves_is_raw():
    graph = decoder_step()
    for name in ("w8a8+as-coded", "w8a8+deployed"):
        moved = moves(counted(graph, shipped_policy(name)))
        assert moved[f"{LAYER}.dw"]["decoder.0.ffn_norm"] == (16 * 15 * 8, 0)
        assert moved[f"{LAYER}.dx"][
            f"{LAYER}.weight@operand.bf16.stored" if "coded" in name else f"{LAYER}.weight@operand.bf16"
        ]


STATES = {  # of m and v of w[8, 12]
    "m1-8-channel": (8 * 96 + 12 * 32, 32 * 96),
    "m1-8-tensor": (8 * 96 + 32, 32 * 96),
    "m1-4-channel": (4 * 96 + 12 * 32, 32 * 96),
    "m1-4-tensor": (4 * 96 + 32, 32 * 96),
    "m2-8": (32 * 96, 8 * 96 + 12 * 32),
    "m1-8-tensor+m2-8": (8 * 96 + 32, 8 * 96 + 12 * 32),
    "bf16-mixed+adam8bit": (32 * 96,) * 2,  # less than 4,096 elements
}


def states_of(graph, name, weight):
    """What the update reads and writes of both moments of a weight."""
    moved = moves(counted(graph, shipped_policy(name)))[f"{weight}.adamw"]
    bits = [(moved[f"{weight}.{state}"][0], moved[f"{weight}.{state}.next"][1]) for state in "mv"]
    assert all(read == written for read, written in bits)
    return tuple(read for read, _ in bits)


@pytest.mark.parametrize("name", sorted(STATES))
def test_bits_of_states(name):
    graph = decoder_step()
    assert states_of(graph, name, f"{LAYER}.weight") == STATES[name]
    assert states_of(graph, f"{name}+as-coded+deployed", f"{LAYER}.weight") == STATES[name]
    assert states_of(graph, f"{name}+as-coded", f"{LAYER}.weight") == (32 * 96, 32 * 96)


def test_fake_quantized_states_hold_the_values_of_the_grid():
    state = formats_of(decoder_step(), shipped_policy("m1-4-tensor+as-coded"))[f"{LAYER}.weight.m"]
    assert (state.name, state.grid.name) == ("int4-in-fp32", "int4")


@pytest.mark.parametrize("name", sorted(STATES))
def test_states_of_all_else_stay_in_fp32(step, name):
    graph = step()
    formats = formats_of(graph, shipped_policy(name))
    for tensor in graph.tensors:
        if tensor.endswith((".m", ".v")) and ("norm" in tensor or "bias" in tensor or tensor.startswith("embedding.")):
            assert formats[tensor].name == "fp32", tensor
    linear = [formats[tensor].name for tensor in graph.tensors if tensor.endswith((".q.weight.m", ".q.weight.v"))]
    assert len(set(linear)) == (1 if "adam8bit" in name else 2)


# --- findings ---------------------------------------------------------------------------------------------------------


def cost(graph, name):
    return sum_rows(counted(graph, shipped_policy(name)), "product").arithmetic_cost


@pytest.mark.parametrize("name", QUANTIZED)
def test_only_what_is_deployed_saves_arithmetic(name):
    """bf16 has 8 bits in a multiplier, as int8 has: 8-bit integers save nothing under this law, 4-bit ones half."""
    graph = decoder_step()
    raw = cost(graph, "bf16-mixed")
    assert cost(graph, f"{name}+as-coded") == raw
    narrow = name.startswith(("w4", "a4", "g4"))
    assert (cost(graph, f"{name}+deployed") < raw) == narrow
    if narrow:
        linear = sum(
            graph.work(op)[0]
            for op in graph.ops
            if op.gemm == "forward" and not op.name.startswith("head.") and ".self_attention.scores" not in op.name
            if ".self_attention.context" not in op.name
        )
        assert raw - cost(graph, f"{name}+deployed") == linear * (8 * 8 - 8 * 4)


@pytest.mark.parametrize("name", ["w8a8", "w8a8g8", "a4-channel", "g8-tensor"])
def test_as_coded_moves_more_than_without_quantization(name):
    graph = llama_step()
    bits = [
        sum_rows(counted(graph, shipped_policy(each)), "product").dram_bits
        for each in (f"{name}+as-coded", "bf16-mixed")
    ]
    assert bits[0] > bits[1]


# --- the second, transposed copy --------------------------------------------------------------------------------------

WRITTEN = {  # of w[8, 12] by its update, besides w itself: for y with blocks along inputs, for dx along outputs
    "mxfp8": {".model": 8 * 96 + 12 * 8, ".ffn": 8 * 96 + 8 * 8},
    "fp8-block": {".model": 8 * 96 + 32, ".ffn": 8 * 96 + 32},
    "nvfp4": {".model": 4 * 96 + 8 + 32, ".ffn": 4 * 96 + 8 + 32},
    "fp8-tensor": {"": 8 * 96 + 32},  # no blocks: one copy serves both
}


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_both_copies_of_a_weight_are_stored_and_read(name):
    moved = moves(counted(decoder_step(), shipped_policy(name)))
    label = f"{LAYER}.weight@operand.{OF_TODAY[name][0][1]}"
    copies = {thing: bits for thing, (_, bits) in moved[f"{LAYER}.weight.adamw"].items() if "@" in thing}
    assert copies == {f"{label}{run}": bits for run, bits in WRITTEN[name].items()}
    read = {
        thing: bits for op in (LAYER, f"{LAYER}.dx") for thing, (bits, _) in moved[op].items() if ".weight@" in thing
    }
    assert read == copies


def test_the_second_copies_of_activations_and_gradients():
    """15 tokens: x[15, 8] with blocks along inputs and along tokens; dy[15, 12] along outputs and along tokens."""
    moved = moves(counted(decoder_step(), shipped_policy("mxfp8")))
    x = {thing: bits for thing, (_, bits) in moved["decoder.0.ffn_norm"].items() if "@" in thing}
    assert x == {
        "decoder.0.ffn_norm@operand.mxfp8.model": 8 * 120 + 15 * 8,
        "decoder.0.ffn_norm@stash.mxfp8.batch+tokens": 8 * 120 + 8 * 8,
    }
    dy = {thing: bits for op in moved.values() for thing, (_, bits) in op.items() if thing.startswith(f"{LAYER}.grad@")}
    dy |= {
        thing: bits
        for op in moved.values()
        for thing, (_, bits) in op.items()
        if thing.startswith(f"{LAYER}.add_bias.grad@") and bits
    }
    assert sorted(dy.values()) == [8 * DY + 12 * 8, 8 * DY + 15 * 8]


# --- adapters on frozen weights ---------------------------------------------------------------------------------------


def test_qlora_stores_frozen_linear_weights_in_4_bits_and_keeps_no_states_of_them():
    graph = llama_step(**ADAPTERS, qk_norm=True)
    formats = formats_of(graph, shipped_policy("qlora"))
    for tensor in graph.weights:
        linear = tensor.layer.startswith("decoder.") and not tensor.name.endswith("norm.weight")
        expected = "fp32" if tensor.trainable else "nf4-double" if linear else "bf16"
        assert formats[tensor.name].name == expected, tensor.name
        assert (f"{tensor.name}.m" in graph.tensors) == tensor.trainable == (".lora_" in tensor.name)
    assert {formats[name].name for name, tensor in graph.tensors.items() if tensor.role == "state"} == {"fp32"}


def test_what_qlora_reads_of_a_frozen_weight():
    """w[8, 12] in NF4: 96 elements, flattened, are 2 blocks with an 8-bit scale each, in one block of those."""
    graph = decoder_step(**ADAPTERS)
    moved = moves(counted(graph, shipped_policy("qlora")))
    for op in (LAYER, f"{LAYER}.dx"):
        assert moved[op][f"{LAYER}.weight"] == (4 * 96 + 2 * 8 + 32, 0)
    assert not any(
        "fc1.weight" in thing and "@" in thing for op in moved.values() for thing in op if "lora" not in thing
    )


def test_lora_has_no_fp32_copy_of_what_is_frozen():
    graph = decoder_step(**ADAPTERS)
    formats = formats_of(graph, shipped_policy("lora"))
    assert {formats[w.name].name for w in graph.weights if not w.trainable} == {"bf16"}
    assert formats_of(decoder_step(), shipped_policy("lora")) == formats_of(
        decoder_step(), shipped_policy("bf16-mixed")
    )


# --- autocast ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (
            "decoder",
            {
                "embedding.dropout": "fp32",
                "decoder.0.self_attention_norm": "fp32",
                "decoder.0.self_attention.q": "bf16",
                "decoder.0.self_attention.q.add_bias": "bf16",
                "decoder.0.self_attention.scores": "bf16",
                "decoder.0.self_attention.softmax": "fp32",
                "decoder.0.self_attention.dropout": "fp32",
                "decoder.0.self_attention.context": "bf16",
                "decoder.0.self_attention_dropout": "bf16",
                "decoder.0.self_attention_residual": "fp32",
                "decoder.0.ffn.gelu_new": "bf16",
                "decoder.0.ffn.gelu_new.grad": "bf16",
                "decoder.0.ffn_residual.grad": "fp32",
                "head.logits": "bf16",
                "head.cross_entropy.logp": "fp32",
                "head.logits.grad": "fp32",
                "decoder.0.ffn.fc1.weight": "fp32",
                "decoder.0.ffn.fc1.weight.grad": "fp32",
                "decoder.0.ffn.fc1.weight.m": "fp32",
            },
        ),
        ("experts", {"decoder.0.experts.router": "bf16", "decoder.0.experts.combine": "fp32"}),
        ("encoder-classifier", {"head.first_token": "fp32", "head.dense": "bf16", "head.tanh": "bf16"}),
    ],
)
def test_what_autocast_keeps_in_fp32(family, expected):
    formats = formats_of(STEPS[family](**DROPOUT), shipped_policy("bf16-autocast"))
    assert {name: formats[name].name for name in expected} == expected


def test_autocast_multiplies_bf16_only(step):
    graph = step(**DROPOUT)
    assert set(multiplied(graph, "bf16-autocast").values()) == {RAW}


@pytest.mark.parametrize("traffic", UNTILED)
def test_autocast_moves_no_scores_of_flash_attention(step, traffic):
    graph = step(attention="flash", **DROPOUT)
    moved = moves(counted(graph, shipped_policy("bf16-autocast"), traffic))
    things = [thing for op in moved.values() for thing in op if "_attention.s" in thing]
    assert things
    assert not any(".scores" in thing or "softmax@" in thing or thing.endswith(".softmax") for thing in things)


# --- what is counted is what happens ----------------------------------------------------------------------------------

MEASURED = [
    *("w8a8g8+deployed", "w4-group128+a4-channel+g8-tensor-dx", "a4-token-asym+deployed+m1-4-channel+m2-8"),
    *("g4-token+m1-8-tensor+as-coded", "fp8-block+adam8bit", "fp8-current", "bf16-autocast", "bf16-pure", "qlora"),
]


@pytest.mark.parametrize("family", ["encoder-classifier", "experts"])
@pytest.mark.parametrize("name", MEASURED)
def test_counts_are_what_is_measured(family, name):
    adapters = ADAPTERS if name == "qlora" and family == "experts" else {}
    if adapters:
        adapters = {**adapters, "lora": {"rank": 2, "targets": ("*.q",)}}
    graph = STEPS[family](micro_batches=2, optimizer=adamw(clip_norm=1.0), **DROPOUT, **adapters)
    assert miscounts(graph, shipped_policy(name)) == []


# --- float32 in the model's code --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bf16-mixed", "bf16-pure", "bf16-eager", "fp16-mixed", "fp8-tensor", "mxfp8", "lora"])
def test_what_the_code_has_in_float32_is_fp32_and_products_are_as_they_were(name):
    """model.upcast: norms and softmax, forward and backward; softmax's gradient comes from a product as it is."""
    plain, upcast = STEPS["llama"](), STEPS["llama"](fused_norm=False, upcast=True)
    formats = formats_of(upcast, named(name))
    wide = [tensor for tensor in formats if ".float32" in tensor and ".softmax.float32.grad" not in tensor]
    assert any("norm" in tensor for tensor in wide)
    assert any("softmax" in tensor for tensor in wide)
    assert {formats[tensor].name for tensor in wide} == {"fp32"}
    assert multiplied(upcast, name) == multiplied(plain, name)
