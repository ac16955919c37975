"""Pointwise equations against einsum, slow loops, and scalars that count."""

import itertools
import math

import numpy as np
import pytest
from counting import Counting

from costsim.graph.kinds import bind, expand
from costsim.graph.ops import FUNCTIONS, kind_of

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 12, "f": 2}
# An equation for every function, and its params.
EQUATIONS = {
    "copy": ("ab->bca", {}),
    "neg": ("ab->ba", {}),
    "abs": ("ab->ba", {}),
    "sign": ("ab->ba", {}),
    "ceil": ("ab->ba", {}),
    "exp": ("ab->ba", {}),
    "log": ("ab->ba", {}),
    "sqrt": ("ab->ba", {}),
    "reciprocal": ("ab->ba", {}),
    "sin": ("ab->ba", {}),
    "cos": ("ab->ba", {}),
    "sigmoid": ("ab->ba", {}),
    "power": ("ab->ba", {"exponent": 1.5}),
    "divide": ("ab->ba", {"by": 4.0}),
    "subtract_from": ("ab->ba", {"number": 2.0}),
    "clamp": ("ab->ba", {"low": 0.4, "high": 0.6}),
    "not": ("ab->ba", {}),
    "to_float": ("ab->ba", {}),
    "to_index": ("ab->ba", {}),
    "to_mask": ("ab->ba", {}),
    "add": ("abc,ca->bac", {}),
    "sub": ("abc,ca->bac", {}),
    "mul": ("abc,ca->bac", {}),
    "div": ("abc,ca->bac", {}),
    "raised": ("abc,ca->bac", {}),
    "maximum": ("abc,ca->bac", {}),
    "minimum": ("abc,ca->bac", {}),
    "compare": ("abc,ca->bac", {"how": "lt"}),
    "compare_with": ("ab->ba", {"how": "ge", "number": 0.5}),
    "and": ("abc,ca->bac", {}),
    "or": ("abc,ca->bac", {}),
    "where": ("ac,abc,b->bca", {}),
    "fill": ("abc,ca->bac", {"value": -math.inf}),
    "sigmoid_grad": ("abc,abc->bac", {}),
    "logistic_loss": ("abc,abc->bac", {}),
    "divide_by_count": ("ab->bca", {}),
    "sum": ("abc->ca", {}),
    "mean_of": ("abc->ca", {}),
    "largest": ("abc->ca", {}),
    "place_of_largest": ("abc->ca", {}),
    "any": ("abc->ca", {}),
    "all": ("abc->ca", {}),
    "polar": ("ab,ba->baf", {}),
    "complex_mul": ("abf,bf->baf", {}),
    "conj": ("abf->baf", {}),
    "permute": ("abc->cab", {}),
    "reshape": ("ad->da", {}),
    "slice": ("adc->abc", {"start": 1, "step": 1}),
    "put": ("adc,abc->adc", {"start": 1}),
    "slice_grad": ("abc->adc", {"start": 1, "step": 1}),
    "concat": ("ab,ac,ad->ae", {}),
    "pad": ("ab->ad", {"before": 1, "value": 7.0}),
    "full": ("->ab", {"value": 2.0}),
    "arange": ("->d", {"start": 3, "step": 2}),
    "tril": ("abc->abc", {"diagonal": 0}),
    "triu": ("abc->abc", {"diagonal": 1}),
    "cumsum": ("abc->abc", {"axis": 1}),
    "index": ("cdb,a,e->aeb", {}),
    "index_put": ("cdb,aeb,a,e->cdb", {}),
    "take_along": ("dc,db->db", {"axis": 1}),
    "put_along": ("dc,db,db->dc", {"axis": 1}),
    "add_along": ("dc,db,db->dc", {"axis": 1}),
    "unfold": ("cea->cbda", {"stride": 2, "padding": 1, "dilation": 1}),
    "fold": ("cbda->cea", {"stride": 2, "padding": 1, "dilation": 1}),
}
MASKS = {"mask", "condition"}


def shape(term):
    return tuple(SIZES[index] for index in term)


def drawn(kind, make=float):
    rng = np.random.default_rng(0)
    operands = []
    for operand in kind.inputs:
        of = shape(operand.pattern)
        if operand.name.startswith(("indices", "places")):
            operands.append(rng.integers(0, 2, of))
            continue
        if operand.name in MASKS or kind.name.split()[0] in ("and", "or", "any", "all"):
            operands.append(rng.random(of) < 0.5)
        else:
            x = rng.uniform(0.3, 1.2, of)
            operands.append(x if make is float else np.vectorize(make, otypes=[object])(x))
    return operands


def kind_and_run(name, make=float):
    equation, params = EQUATIONS[name]
    kind = kind_of(f"{name} {equation}")
    operands = drawn(kind, make)
    return kind, operands, kind.run(*operands, **params, shape=shape(kind.outputs[0].pattern))


def test_every_function_has_a_case():
    assert set(EQUATIONS) == set(FUNCTIONS)


@pytest.mark.parametrize("name", EQUATIONS)
def test_shapes_follow_the_equation(name):
    kind, _, y = kind_and_run(name)
    assert y.shape == shape(kind.outputs[0].pattern)


# What scalars cannot count: signs, logic of masks, conversions, choices, powers, sines, sums that start anywhere.
_BY_HAND = {
    ("mul", 6): ["power"],
    ("mul", 24): ["raised"],
    ("add", 72): ["index_put"],
    ("add", 15): ["add_along"],
    ("add", 120): ["fold"],
    ("sin", 6): ["sin"],
    ("cos", 6): ["cos"],
    ("convert", 6): ["to_float", "to_index", "to_mask"],
    ("cmp", 6): ["not"],
    ("cmp", 12): ["clamp"],
    ("cmp", 24): ["and", "or", "where", "fill", "any", "all", "largest", "place_of_largest", "tril", "triu"],
    ("add", 24): ["mean_of", "cumsum"],
}
BY_HAND = {name: {operation: number} for (operation, number), names in _BY_HAND.items() for name in names}
BY_HAND["polar"] = {"cos": 6, "sin": 6, "mul": 12}
BY_HAND |= {
    name: {}
    for name in (
        *("abs", "sign", "ceil", "full", "arange", "concat", "pad", "slice_grad", "put"),
        *("index", "take_along", "put_along", "unfold"),
    )
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_work_equals_counted_operations(name):
    Counting.counts = {}
    kind = kind_of(f"{name} {EQUATIONS[name][0]}")
    env = bind(kind, [operand.pattern for operand in kind.inputs], [kind.outputs[0].pattern])
    stated = {}
    for pattern, counts in kind.work:
        for operation, n in counts.items():
            stated[operation] = stated.get(operation, 0) + n * math.prod(shape(expand(pattern, env)))
    if name not in BY_HAND:
        kind_and_run(name, Counting)
    assert stated == BY_HAND.get(name, Counting.counts)


def slow(name, kind, operands, params):
    """A function of one element at a time, called at every point of the result's indices."""
    run = FUNCTIONS[name].run
    term = kind.outputs[0].pattern
    y = np.empty(shape(term), object)
    for point in itertools.product(*(range(SIZES[index]) for index in term)):
        at = dict(zip(term, point, strict=True))
        picked = [x[tuple(at[i] for i in o.pattern)] for x, o in zip(operands, kind.inputs, strict=True)]
        y[point] = run(*map(np.asarray, picked), **params)
    return y.astype(float)


REDUCTIONS = {
    "sum": np.sum,
    "mean_of": np.mean,
    "largest": np.max,
    "place_of_largest": np.argmax,
    "any": np.any,
    "all": np.all,
}


@pytest.mark.parametrize("name", [n for n, called in FUNCTIONS.items() if not called.whole and n not in REDUCTIONS])
def test_elements_line_up_by_their_indices(name):
    kind, operands, y = kind_and_run(name)
    np.testing.assert_array_equal(y.astype(float), slow(name, kind, operands, EQUATIONS[name][1]))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_are_numpys(name):
    _, [x], y = kind_and_run(name)
    np.testing.assert_allclose(y, REDUCTIONS[name](x, axis=1).T)


def test_a_slice_is_a_view_of_dims_that_one_axis_is_cut_into():
    x = np.arange(2 * 18).reshape(2, 18)
    y = kind_of("slice ab->acd").run(x, start=6, step=1, shape=(2, 2, 3))
    np.testing.assert_array_equal(y, x[:, 6:12].reshape(2, 2, 3))
    assert np.shares_memory(x, y)
    back = kind_of("slice_grad acd->ab").run(y, start=6, step=1, shape=(2, 18))
    np.testing.assert_array_equal(back[:, 6:12], x[:, 6:12])
    assert not back[:, :6].any()
    assert not back[:, 12:].any()


def test_places_that_lack_an_axis_are_one_along_it():
    x, places = np.arange(12.0).reshape(3, 4), np.array([2, 0, 3])
    taken = kind_of("take_along ab,a->a").run(x, places, axis=1, shape=(3,))
    np.testing.assert_array_equal(taken, [2, 4, 11])
    for name, more in (("put_along", 0), ("add_along", x)):
        y = kind_of(f"{name} ab,a,a->ab").run(x, places, taken + 1, axis=1, shape=(3, 4))
        expected = x.copy()
        expected[range(3), places] = taken + 1 + (taken if more is x else 0)
        np.testing.assert_array_equal(y, expected)


def test_one_place_is_a_slice_without_its_index():
    x = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(kind_of("slice abc->ac").run(x, start=-1, step=1, shape=(2, 4)), x[:, -1])
    np.testing.assert_array_equal(kind_of("slice abc->adc").run(x, start=0, step=2, shape=(2, 2, 4)), x[:, ::2])


def test_pairs_are_complex_numbers():
    a, b = np.random.default_rng(0).normal(size=(2, 2, 3))
    z, w = a + 1j * b, (b - 1j * a)[0]
    pairs = {name: np.stack([x.real, x.imag], -1) for name, x in (("z", z), ("w", w))}
    for name, given, made in (
        ("complex_mul abf,bf->baf", (pairs["z"], pairs["w"]), (z * w).T),
        ("conj abf->baf", (pairs["z"],), z.conj().T),
        ("polar ab,ba->baf", (abs(z), np.angle(z).T), z.T),
    ):
        y = kind_of(name).run(*given, shape=(*made.shape, 2))
        np.testing.assert_allclose(y, np.stack([made.real, made.imag], -1), rtol=1e-13)


def test_what_lies_along_other_axes_stays_when_parts_are_put_together():
    a, b = np.ones((2, 3, 4)), np.zeros((2, 5, 4))
    y = kind_of("concat abc,adc->aec").run(a, b, shape=(2, 8, 4))
    np.testing.assert_array_equal(y, np.concatenate([a, b], 1))


def test_padding_can_cut_off():
    x = np.arange(8.0).reshape(2, 4)
    y = kind_of("pad ab->ac").run(x, before=-1, value=9.0, shape=(2, 4))
    np.testing.assert_array_equal(y, np.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=9.0))


@pytest.mark.parametrize("text", ["mil ab,b->ab", "mul ab->ab", "mul aa,a->a", "mul ab,b", "exp ab,b->ab"])
def test_what_is_no_equation_is_refused(text):
    with pytest.raises(ValueError, match=r"mul|exp"):
        kind_of(text)


def test_places_are_looked_up_along_the_dims_that_the_result_lacks():
    rng = np.random.default_rng(0)
    x, rows, columns = rng.normal(size=(4, 5, 3)), rng.integers(0, 4, (2, 1)), rng.integers(0, 5, (1, 6))
    y = kind_of("index cdb,a,e->aeb").run(x, rows[:, 0], columns[0], shape=(2, 6, 3))
    np.testing.assert_array_equal(y, x[rows, columns])
    back = kind_of("index_put cdb,aeb,a,e->cdb").run(np.zeros(x.shape), y, rows[:, 0], columns[0], shape=x.shape)
    expected = np.zeros(x.shape)
    np.add.at(expected, (rows, columns), y)
    np.testing.assert_allclose(back, expected)


def test_a_place_along_an_axis_is_torchs_gather():
    x, places = np.arange(20.0).reshape(5, 4), np.array([[0, 3, 2, 1]])
    y = kind_of("take_along ab,cb->cb").run(x, places, axis=0, shape=(1, 4))
    np.testing.assert_array_equal(y, [[x[0, 0], x[3, 1], x[2, 2], x[1, 3]]])


def test_values_at_places_along_an_axis_are_torchs_scatter():
    x, places, values = np.ones((3, 2)), np.array([[0, 2], [2, 2]]), np.array([[5.0, 6.0], [7.0, 8.0]])
    put, added = (kind_of(f"{how}_along ab,cb,cb->ab") for how in ("put", "add"))
    np.testing.assert_array_equal(put.run(x, places, values, axis=0, shape=(3, 2)), [[5, 1], [1, 1], [7, 8]])
    np.testing.assert_array_equal(added.run(x, places, values, axis=0, shape=(3, 2)), [[6, 1], [1, 1], [8, 15]])
    assert (x == 1).all()


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 2, 2), (3, 0, 1)])
def test_patches_are_rows_at_their_places_and_fold_is_the_adjoint(stride, padding, dilation):
    rng = np.random.default_rng(0)
    ways = {"stride": stride, "padding": padding, "dilation": dilation}
    x, dy = rng.normal(size=(2, 3, 7)), rng.normal(size=(2, 4, 3, 3))  # [b, c, t], [b, patches, c, places]
    y = kind_of("unfold bct->buck").run(x, **ways, shape=dy.shape)
    for patch, place in itertools.product(range(4), range(3)):
        row = stride * patch + dilation * place - padding
        np.testing.assert_array_equal(y[:, patch, :, place], x[:, :, row] if 0 <= row < 7 else np.zeros((2, 3)))
    dx = kind_of("fold buck->bct").run(dy, **ways, shape=x.shape)
    assert np.sum(dx * x) == pytest.approx(np.sum(dy * y))
