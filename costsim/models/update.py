"""The update of the weights, which all families share: clipping by the global norm, then an optimizer's ops.

An optimizer of one op a weight is a row of the op table alone, whose operands are the weight, its gradient and states.
One of several is a function here too. Matrix products of an update are GEMMs as any other: policies give them formats.
"""

import math
import string
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import reduce
from itertools import count
from typing import Any, NamedTuple

from costsim.graph.builder import GraphBuilder
from costsim.graph.graph import Op, Tensor
from costsim.graph.kinds import Dims
from costsim.graph.ops import kind_of
from costsim.inputs.field_error import FieldError
from costsim.inputs.schema_workload import Optimizer


class Matrix(NamedTuple):
    """A weight as a matrix, or a stack of them: its dims in order. `inputs_first`: whether `first` is summed over."""

    stack: Dims
    first: Dims
    second: Dims
    inputs_first: bool


class Weight(NamedTuple):
    """A weight that is trained, and the gradient that the update reads."""

    name: str
    gradient: str
    matrix: Matrix | None  # None: a vector


def _as_multiplied(op: Op, operand: int, dims: Dims) -> Matrix | None:
    """The matrix that an operand of a contraction is; None if its dims do not lie in that order."""
    summed, here = op.kind.contracted[operand], op.kind.inputs[operand].pattern
    there = op.kind.inputs[1 - operand].pattern
    sorts = ["summed" if i in summed else "stack" if letter in there else "kept" for i, letter in enumerate(here)]
    order = list(dict.fromkeys(sort for sort in sorts if sort != "stack"))
    if len(order) != 2 or sorts != sorted(sorts, key=["stack", *order].index):
        return None
    parts = {sort: tuple(dims[i] for i in range(len(here)) if sorts[i] == sort) for sort in ("stack", *order)}
    return Matrix(parts["stack"], parts[order[0]], parts[order[1]], order[0] == "summed")


def _matrices(b: GraphBuilder) -> dict[str, Matrix]:
    """The weights that are matrices: those of linear layers, as the forward multiplies by them, and tables of rows."""
    found: dict[str, Matrix] = {}
    for op in b.ops:
        for i, name in enumerate(op.inputs):
            tensor = b.tensors[name]
            if op.phase != "forward" or tensor.role != "weight":
                continue
            if op.kind.is_contraction and (matrix := _as_multiplied(op, i, tensor.dims)) is not None:
                found[name] = matrix
            elif op.kind.touched[i] is not None:  # rows are looked up
                found.setdefault(name, Matrix((), tensor.dims[:1], tensor.dims[1:], True))
    return found


def _size(b: GraphBuilder, dims: Dims) -> int:
    return math.prod(b.sizes[dim] for dim in dims)


def _state(b: GraphBuilder, weight: Weight, name: str, dims: Dims | None = None) -> str:
    return b.given(f"{weight.name}.{name}", b.tensors[weight.name].dims if dims is None else dims, role="state")


def _next(b: GraphBuilder, name: str) -> Tensor:
    """What becomes of a weight or a state, in place."""
    return b.tensors[name]._replace(name=f"{name}.next", alias=name)


def _op(b: GraphBuilder, optimizer: Optimizer, kind: str, *inputs: str, **more: Any) -> str:
    """Append an op of a row of the table, with those of the optimizer's numbers that it takes."""
    given = {**vars(optimizer), **more.pop("params", {})}
    return b.op(kind, *inputs, **more, **{name: given[name] for name in kind_of(kind).params})


def _one_op(b: GraphBuilder, optimizer: Optimizer, weight: Weight, kind: str = "") -> None:
    """The optimizer's row: the names of its operands after w and g are those of its states."""
    kind = kind or optimizer.kind
    states = [_state(b, weight, state) for state in kind_of(kind).input_names[2:]]
    written = [_next(b, name) for name in (weight.name, *states)]
    _op(b, optimizer, kind, weight.name, weight.gradient, *states, name=f"{weight.name}.{kind}", outputs=written)


# --- optimizers of several ops ----------------------------------------------------------------------------------------

_ADAFACTOR = {"eps2": 1e-3, "clip": 1.0, "beta2_decay": -0.8}  # Shazeer and Stern 2018, and torch.optim.Adafactor


def _adafactor(b: GraphBuilder, optimizer: Optimizer, weight: Weight) -> None:
    """Three passes over a matrix: its moments, the sizes of the update and of itself, the update."""
    w, g, matrix = weight
    if matrix is not None and matrix.stack:
        raise FieldError(("optimizer", "kind"), f"adafactor: {w} is a stack of matrices; choose another optimizer")
    params, base = {**_ADAFACTOR, "eps1": optimizer.eps}, f"{w}.adafactor"
    if matrix is None:
        v = _state(b, weight, "v")
        written = [_next(b, v), Tensor(f"{base}.squares", (), "state", b.layer)]
        _op(b, optimizer, "adafactor_vector_moment", g, v, name=f"{base}.moments", outputs=written, params=params)
        kind, moments = "adafactor_vector", [f"{v}.next"]
    else:
        r, c = (_state(b, weight, name, dims) for name, dims in (("r", matrix.first), ("c", matrix.second)))
        written = [_next(b, r), _next(b, c)]
        _op(b, optimizer, "adafactor_moments", g, r, c, name=f"{base}.moments", outputs=written, params=params)
        kind, moments = "adafactor", [f"{r}.next", f"{c}.next"]
        _op(b, optimizer, "adafactor_square_sum", g, *moments, name=f"{base}.squares", params=params)
    of_weight = b.op("square_sum", w, name=f"{base}.weight_squares")
    inputs = [w, g, *moments, f"{base}.squares", of_weight]
    _op(b, optimizer, kind, *inputs, name=base, outputs=[_next(b, w)], params=params)


def _letters(*groups: Dims) -> list[str]:
    """A letter for each dim of each group, all different."""
    letters = iter(string.ascii_lowercase)
    return ["".join(next(letters) for _ in group) for group in groups]


def _muon(b: GraphBuilder, optimizer: Optimizer, weight: Weight) -> None:
    """Momentum, whose singular values a few Newton-Schulz steps make alike; each step takes three products."""
    w, g, matrix = weight
    assert matrix is not None
    stack, first, second, inputs_first = matrix
    m, base = _state(b, weight, "m"), f"{w}.muon"
    written = [Tensor(f"{base}.update", b.tensors[w].dims, "state", b.layer), _next(b, m)]
    update = _op(b, optimizer, "muon_momentum", g, m, name=f"{base}.momentum", outputs=written)
    total = b.op("matrix_square_sum", update, name=f"{base}.square_sum", dims=stack)
    x = b.op("divide_by_norm", update, total, name=f"{base}.x")
    low = _size(b, first) <= _size(b, second)  # the shorter side; the Gram matrix is of that
    t, f, s, e, d = _letters(stack, first, second, *((first, first) if low else (second, second)))
    side = f if low else s
    gram_of = f"{t}{f}{s},{t}{e}{s}->{t}{f}{e}" if low else f"{t}{f}{s},{t}{f}{e}->{t}{s}{e}"
    product_of = f"{t}{f}{e},{t}{e}{s}->{t}{f}{s}" if low else f"{t}{f}{s},{t}{s}{e}->{t}{f}{e}"
    for i in range(1, optimizer.newton_schulz_steps + 1):
        gram = b.op(gram_of, x, x, name=f"{base}.gram.{i}", gemm="update")
        square = b.op(f"{t}{side}{e},{t}{e}{d}->{t}{side}{d}", gram, gram, name=f"{base}.square.{i}", gemm="update")
        factor = b.op("newton_schulz_factor", gram, square, name=f"{base}.factor.{i}")
        operands = (factor, x) if low else (x, factor)
        product = b.op(product_of, *operands, name=f"{base}.product.{i}", gemm="update")
        x = b.op("newton_schulz_sum", x, product, name=f"{base}.x.{i}")
    inputs, outputs = (first, second) if inputs_first else (second, first)
    scale = math.sqrt(max(1, _size(b, outputs) / _size(b, inputs)))
    _op(b, optimizer, "step_along", w, x, name=base, outputs=[_next(b, w)], params={"scale": scale})


def _refuse_stack(optimizer: Optimizer, weight: Weight) -> None:
    """Raise FieldError where directions would be found of several matrices at once."""
    if weight.matrix is not None and weight.matrix.stack:
        why = f"{optimizer.kind}: {weight.name} is a stack of matrices; leave refreshes out"
        raise FieldError(("optimizer", "refreshes"), why)


def _galore(b: GraphBuilder, optimizer: Optimizer, weight: Weight) -> None:
    """Adam on the gradient's projection to a few directions of the shorter side, and the way back.

    A step that finds the directions anew (`refreshes`) decomposes the gradient before.
    """
    w, g, matrix = weight
    assert matrix is not None
    stack, first, second, _ = matrix
    assert optimizer.rank is not None
    low = _size(b, first) <= _size(b, second)
    short = first if low else second
    rank = min(optimizer.rank, _size(b, short))
    dim = f"galore.{rank}"
    b.sizes[dim] = rank
    p, base = _state(b, weight, "p", (*stack, *short, dim)), f"{w}.galore"
    if optimizer.refreshes:
        _refuse_stack(optimizer, weight)
        p = b.op("left_vectors" if low else "right_vectors", g, name=f"{base}.vectors", outputs=[_next(b, p)])
    t, f, s, r = _letters(stack, first, second, (dim,))
    down, up = (f"{t}{f}{s},{t}{f}{r}->{t}{r}{s}", f"{t}{f}{r},{t}{r}{s}->{t}{f}{s}")
    if not low:
        down, up = f"{t}{f}{s},{t}{s}{r}->{t}{f}{r}", f"{t}{f}{r},{t}{s}{r}->{t}{f}{s}"
    projected = b.op(down, g, p, name=f"{base}.projected", gemm="update")
    dims = b.tensors[projected].dims
    m, v = (_state(b, weight, state, dims) for state in "mv")
    written = [Tensor(f"{base}.update", dims, "state", b.layer), _next(b, m), _next(b, v)]
    update = _op(b, optimizer, "adam_direction", projected, m, v, name=f"{base}.direction", outputs=written)
    back = b.op(up, *((p, update) if low else (update, p)), name=f"{base}.back", gemm="update")
    _op(b, optimizer, "adam_step", w, back, name=base, outputs=[_next(b, w)])


class _Side(NamedTuple):
    """A side of a matrix that is rotated: its letters on both ends of the way there, and its states."""

    there: str  # g, q -> g along the eigenvectors of this side
    back: str
    gram: str  # g, g -> how its gradients lie to each other
    product: str  # gram, q -> what the eigenvectors nearer to its own are made of
    factor: str
    q: str


def _soap_sides(b: GraphBuilder, optimizer: Optimizer, weight: Weight, matrix: Matrix) -> list[_Side]:
    stack, first, second, _ = matrix
    sides = []
    for name, dims in (("l", first), ("r", second)):
        if _size(b, dims) > optimizer.largest_side:
            continue
        factor, q = (_state(b, weight, state, (*stack, *dims, *dims)) for state in (name, f"q{name}"))
        t, f, s, e, d = _letters(stack, first, second, dims, dims)
        old = f"{t}{f}{s}"
        own, new = (f, f"{t}{e}{s}") if name == "l" else (s, f"{t}{f}{e}")
        square = f"{t}{own}{e}"
        gram, product = f"{old},{new}->{square}", f"{square},{t}{e}{d}->{t}{own}{d}"
        sides.append(_Side(f"{old},{square}->{new}", f"{new},{square}->{old}", gram, product, factor, q))
    return sides


def _soap(b: GraphBuilder, optimizer: Optimizer, weight: Weight) -> None:
    """Adam along the eigenvectors of both sides' moments (Shampoo's), and the way back.

    A step that `refreshes` comes nearer to the eigenvectors before, by a power iteration, and turns the first moment.
    """
    w, g, matrix = weight
    assert matrix is not None
    if optimizer.refreshes:
        _refuse_stack(optimizer, weight)
    base, sides = f"{w}.soap", _soap_sides(b, optimizer, weight, matrix)
    m, v = (_state(b, weight, state) for state in "mv")

    def turn(x: str, qs: Sequence[str], back: bool, name: str) -> str:
        for i, (side, q) in enumerate(zip(sides, qs, strict=True), 1):
            x = b.op(side.back if back else side.there, x, q, name=f"{base}.{name}.{i}", gemm="update")
        return x

    qs, moment = [side.q for side in sides], m
    if optimizer.refreshes and sides:
        moment, turned = turn(m, qs, True, "moment"), []
        for i, side in enumerate(sides, 1):
            power = b.op(side.product, side.factor, side.q, name=f"{base}.power.{i}", gemm="update")
            turned.append(b.op("orthonormal", power, name=f"{base}.vectors.{i}", outputs=[_next(b, side.q)]))
        qs = turned
        moment = turn(moment, qs, False, "turned")
    along = turn(g, qs, False, "along")
    written = [Tensor(f"{base}.update", b.tensors[w].dims, "state", b.layer), _next(b, m), _next(b, v)]
    update = _op(b, optimizer, "adam_direction", along, moment, v, name=f"{base}.direction", outputs=written)
    back = turn(update, qs, True, "back")
    _op(b, optimizer, "adam_step", w, back, name=base, outputs=[_next(b, w)], params={"scale": 1.0})
    for i, side in enumerate(sides, 1):
        gram = b.op(side.gram, g, g, name=f"{base}.gram.{i}", gemm="update")
        average = {"name": f"{base}.average.{i}", "outputs": [_next(b, side.factor)]}
        _op(b, optimizer, "moving_average", side.factor, gram, **average)


OPTIMIZERS: Mapping[str, Callable[[GraphBuilder, Optimizer, Weight], None]] = {
    "adafactor": _adafactor,
    "muon": _muon,
    "galore": _galore,
    "soap": _soap,
}
MATRICES_ONLY = ("muon", "galore", "soap")  # what else there is, and what they leave out, has adamw


# --- the update -------------------------------------------------------------------------------------------------------


def _clip_factor(b: GraphBuilder, max_norm: float, gradients: Mapping[str, str]) -> str:
    """Append the factor that limits the gradients' global norm; of those that ranks share, their sums are summed."""
    b.layer = "clip"
    numbers = count(1)

    def plus(total: str, part: str) -> str:
        return b.op("add", total, part, name=f"clip.sum.{next(numbers)}")

    parts: dict[tuple[str, ...], list[str]] = {}
    for weight, gradient in gradients.items():
        if weight in b.counted_elsewhere:
            continue
        part = b.op("square_sum", gradient, name=f"{gradient}.square_sum")
        parts.setdefault(b.shared_over.get(weight, ()), []).append(part)
    totals: list[str] = []
    for axes, own in parts.items():
        total = reduce(plus, own)
        for axis in axes:
            total = b.op("all_reduce", total, name=f"{total}.{axis}_sum", axis=axis)
        totals.append(total)
    total = reduce(plus, totals)
    if "pipeline" in b.mesh:
        total = b.op("all_reduce", total, name="clip.pipeline_sum", axis="pipeline")
    return b.op("clip_factor", total, name="clip.factor", max_norm=max_norm)


def _append(b: GraphBuilder, optimizer: Optimizer, weight: Weight) -> None:
    several = OPTIMIZERS.get(optimizer.kind)
    if optimizer.kind in MATRICES_ONLY and (
        weight.matrix is None or any(fnmatchcase(weight.name, glob) for glob in optimizer.left_out)
    ):
        _one_op(b, optimizer, weight, "adamw")
    elif several is None:
        _one_op(b, optimizer, weight)
    else:
        several(b, optimizer, weight)


def _append_part(b: GraphBuilder, optimizer: Optimizer, weight: Weight) -> None:
    """Append the update of the output channels that the gradient has, in the weight's memory."""
    whole, dims = b.tensors[weight.name], b.tensors[weight.gradient].dims
    axis = next(i for i, (there, here) in enumerate(zip(whole.dims, dims, strict=True)) if there != here)

    def narrowed(matrix: Matrix) -> Matrix:
        first, second = (tuple(dims[axis] if d == whole.dims[axis] else d for d in side) for side in matrix[1:3])
        return matrix._replace(first=first, second=second)

    view = Tensor(f"{whole.name}.channels", dims, "weight", whole.layer)
    part = b.op("take_channels", whole.name, name=view.name, outputs=[view], axis=axis)
    matrix = None if weight.matrix is None else narrowed(weight.matrix)
    _append(b, optimizer, Weight(part, weight.gradient, matrix))
    b.op("put_channels", whole.name, f"{part}.next", name=f"{part}.put", outputs=[_next(b, whole.name)], axis=axis)


class InBackward:
    """Updates weights while the backward runs, each once nothing reads it any more, so that its gradient can go.

    Source: Lv et al., LOMO, arXiv:2306.09782; PyTorch's tutorial "optimizer step in backward" hooks it in the same way.
    """

    def __init__(self, b: GraphBuilder, optimizer: Optimizer) -> None:
        self.b, self.optimizer, self.waiting = b, optimizer, dict[str, str]()

    def finished(self, weight: str, gradient: str) -> None:
        """Take the gradient of a weight; the op at hand may still read the weight."""
        self.waiting[weight] = gradient

    def step(self) -> None:
        """Append the update of what waits; not amid the ops of one kernel."""
        b = self.b
        if self.waiting and not b.kernel:
            before = b.phase, b.times, b.layer
            update(b, self.optimizer, self.waiting)
            b.phase, b.times, b.layer = before
            self.waiting.clear()

    def last(self) -> None:
        """Append the update of what still waits at the end of the backward."""
        self.b.kernel = ""
        self.step()


def update(b: GraphBuilder, optimizer: Optimizer, gradients: Mapping[str, str]) -> None:
    """Append clipping by the global norm, if asked for, then the optimizer's ops for every weight.

    Raises FieldError for a weight that the optimizer does not take.
    """
    b.phase, b.times = "update", 1
    clip = None if optimizer.clip_norm is None else _clip_factor(b, optimizer.clip_norm, gradients)
    matrices = _matrices(b) if optimizer.kind in OPTIMIZERS else {}
    for name, grad in gradients.items():
        b.layer = b.tensors[name].layer
        if clip is not None:
            clipped = b.tensors[grad]._replace(name=f"{grad}.clipped", alias=grad)
            grad = b.op("rescale", grad, clip, name=f"{grad}.rescale", outputs=[clipped])
        weight = Weight(name, grad, matrices.get(name))
        if b.tensors[grad].dims == b.tensors[name].dims:
            _append(b, optimizer, weight)
        else:
            _append_part(b, optimizer, weight)
    b.layer = ""
