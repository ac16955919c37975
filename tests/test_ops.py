"""The op table against independent measurements: scalars that count, finite differences, the law of adjoints."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import classifier_step, translation_step
from counting import Counting

from costsim.graph.builder import GraphBuilder
from costsim.graph.graph import Tensor
from costsim.graph.kinds import bind, contraction, expand, linear_equation, make_kind
from costsim.graph.ops import OPS, kind_of
from costsim.graph.pairs import Pairs
from costsim.reference import torch_kernels
from costsim.reference.numpy_ops import met

SIZES = {"a": 2, "b": 3, "c": 4, "v": 5, "t": 12}  # t: room for all tokens in one expert

# Dims for every kind's operands: (inputs, outputs). An index of an output may be in no input.
DIMS = {
    "embed_share": ("vc ab", "abc"),
    "embed_share_grad": ("abc ab", "vc"),
    "take_flat_share": ("abc", "t"),
    "row_max": ("abv", "ab"),
    "exp_share": ("abv ab ab", "ab ab abv"),
    "exp_share_grad": ("ab ab abv ab", "abv"),
    "exp_share_smoothed": ("abv ab ab", "ab ab abv"),
    "exp_share_smoothed_grad": ("ab ab abv ab", "abv"),
    "cross_entropy_sums_chunk": ("ab ab ab -", "-"),
    "cross_entropy_sums_chunk_grad": ("- ab ab -", "ab ab"),
    "cross_entropy_sums": ("ab ab ab", "-"),
    "cross_entropy_sums_grad": ("- ab ab", "ab ab"),
    "embed": ("vc ab", "abc"),
    "embed_grad": ("abc ab", "vc"),
    "select_first": ("abc", "ac"),
    "select_first_grad": ("ac", "abc"),
    "scale": ("ab", "ab"),
    "add": ("ab ab", "ab"),
    "add_bias": ("abc bc", "abc"),
    "sum_leading": ("abc", "bc"),
    "bernoulli": ("", "ab"),
    "dropout": ("ab ab", "ab"),
    "mask_padding": ("avbc ac", "avbc"),
    "mask_causal": ("avbc", "avbc"),
    "mask_pairs": ("avcc", "avcc"),
    "relu": ("ab", "ab"),
    "relu_grad": ("ab ab", "ab"),
    "gelu": ("ab", "ab"),
    "gelu_grad": ("ab ab", "ab"),
    "gelu_new": ("ab", "ab"),
    "gelu_new_grad": ("ab ab", "ab"),
    "silu": ("ab", "ab"),
    "silu_grad": ("ab ab", "ab"),
    "swiglu": ("ab ab", "ab"),
    "swiglu_grad": ("ab ab ab", "ab ab"),
    "geglu_new": ("ab ab", "ab"),
    "geglu_new_grad": ("ab ab ab", "ab ab"),
    "geglu": ("ab ab", "ab"),
    "geglu_grad": ("ab ab ab", "ab ab"),
    "pick_distances": ("abcv ct", "abct"),
    "pick_distances_grad": ("abct ct", "abcv"),
    "pick_distances_of_keys": ("abtv ct", "abct"),
    "pick_distances_of_keys_grad": ("abct ct", "abtv"),
    "mean_pool": ("abc ab", "ac"),
    "mean_pool_grad": ("ac ab", "abc"),
    "unfold": ("avc", "abac"),
    "fold": ("abac", "avc"),
    "mul": ("ab ab", "ab"),
    "convert": ("ab", "ab"),
    "square": ("ab", "ab"),
    "square_grad": ("ab ab", "ab"),
    "cube": ("ab", "ab"),
    "cube_grad": ("ab ab", "ab"),
    "shift": ("ab", "ab"),
    "rope": ("bvac va va", "bvac"),
    "rope_grad": ("bvac va va", "bvac"),
    "layer_norm_no_bias": ("abc c", "abc ab ab"),
    "layer_norm_grad_weight": ("abc abc ab ab", "c"),
    "softmax_lse": ("abc", "abc ab"),
    "softmax_from_lse": ("abc ab", "abc"),
    "rms_norm": ("abc bc", "abc a"),  # over two dims
    "rms_norm_grad": ("abc abc bc a", "abc"),
    "rms_norm_grad_weight": ("abc abc a", "bc"),
    "rms_norm_1p": ("abc c", "abc ab"),
    "rms_norm_1p_grad": ("abc abc c ab", "abc"),
    "mean": ("abc", "a"),
    "mean_grad": ("a", "abc"),
    "rsqrt": ("ab", "ab"),
    "rsqrt_grad": ("ab ab", "ab"),
    "scale_rows": ("abc a", "abc"),
    "scale_rows_grad": ("abc abc", "a"),
    "scale_columns": ("abc bc", "abc"),
    "scale_columns_grad": ("abc abc", "bc"),
    "top_k": ("abc", "aba"),
    "pick": ("abc aba", "aba"),
    "pick_grad": ("aba aba", "abc"),
    "normalize": ("abc", "abc"),
    "normalize_grad": ("abc abc abc", "abc"),
    "dispatch": ("abc aba", "vtc"),
    "dispatch_grad": ("vtc aba", "abc"),
    "combine": ("vtc aba aba", "abc"),
    "combine_grad": ("abc aba aba", "vtc"),
    "combine_grad_gates": ("abc vtc aba", "aba"),
    "tanh": ("ab", "ab"),
    "tanh_grad": ("ab ab", "ab"),
    "softmax": ("abc", "abc"),
    "softmax_grad": ("abc abc", "abc"),
    "layer_norm": ("abc c c", "abc ab ab"),
    "layer_norm_grad": ("abc abc c ab ab", "abc"),
    "layer_norm_grad_weights": ("abc abc ab ab", "c c"),
    "cross_entropy": ("abv ab", "- abv"),
    "cross_entropy_grad": ("- abv ab", "abv"),
    "prepend": ("ac abc", "avc"),
    "repeat": ("c", "ac"),
    "drop_first": ("avc", "abc"),
    "add_pair_bias": ("abcv cvb", "abcv"),
    "sum_pairs": ("abcv", "cvb"),
    "clamped_swiglu": ("ab ab", "ab"),
    "clamped_swiglu_grad": ("ab ab ab", "ab ab"),
    "sigmoid": ("ab", "ab"),
    "sigmoid_grad": ("ab ab", "ab"),
    "softmax_sink": ("vacb a", "vacb"),
    "softmax_sink_lse": ("vacb a", "vacb vac"),
    "softmax_sink_grad": ("vacb vacb", "a"),
    "add_bias_of_each": ("abc ac", "abc"),
    "sum_of_each": ("abc", "ac"),
    "group_max": ("abc", "aba"),
    "group_top2": ("abc", "aba"),
    "keep_groups": ("abc aba aba", "abc"),
    "binary_cross_entropy": ("ab ab", "-"),
    "binary_cross_entropy_grad": ("- ab ab", "ab"),
    "count_labels": ("ab", "-"),
    "cross_entropy_chunk": ("abv ab -", "- abv"),
    "cross_entropy_chunk_grad": ("- abv ab -", "abv"),
    "cross_entropy_in_place": ("abv ab -", "- abv"),
    "log_softmax": ("abv", "abv"),
    "log_softmax_grad": ("abv abv", "abv"),
    "nll_loss": ("abv ab", "- -"),
    "nll_loss_grad": ("- ab -", "abv"),
    "take_rows": ("bac", "ac"),
    "put_rows": ("ac", "bac"),
    "merge_rows": ("ab ab", "ab"),
    "take_channels": ("abc", "aba"),
    "put_channels": ("abc aba", "abc"),
    "accumulate": ("ab ab", "ab"),
    "round_to_send": ("ab", "ab"),
    "rounding_error": ("ab ab", "ab"),
    "square_sum": ("ab", "-"),
    "clip_factor": ("-", "-"),
    "rescale": ("ab -", "ab"),
    "adam": ("ab ab ab ab", "ab ab ab"),
    "adamw": ("ab ab ab ab", "ab ab ab"),
    "sgd": ("ab ab", "ab"),
    "momentum": ("ab ab ab", "ab ab"),
    "lion": ("ab ab ab", "ab ab"),
    "adafactor_moments": ("abc ab c", "ab c"),
    "adafactor_square_sum": ("abc a bc", "-"),
    "adafactor": ("abc abc ab c - -", "abc"),
    "adafactor_vector_moment": ("ab ab", "ab -"),
    "adafactor_vector": ("ab ab ab - -", "ab"),
    "muon_momentum": ("ab ab", "ab ab"),
    "matrix_square_sum": ("abc", "a"),
    "divide_by_norm": ("abc a", "abc"),
    "newton_schulz_factor": ("aa aa", "aa"),
    "newton_schulz_sum": ("ab ab", "ab"),
    "step_along": ("ab ab", "ab"),
    "adam_direction": ("ab ab ab", "ab ab ab"),
    "adam_step": ("ab ab", "ab"),
    "moving_average": ("ab ab", "ab"),
    "orthonormal": ("aa", "aa"),
    "left_vectors": ("bv", "ba"),
    "right_vectors": ("vb", "ba"),
}
_ADAFACTOR = {"lr": 0.01, "eps1": 1e-7, "eps2": 1e-3, "clip": 1.0, "weight_decay": 0.1}
_ENTROPY = {"smoothing": 0.1, "ignore": -1, "share": 0.5}
PARAMS = {
    **{
        kind: {"axis": "tensor"}
        for kind in ("embed_share", "embed_share_grad", "take_flat_share", "exp_share", "exp_share_grad")
    },
    "exp_share_smoothed": {"axis": "tensor", "smoothing": 0.1, "ranks": 2},
    "exp_share_smoothed_grad": {"axis": "tensor", "smoothing": 0.1, "ranks": 2},
    **{kind: {"ignore": -1, "share": 0.5} for kind in DIMS if kind.startswith("cross_entropy_sums")},
    "mask_pairs": {"pairs": "window2"},
    "scale": {"factor": 3.0},
    "bernoulli": {"rate": 0.25},
    "dropout": {"rate": 0.25},
    "layer_norm": {"eps": 1e-5},
    "layer_norm_no_bias": {"eps": 1e-5},
    "rms_norm": {"eps": 1e-5},
    "rms_norm_1p": {"eps": 1e-5},
    "shift": {"by": 1.0},
    **dict.fromkeys(
        ("cross_entropy", "cross_entropy_grad", "cross_entropy_chunk", "cross_entropy_chunk_grad"), _ENTROPY
    ),
    "cross_entropy_in_place": _ENTROPY,
    "clamped_swiglu": {"alpha": 1.7, "limit": 0.9},
    "clamped_swiglu_grad": {"alpha": 1.7, "limit": 0.9},
    "count_labels": {"ignore": -1},
    "binary_cross_entropy": {"ignore": -1, "share": 0.5},
    "binary_cross_entropy_grad": {"ignore": -1, "share": 0.5},
    "nll_loss": {"ignore": 2, "reduction": "mean"},
    "nll_loss_grad": {"ignore": 2, "reduction": "mean"},
    "unfold": {"stride": 2, "padding": 1},
    "fold": {"stride": 2, "padding": 1},
    "take_rows": {"at": 1},
    "put_rows": {"at": 1},
    "take_channels": {"axis": 2},
    "put_channels": {"axis": 2},
    "clip_factor": {"max_norm": 0.5},
    "adam": {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1},
    "adamw": {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1},
    "sgd": {"lr": 0.01, "weight_decay": 0.1},
    "momentum": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
    "lion": {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1},
    "adafactor_moments": {"beta2_decay": -0.8},
    "adafactor_square_sum": {"eps1": 1e-7},
    "adafactor": _ADAFACTOR,
    "adafactor_vector_moment": {"eps1": 1e-7, "beta2_decay": -0.8},
    "adafactor_vector": _ADAFACTOR,
    "muon_momentum": {"momentum": 0.95},
    "step_along": {"lr": 0.01, "weight_decay": 0.1, "scale": 2.0},
    "adam_direction": {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8},
    "moving_average": {"beta2": 0.9},
    "adam_step": {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "scale": 0.25},
}
POSITIVE = ("sums", "v", "r", "c", "rstd", "total", "squares", "weights")
INTEGERS = {"ids": 5, "labels": 5, "counted": 5, "targets": 2}  # exclusive bounds


def dims_of(text):
    return [() if word == "-" else tuple(word) for word in text.split()]


def shape(dims):
    return tuple(SIZES[dim] for dim in dims)


def draw(kind, seed=0, make=float):
    """Random operands of a kind, all floating-point values passed through `make`."""
    rng = np.random.default_rng(seed)
    operands = []
    for operand, dims in zip(kind.inputs, dims_of(DIMS[kind.name][0]), strict=True):
        if operand.name in INTEGERS:
            operands.append(rng.integers(0, INTEGERS[operand.name], shape(dims)))
        elif operand.name == "index":  # different ones for each token
            most = 2 if kind.name == "keep_groups" else 4
            operands.append(rng.permuted(np.broadcast_to(np.arange(most), (*shape(dims)[:-1], most)), axis=-1)[..., :2])
        elif operand.name in ("mask", "keep"):
            operands.append(rng.random(shape(dims)) < 0.7)
            operands[-1][..., 0] = True
        else:
            values = rng.uniform(0.3, 1.2, shape(dims)) * rng.choice([-1, 1], shape(dims))
            if operand.name in POSITIVE:
                values = abs(values)
            operands.append(values if make is float else np.vectorize(make, otypes=[object])(values))
    return operands


def runtime(kind):
    out = dims_of(DIMS[kind.name][1])[0]
    values = {"shape": shape(out), "step": 3, "key": (0, 1, 2, 3), "rank": 0}
    if "met" in kind.runtime:
        values["met"] = met(Pairs("k", shape(out)[-1], causal=True, window=2))
    return {name: values[name] for name in kind.runtime}


def run(kind, operands):
    result = kind.run(*operands, **PARAMS.get(kind.name, {}), **runtime(kind))
    return result if isinstance(result, tuple) else (result,)


def stated_work(kind):
    env = bind(kind, dims_of(DIMS[kind.name][0]), dims_of(DIMS[kind.name][1]))
    total = {}
    for pattern, counts in kind.work:
        points = math.prod(shape(expand(pattern, env)))
        for name, n in counts.items():
            total[name] = total.get(name, 0) + n * points
    return total


# What counting scalars cannot run, counted by hand: a scatter-add adds each row once; drawing takes a random number and
# a comparison per element; k passes over e numbers take k e comparisons; a lookup does nothing; a conversion is one an
# element; labels are integers; a view does nothing.
BY_HAND = {
    "embed_share_grad": {"mul": 2 * 3 * 4, "add": 2 * 3 * 4},
    "embed_grad": {"add": 2 * 3 * 4},
    "bernoulli": {"random": 6, "cmp": 6},
    "top_k": {"cmp": 2 * 3 * 4 * 2},
    "convert": {"convert": 2 * 3},
    "count_labels": {"cmp": 2 * 3, "add": 2 * 3},
    "merge_rows": {},
    "pick_distances_grad": {"add": 2 * 3 * 4 * 12},
    "pick_distances_of_keys_grad": {"add": 2 * 3 * 4 * 12},
    "fold": {"add": 2 * 3 * 2 * 4},  # one of the six rows of patches is padding
    "nll_loss": {"cmp": 2 * 3, "add": 2 * 2 * 3, "div": 1},  # the numbers picked, and how many rows count
    "nll_loss_grad": {"cmp": 2 * 3, "div": 1},
    # Signs cost nothing, but comparing scalars to 0 would. For a decomposition of 3 x 5, 6 m n^2 + 20 n^3.
    "lion": {"mul": 6 * 6, "add": 4 * 6},
    "orthonormal": {"mul": 8, "add": 8},  # modified Gram-Schmidt of 2 x 2
    "left_vectors": {"mul": 3 * 5 * 9 + 10 * 27, "add": 3 * 5 * 9 + 10 * 27},
    "right_vectors": {"mul": 3 * 5 * 9 + 10 * 27, "add": 3 * 5 * 9 + 10 * 27},
    "group_max": {"cmp": 2 * 3 * 4},  # a pass over all, or two, and a sum of the two
    "group_top2": {"cmp": 2 * 2 * 3 * 4, "add": 2 * 3 * 2},
    "keep_groups": {},
    "clamped_swiglu": {"cmp": 6 * 3, "mul": 6 * 3, "exp": 6, "add": 6 * 2, "div": 6},  # a limit is no counting number
    "clamped_swiglu_grad": {"cmp": 6 * 6, "mul": 6 * 11, "exp": 6, "add": 6 * 4, "div": 6},
}


def test_every_kind_has_a_case():
    assert set(DIMS) == set(OPS)


def functions(file):
    """The public functions of a Python file, read without running it: PyTorch may not be there."""
    body = ast.parse(file.read_text()).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}


def test_every_row_names_a_pytorch_kernel_that_exists():
    """One of PyTorch's, or one in the file named like the row's own; tests/pytorch runs them all."""
    file_of = {name: kind.run.__module__.rpartition(".")[2] for name, kind in OPS.items()}
    folder = Path(torch_kernels.__file__).parent
    written = {f"{file}.{name}" for file in file_of.values() for name in functions(folder / f"{file}.py")}
    for name, kind in OPS.items():
        if kind.torch != "same" and not kind.torch.startswith(("torch.", "aten.")):
            assert kind.torch.partition(".")[0] == file_of[name]
            assert kind.torch in written, f"{name} names a kernel that does not exist"
    assert written <= {kind.torch for kind in OPS.values()}, "a kernel that no row names"


@pytest.mark.parametrize("name", sorted(OPS))
def test_work_equals_counted_operations(name):
    kind = OPS[name]
    if name in BY_HAND:
        assert stated_work(kind) == BY_HAND[name]
        return
    Counting.counts = {}
    run(kind, draw(kind, make=Counting))
    assert stated_work(kind) == Counting.counts


def test_a_contraction_counts_one_multiplication_and_one_addition_per_mac():
    kind = contraction("abc,cv->abv")
    Counting.counts = {}
    make = np.vectorize(Counting, otypes=[object])
    kind.run(make(np.ones((2, 3, 4))), make(np.ones((4, 5))))
    macs = 2 * 3 * 4 * 5
    assert kind.work == ((tuple("abcv"), {"mac": 1}),)
    assert Counting.counts["mul"] == macs
    assert macs - 2 * 3 * 5 <= Counting.counts["add"] <= macs  # a sum may or may not start from zero


@pytest.mark.parametrize("name", sorted(OPS))
def test_shapes_follow_the_patterns(name):
    kind = OPS[name]
    results = run(kind, draw(kind))
    assert [np.shape(r) for r in results] == [shape(d) for d in dims_of(DIMS[name][1])]


@pytest.mark.parametrize("name", sorted(name for name, kind in OPS.items() if kind.values == "float"))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_have_the_dtype_of_the_operands(name, dtype):
    kind = OPS[name]
    operands = [x.astype(dtype) if x.dtype == np.float64 else x for x in draw(kind)]
    assert {np.asarray(result).dtype for result in run(kind, operands)} == {np.dtype(dtype)}


def gradient(kind, rule, operands, results, cotangents):
    """The gradients that a rule's op computes, given those of the results."""
    values = dict(zip([o.name for o in kind.inputs], operands, strict=True))
    values |= dict(zip([o.name for o in kind.outputs], results, strict=True))
    values |= {f"d{o.name}": c for o, c in zip(kind.outputs, cotangents, strict=True)}
    arguments = [values[name] for name in rule.arguments]
    if not rule.kind:
        return arguments
    grad_kind = kind_of(rule.kind)
    params = {name: PARAMS[kind.name][name] for name in grad_kind.params}
    given = {"shape": np.shape(values[rule.operands[0]]), "rank": 0}
    made = grad_kind.run(*arguments, **params, **{name: given[name] for name in grad_kind.runtime})
    return list(made) if isinstance(made, tuple) else [made]


# These masks add minus infinity, which has no difference quotient; they have tests of their own.
DIFFERENTIABLE = sorted(name for name, kind in OPS.items() if kind.grads and name not in ("mask_causal", "mask_pairs"))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_equal_finite_differences(name):
    kind = OPS[name]
    operands = draw(kind)
    if name == "mask_padding":
        operands[1][:] = True  # minus infinity has no difference quotient
    results = run(kind, operands)
    rng = np.random.default_rng(1)
    used = {argument for rule in kind.grads for argument in rule.arguments}.union(kind.unit)

    def draw_cotangent(shape):
        return rng.normal(size=shape)

    cotangents = [
        (np.ones if f"d{o.name}" in kind.unit else draw_cotangent)(np.shape(r))
        if f"d{o.name}" in used
        else np.zeros(np.shape(r))
        for o, r in zip(kind.outputs, results, strict=True)
    ]
    for rule in kind.grads:
        grads = gradient(kind, rule, operands, results, cotangents)
        for operand_name, grad in zip(rule.operands, grads, strict=True):
            at = [o.name for o in kind.inputs].index(operand_name)
            direction = rng.normal(size=operands[at].shape)
            h = 1e-6
            moved = []
            for sign in (1, -1):
                shifted = list(operands)
                shifted[at] = operands[at] + sign * h * direction
                moved.append(
                    sum(np.sum(r * c) for r, c in zip(run(kind, shifted), cotangents, strict=True) if np.any(c))
                )
            measured = (moved[0] - moved[1]) / (2 * h)
            assert np.sum(grad * direction) == pytest.approx(measured, rel=1e-6, abs=1e-8), operand_name


def test_the_causal_mask_passes_the_gradient():
    kind = OPS["mask_causal"]
    x = np.zeros((2, 5, 3, 3))
    y = kind.run(x)
    visible = np.isfinite(y[0, 0])
    assert visible.tolist() == np.tril(np.ones((3, 3), bool)).tolist()
    assert (y[:, :, visible] == 0).all()
    assert [(rule.operands, rule.kind, rule.arguments) for rule in kind.grads] == [(("x",), "", ("dy",))]


# Every contraction that a model family has, forward and backward.
GRAPHS = [make(**more) for make in (translation_step, classifier_step) for more in ({}, {"norm": "pre"})]
EQUATIONS = sorted({op.kind.name for graph in GRAPHS for op in graph.ops if op.gemm})


@pytest.mark.parametrize("equation", EQUATIONS)
def test_contractions_are_multilinear_and_gradients_their_adjoints(equation):
    kind = contraction(equation)
    rng = np.random.default_rng(0)
    letters = sorted({i for o in kind.inputs for i in o.pattern})
    sizes = dict(zip(letters, (2, 3, 4, 5, 6), strict=False))
    x, w, y = (rng.normal(size=[sizes[i] for i in o.pattern]) for o in (*kind.inputs, *kind.outputs))
    forward = np.sum(y * kind.run(x, w))
    values = {"x": x, "w": w, "dy": y}
    for rule in kind.grads:
        grad = contraction(rule.kind).run(*(values[name] for name in rule.arguments))
        assert np.sum(grad * values[rule.operands[0]]) == pytest.approx(forward, rel=1e-11)
        assert contraction(rule.kind).work[0][1] == {"mac": 1}
        assert set(contraction(rule.kind).work[0][0]) == set(kind.work[0][0])  # as many MACs as the forward
    other_x, other_w = rng.normal(size=x.shape), rng.normal(size=w.shape)
    np.testing.assert_allclose(kind.run(x + 2 * other_x, w), kind.run(x, w) + 2 * kind.run(other_x, w), rtol=1e-9)
    np.testing.assert_allclose(kind.run(x, w + 2 * other_w), kind.run(x, w) + 2 * kind.run(x, other_w), rtol=1e-9)


@pytest.mark.parametrize(
    ("equation", "message"),
    [
        ("aab,bc->ac", "twice"),
        ("ab,cd->acd", "in no other term"),
        ("ab,bc->acz", "in no other term"),
        ("ab->a", "not an einsum equation"),
        ("ab,bc,cd->ad", "not an einsum equation"),
    ],
)
def test_equations_whose_gradients_would_be_wrong_are_refused(equation, message):
    with pytest.raises(ValueError, match=message):
        contraction(equation)


def test_linear_equation():
    assert linear_equation(2, 1, 1) == "abc,cd->abd"
    assert linear_equation(2, 2, 1) == "abcd,cde->abe"


def documented(x):
    """y = x."""
    return x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grads": {}}, "must list every operand"),
        ({"grads": {"x": "dy", "z": None}}, "must list every operand"),
        ({"grads": {"x": "what?"}}, "cannot read"),
        ({"signature": "x[k]"}, "no result"),
        ({"work": {"z": {"add": 1}}}, "signature lacks"),
        ({"run": lambda x: x}, "docstring"),
    ],
)
def test_a_kind_without_all_parts_cannot_exist(change, message):
    parts = {"signature": "x[k] -> y[k]", "run": documented, "work": {}, "grads": {"x": "dy"}, **change}
    with pytest.raises(ValueError, match=message):
        make_kind("kind", **parts)


def test_binding_names_the_clash():
    with pytest.raises(ValueError, match=r"layer_norm: k is \('b',\) elsewhere but \('c',\) in b"):
        bind(OPS["layer_norm"], [("a", "c"), ("b",), ("c",)])
    with pytest.raises(ValueError, match="does not fit"):
        bind(OPS["embed"], [("v",), ("a",)])
    with pytest.raises(ValueError, match="takes 2 operands, got 1"):
        bind(OPS["add"], [("a",)])


def test_the_builder_refuses_what_does_not_fit():
    b = GraphBuilder({"a": 2, "b": 3})
    x = b.given("x", ("a", "b"))
    with pytest.raises(ValueError, match="exists already"):
        b.given("x", ("a",))
    with pytest.raises(ValueError, match="unknown dim 'z'"):
        b.given("z", ("z",))
    with pytest.raises(ValueError, match="takes params"):
        b.op("scale", x, name="y")
    with pytest.raises(ValueError, match="unknown op kind 'sofmax'; did you mean 'softmax'"):
        b.op("sofmax", x, name="y")
    with pytest.raises(ValueError, match="exists already"):
        b.op("relu", x, name="y", outputs=[Tensor("x", ("a", "b"), "activation", "")])
