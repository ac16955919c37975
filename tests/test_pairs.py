"""Which pairs of tokens meet in attention: closed forms, masks by their definition, and what is counted of them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import LLAMA, SMALL_DECODER, adamw, counted, decoder_step, llama_step, shipped_policy
from hypothesis import given
from hypothesis import strategies as st

from costsim.cli import main
from costsim.cost.tiling import tile_rows
from costsim.errors import InputError
from costsim.formats.named import parse_format
from costsim.graph.graph import Graph
from costsim.graph.pairs import Pairs
from costsim.huggingface.fields import shortest_period, window_of_some
from costsim.models import decoder
from costsim.models.sections import Length
from costsim.models.training_step import FieldError, training_step
from costsim.reference.numpy_ops import met
from costsim.reference.validate import validate
from costsim.run.job import Request, prepare


@st.composite
def rules(draw):
    lengths = tuple(draw(st.lists(st.integers(1, 9), max_size=4)))
    tokens = sum(lengths) or draw(st.integers(1, 20))
    causal = draw(st.booleans())
    return Pairs("tokens", tokens, causal, draw(st.none() | st.integers(1, 24)), lengths)


def mask(pairs):
    """By definition: the same sentence, not later, less than a window back; or, if later ones are met, off."""
    sentence = np.repeat(np.arange(len(pairs.lengths or (1,))), pairs.lengths or (pairs.tokens,))
    query, key = np.indices((pairs.tokens, pairs.tokens))
    meets = sentence[query] == sentence[key]
    if pairs.causal:
        meets &= key <= query
    if pairs.window:
        meets &= abs(key - query) < pairs.window
    return meets


@given(rules())
def test_pairs_are_those_of_the_mask(pairs):
    meets = mask(pairs)
    np.testing.assert_array_equal(met(pairs), meets)
    assert pairs.number == meets.sum()
    assert pairs.longest == meets.sum(axis=1).max()
    for axis in (0, 1):  # by queries, and by keys
        lengths, times = np.unique(meets.sum(axis=axis), return_counts=True)
        assert pairs.runs == dict(zip(lengths.tolist(), times.tolist(), strict=True))
    for token in range(pairs.tokens):
        assert list(pairs.keys(token)) == np.flatnonzero(meets[token]).tolist()
        assert list(pairs.queries(token)) == np.flatnonzero(meets[:, token]).tolist()


@given(st.integers(1, 5), st.integers(1, 6), st.booleans(), st.none() | st.integers(1, 24))
def test_slices_are_rows_of_the_mask(ranks, each, causal, window):
    """Of 2 n runs a rank has one from either end; together they have all pairs, and of causal ones equally many."""
    whole = Pairs("tokens", 2 * ranks * each, causal, window if causal else None)
    meets, rows = mask(whole), np.arange(whole.tokens).reshape(2 * ranks, each)
    numbers = []
    for rank in range(ranks):
        own = replace(whole, ranks=ranks, rank=rank)
        mine = meets[np.concatenate([rows[rank], rows[2 * ranks - 1 - rank]])]
        np.testing.assert_array_equal(met(own), mine)
        for runs, axis in ((own.runs, 1), (own.runs_of_keys, 0)):
            lengths, times = np.unique(mine.sum(axis=axis), return_counts=True)
            assert runs == {n: k for n, k in zip(lengths.tolist(), times.tolist(), strict=True) if n}
        for key in range(whole.tokens):
            assert list(own.queries(key)) == np.flatnonzero(mine[:, key]).tolist()
        numbers.append(own.number)
    assert sum(numbers) == whole.number
    if whole.label == "causal":
        assert set(numbers) == {whole.tokens * (whole.tokens + 1) // (2 * ranks)}
        last = meets[-whole.tokens // ranks :].sum()  # slices in one piece: the last has nearly twice the mean
        assert last * ranks / whole.number == pytest.approx((2 * ranks - 1) / ranks, rel=2 / whole.tokens * ranks)


@given(rules(), st.integers(1, 30))
def test_blocks_read_what_any_of_their_tokens_meets(pairs, blocks):
    meets, n = mask(pairs), pairs.tokens
    each = -(-n // min(blocks, n))
    starts = range(0, n, each)
    times = -(-blocks // n)
    assert pairs.keys_read(blocks) == times * sum(meets[at : at + each].any(axis=0).sum() for at in starts)
    assert pairs.queries_read(blocks) == sum(meets[:, at : at + each].any(axis=1).sum() for at in starts)


@pytest.mark.parametrize(
    ("pairs", "number"),
    [
        (Pairs("t", 2048), 4_194_304),
        (Pairs("t", 2048, True), 2_098_176),
        (Pairs("t", 2048, True, 512), 512 * 513 // 2 + 1536 * 512),  # Megatron-LM, pull request 3280: 917,760
        (Pairs("t", 3072, lengths=(512, 512, 2048)), 2 * 512**2 + 2048**2),  # verl, pull request 6389: sum of squares
        (Pairs("t", 8192, True, 4096), 25_167_872),
        (Pairs("t", 5, True, 3), 12),
        (Pairs("t", 8192, False, 65), 8192 * 129 - 64 * 65),  # ModernBERT: 64 tokens to each side
        (Pairs("t", 5, False, 3), 19),
    ],
)
def test_known_numbers(pairs, number):
    assert pairs.number == number


@given(rules(), st.integers(1, 20))
def test_a_shrunk_rule_is_of_the_same_kind(pairs, tokens):
    small = pairs.resized(min(tokens, pairs.tokens))
    assert (small.causal, small.window is None) == (pairs.causal, pairs.window is None)
    assert sum(small.lengths) in (0, small.tokens)


# --- what is counted --------------------------------------------------------------------------------------------------

LENGTHS = (Length(tokens=2, sequences=2), Length(tokens=5, sequences=1))
COUNTED = {  # of 9 tokens: by attention_pairs, the mask that is counted, in a layer with a window of 3
    "square": Pairs("tokens", 9),
    "causal": Pairs("tokens", 9, True),
    "window": Pairs("tokens", 9, True, 3),
    "packed": Pairs("tokens", 9, lengths=(2, 2, 5)),
    "packed-causal": Pairs("tokens", 9, True, lengths=(2, 2, 5)),
    "packed-window": Pairs("tokens", 9, True, 3, (2, 2, 5)),
}


def step(attention_pairs, fields=SMALL_DECODER, **changes):
    """A step over rows of 9 tokens; if packed, over sentences of 2, 2 and 5."""
    packed = attention_pairs.startswith("packed")
    batch = decoder.Batch(lengths=LENGTHS) if packed else decoder.Batch(sequences=2, tokens=9)
    model = decoder.Model(**{**fields, "windows": (3, None), **changes})
    return training_step(model, batch, adamw(), attention_pairs=attention_pairs)


def macs(graph: Graph, name: str) -> int:
    return next(graph.work(op)[0] for op in graph.ops if op.name == name)


@pytest.mark.parametrize("attention", ["eager", "flash"])
@pytest.mark.parametrize("fields", [SMALL_DECODER, {**SMALL_DECODER, **LLAMA}])
@pytest.mark.parametrize("name", COUNTED)
def test_products_and_work_are_of_pairs_that_meet(name, fields, attention):
    graph, square = step(name, fields, attention=attention), step("square", fields, attention=attention)
    rows = graph.sizes["batch"]
    heads = graph.sizes.get("heads") or graph.sizes["kv_heads"] * graph.sizes["group"]
    number = int(mask(COUNTED[name]).sum()) * rows * heads
    ops = [op for op in graph.ops if op.name.startswith("decoder.0.self_attention.")]
    scores = [op for op in ops if ".scores" in op.name or ".context" in op.name]
    assert len([op for op in scores if op.gemm]) == (7 if attention == "flash" else 6)
    for op in scores:
        if op.gemm:
            assert graph.work(op)[0] == number * graph.sizes["head"], op.name
    softmax = next(op for op in ops if op.name.endswith(".softmax"))
    assert graph.work(softmax)[1]["exp"] == number
    if name in ("window", "packed-window"):  # the second layer has no window
        full = Pairs("tokens", 9, True, lengths=COUNTED[name].lengths).number * rows * heads
        assert macs(graph, "decoder.1.self_attention.scores") == full * graph.sizes["head"]
    others = {op.name: graph.work(op)[0] for op in graph.ops if op.gemm and "scores" not in op.name}
    tokens = Fraction(rows * 9, 2 * 9)
    for op in square.ops:
        if op.gemm and ".ffn." in op.name:
            assert others[op.name] == square.work(op)[0] * tokens


@pytest.mark.parametrize("name", COUNTED)
def test_stored_scores_are_those_of_pairs_that_meet(name):
    """In blocks of 4 along the keys: each query's run is cut off by itself."""
    graph = step(name)
    tensor = graph.tensors["decoder.0.self_attention.softmax"]
    meets = mask(COUNTED[name])
    rows = graph.sizes["batch"] * graph.sizes["heads"]
    by_query = sum(-(-int(n) // 4) for n in meets.sum(axis=1)) * rows
    by_key = sum(-(-int(n) // 4) for n in meets.sum(axis=0)) * rows
    elements = int(meets.sum()) * rows
    format = parse_format("bfp4-box4")
    assert graph.elements(tensor.dims) == elements
    assert format.bits_of_runs(graph.runs(tensor.dims, tensor.dims[-1:])) == 4 * elements + 8 * by_query
    assert format.bits_of_runs(graph.runs(tensor.dims, tensor.dims[-2:-1])) == 4 * elements + 8 * by_key


@pytest.mark.parametrize("attention", ["eager", "flash"])
@pytest.mark.parametrize("name", COUNTED)
def test_the_reference_measures_what_is_counted(name, attention, tmp_path):
    """Products query by query, bits of packed scores, conversions; gradients against differences."""
    batch = "{lengths: [{tokens: 6, sequences: 2}, {tokens: 12, sequences: 1}]}"
    path = tmp_path / "w.yaml"
    path.write_text(
        "description: x\nmodel: {family: decoder, d_model: 12, ffn_dim: 20, heads: 4, kv_heads: 2, layers: 2, "
        f"vocab: 30, max_positions: 24, windows: [5, null], attention: {attention}, attention_dropout: 0.1}}\n"
        f"batch: {batch}\n"
        f"training: {{steps: 1}}\noptimizer: {{kind: adamw, lr: 0.1}}\nattention_pairs: {name}\n"
        "policies: [bf16-mixed, bfp16, mxfp8, dsq]\nbaseline: bf16-mixed\n"
    )
    validation = validate(prepare(Request(str(path))))
    assert [check.differences for check in validation.checks] == [[]] * len(validation.checks)
    assert validation.passed


def test_square_is_what_it_was():
    for steps in (decoder_step, llama_step):
        plain, square = steps(), steps(windows=None)
        assert [op.name for op in plain.ops] == [op.name for op in square.ops]
        assert not plain.pairs


def test_a_window_that_reaches_every_token_hides_nothing():
    wide = decoder_step(windows=(5,), batch={"tokens": 5})
    assert [op.kind.name for op in wide.ops] == [op.kind.name for op in decoder_step().ops]


# --- flash attention under a buffer -----------------------------------------------------------------------------------


def test_flash_skips_blocks_that_do_not_meet():
    """Of a window the keys that a block of queries reads are its own and those of the window before."""

    def reads(attention_pairs, buffer_bits):
        model = {"layers": 1, "heads": 1, "d_model": 4, "windows": (16,), "max_positions": 512, "attention": "flash"}
        fields = {**SMALL_DECODER, **model}
        batch = decoder.Batch(sequences=1, tokens=512)
        graph = training_step(decoder.Model(**fields), batch, adamw(), attention_pairs=attention_pairs)
        rows = tile_rows(graph, counted(graph, shipped_policy("fp32"), "tiled"), buffer_bits)
        [row] = [row for row in rows if row.ops[0].name == "decoder.0.self_attention.scores"]
        return next(move.read_bits for move in row.moves if move.slot == 1)

    once, small = 512 * 4 * 32, 32 * 400
    square, causal, window = (reads(name, small) for name in ("square", "causal", "window"))
    blocks = square // once
    assert blocks > 4
    assert causal == once * Pairs("tokens", 512, True).keys_read(blocks) // 512
    assert window == once * Pairs("tokens", 512, True, 16).keys_read(blocks) // 512
    assert once < window < causal < square
    assert Fraction(causal, square) == pytest.approx(Fraction(blocks + 1, 2 * blocks), rel=0.05)


# --- what is refused, what is said ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "message"), [("window", "say model.windows"), ("packed", "say batch.lengths")])
def test_what_there_is_nothing_of_is_refused(name, message):
    model, batch = decoder.Model(**SMALL_DECODER), decoder.Batch(sequences=1, tokens=5)
    with pytest.raises(FieldError, match=message):
        training_step(model, batch, adamw(), attention_pairs=name)


def test_encoders_have_no_triangle():
    with pytest.raises(InputError, match="no attention of this model is causal"):
        prepare(Request("glue-mrpc-dsq", assignments=("attention_pairs=causal",)))


def test_run_says_which_pairs_are_counted():
    said = {
        "square": "attention counts square: all pairs of tokens, masked or not",
        "causal": "attention counts causal: 524800 of 1048576 pairs of tokens",
    }
    for name, line in said.items():
        result = CliRunner().invoke(main, ["run", "gpt2-small", "--set", f"attention_pairs={name}"])
        assert line in result.output


# --- configs ----------------------------------------------------------------------------------------------------------


def test_windows_of_qwen_lie_in_the_upper_layers():
    """transformers' configuration_qwen2: the first max_window_layers layers see everything."""
    config = {"sliding_window": 64, "use_sliding_window": True, "num_hidden_layers": 4, "max_window_layers": 2}
    assert window_of_some(config) == (None, None, 64, 64)
    assert window_of_some({**config, "max_window_layers": 4}) == ()
    assert window_of_some({**config, "max_window_layers": 0}) == (64,)
    assert window_of_some({**config, "use_sliding_window": False}) == ()
    types = ["full_attention", "sliding_attention"] * 2
    assert window_of_some({**config, "layer_types": types}) == (None, 64)
    with pytest.raises(ValueError, match="without a window"):
        window_of_some({**config, "layer_types": types, "sliding_window": None})


@given(st.lists(st.none() | st.integers(1, 3), min_size=1, max_size=12))
def test_the_shortest_period_gives_all_layers_back(values):
    period = shortest_period(values)
    assert [period[i % len(period)] for i in range(len(values))] == values
    for length in range(1, len(period)):
        assert [values[i % length] for i in range(len(values))] != values
