"""Lookups: rows of tables, the first position; and of traced graphs, any places of tensors."""

from __future__ import annotations

from costsim.graph.ops.pointwise import function, lined_up
from costsim.graph.ops.register import Array, np, op

Terms = tuple[str, ...]
Shape = tuple[int, ...]


@op(
    "table[v d], ids[...] -> y[... d]",
    work={},
    grads={"table": "embed_grad(dy, ids)", "ids": None},
    touches={"table": "... d"},
    fuses=False,
    torch="same",
)
def embed(table: Array, ids: Array) -> Array:
    """y = table[ids]; only the rows that are looked up are read."""
    return table[ids]


@op(
    "dy[... d], ids[...] -> dtable[v d]",
    work={"... d": {"add": 1}},
    grads={"dy": None, "ids": None},
    runtime=("shape",),
    fuses=False,
    torch="lookups.embed_grad",
)
def embed_grad(dy: Array, ids: Array, shape: tuple[int, ...]) -> Array:
    """Scatter-add of dy's rows into a zero table: a dense gradient, the whole table is written (as PyTorch does)."""
    dtable = np.zeros(shape, dy.dtype)
    np.add.at(dtable, ids, dy)
    return dtable


@op("x[b s d] -> y[b d]", work={}, grads={"x": "select_first_grad(dy)"}, touches={"x": "b d"}, torch="same")
def select_first(x: Array) -> Array:
    """The first position of each sequence ([CLS], or RoBERTa's <s>); only that much is read."""
    return x[:, 0]


@op("dy[b d] -> dx[b s d]", work={}, grads={"dy": None}, runtime=("shape",), torch="lookups.select_first_grad")
def select_first_grad(dy: Array, shape: tuple[int, ...]) -> Array:
    """dy in the first position, zeros elsewhere: the dense gradient is written whole."""
    dx = np.zeros(shape, dy.dtype)
    dx[:, 0] = dy
    return dx


@op(
    "first[b d], x[b p d] -> y[b s d]",
    work={},
    grads={"first": "select_first(dy)", "x": "drop_first(dy)"},
    runtime=("shape",),
    torch="lookups.prepend",
)
def prepend(first: Array, x: Array, shape: tuple[int, ...]) -> Array:
    """y = first, then the rows of x, in every sequence: s = p + 1. A copy for which s is less lacks the last rows."""
    y = np.zeros(shape, x.dtype)
    y[:, 0] = first
    y[:, 1 : x.shape[1] + 1] = x[:, : shape[1] - 1]
    return y


@op("dy[b s d] -> dx[b p d]", work={}, grads={"dy": None}, runtime=("shape",), torch="lookups.drop_first")
def drop_first(dy: Array, shape: tuple[int, ...]) -> Array:
    """dx = dy without its first rows."""
    dx = np.zeros(shape, dy.dtype)
    dx[:, : dy.shape[1] - 1] = dy[:, 1 : shape[1] + 1]
    return dx


@op("x[*k] -> y[b *k]", work={}, grads={"x": "sum_leading(dy)"}, runtime=("shape",), torch="lookups.repeat")
def repeat(x: Array, shape: tuple[int, ...]) -> Array:
    """y = x for every sequence."""
    return np.broadcast_to(x, shape).copy()


@op(
    "x[b s d], keep[b s] -> y[b d]",
    work={"b s d": {"mul": 1, "add": 1}, "b d": {"div": 1}},
    grads={"x": "mean_pool_grad(dy, keep)", "keep": None},
    torch="lookups.mean_pool",
)
def mean_pool(x: Array, keep: Array) -> Array:
    """y = the mean of each sequence's tokens that are no padding. Counting those is not work on elements."""
    return np.add.reduce(x * keep[..., None], axis=1, initial=0) / keep.sum(1, keepdims=True).astype(x.dtype)


@op(
    "dy[b d], keep[b s] -> dx[b s d]",
    work={"b s d": {"mul": 1}, "b d": {"div": 1}},
    grads={"dy": None, "keep": None},
    torch="lookups.mean_pool_grad",
)
def mean_pool_grad(dy: Array, keep: Array) -> Array:
    """dx = dy / tokens that are no padding, 0 at padding."""
    return (dy / keep.sum(1, keepdims=True).astype(dy.dtype))[:, None] * keep[..., None]


# --- any places, of traced graphs: an equation says along which dims --------------------------------------------------


def _places(indices: tuple[Array, ...], terms: Terms, of: str, result: str) -> tuple[tuple[Array | slice, ...], str]:
    """How to index the dims of a term, by index arrays those that the result lacks; and the order of what comes out."""
    order = "".join(dict.fromkeys("".join(terms)))
    lined = [lined_up(x, term, order) for x, term in zip(indices, terms, strict=True)]
    looked_up = [letter for letter in of if letter not in result]
    by_letter = dict(zip(looked_up, lined, strict=True))
    kept = "".join(letter for letter in of if letter in result)
    return tuple(by_letter.get(letter, slice(None)) for letter in looked_up + list(kept)), order + kept


@function({}, whole=True, picks=True)
def index(x: Array, /, *indices: Array, terms: Terms, shape: Shape) -> Array:
    """y = x at places: a lookup along each dim that the result lacks, in their order."""
    of, result = terms[0], terms[-1]
    at, order = _places(indices, terms[1:-1], of, result)
    first = x.transpose([of.index(i) for i in sorted(of, key=lambda i: (i in result, of.index(i)))])
    return np.broadcast_to(first[at].transpose([order.index(i) for i in result]), shape)


@function({"add": 1}, whole=True, over="values")
def index_put(x: Array, values: Array, /, *indices: Array, terms: Terms, shape: Shape) -> Array:
    """y = x, with values added at places along each dim that they lack: the gradient of `index`."""
    of, result = terms[0], terms[1]
    at, order = _places(indices, terms[2:-1], of, result)
    axes = [of.index(i) for i in sorted(of, key=lambda i: (i in result, of.index(i)))]
    y = np.broadcast_to(x, shape).copy()
    np.add.at(y.transpose(axes), at, values.transpose([result.index(i) for i in order]))
    return y


def _spread(x: Array, of: Array, axis: int) -> Array:
    """An array with as many axes as another: with one of one element where it lacks this one."""
    return np.expand_dims(x, axis) if x.ndim < of.ndim else x


@function({}, whole=True, picks=True)
def take_along(x: Array, places: Array, /, *, axis: int, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = x at a place along an axis, for each element: torch.gather; places that lack the axis are one along it."""
    return np.take_along_axis(x, _spread(places, x, axis), axis).reshape(shape)


@function({}, whole=True, over="values")
def put_along(x: Array, places: Array, values: Array, /, *, axis: int, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = x, with values written at a place along an axis for each of them: torch.scatter; one if they lack it."""
    y = x.copy()
    np.put_along_axis(y, _spread(places, x, axis), _spread(values, x, axis), axis)
    return y


@function({"add": 1}, whole=True, over="values")
def add_along(x: Array, places: Array, values: Array, /, *, axis: int, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = x, with values added at a place along an axis for each of them: torch.scatter_add; one if they lack it."""
    places, values = _spread(places, x, axis), _spread(values, x, axis)
    y, at = x.copy(), list(np.indices(places.shape, sparse=True))
    at[axis] = places
    np.add.at(y, tuple(at), values)
    return y
