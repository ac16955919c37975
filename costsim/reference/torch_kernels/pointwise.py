"""Equations of traced graphs: functions of elements that line up, and of whole tensors. See `graph.ops.functions`."""

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from costsim.graph.ops import FUNCTIONS
from costsim.reference.torch_kernels.library import Tensor, torch

Terms = tuple[str, ...]
Shape = tuple[int, ...]
Kernel = Callable[..., Any]

# Of elements that line up: what PyTorch calls it.
ELEMENTS: Mapping[str, Kernel] = {
    "copy": torch.clone,
    "not": lambda x: x == 0,
    "to_float": lambda x: x.to(torch.get_default_dtype()),
    "to_index": lambda x: x.long(),
    "to_mask": lambda x: x != 0,
    "power": lambda x, exponent: x**exponent,
    "divide": lambda x, by: x / by,
    "subtract_from": lambda x, number: number - x,
    "clamp": lambda x, low, high: x.clamp(low, high),
    "raised": torch.pow,
    "compare": lambda a, b, how: getattr(torch, how)(a, b),
    "compare_with": lambda x, how, number: getattr(torch, how)(x, number),
    "and": torch.logical_and,
    "or": torch.logical_or,
    "fill": lambda x, mask, value: torch.where(mask, torch.full_like(x, value), x),
    "logistic_loss": lambda z, t: torch.nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none"),
    "sigmoid_grad": lambda dy, y: dy * (y * (1 - y)),
    **{name: getattr(torch, name) for name in ("neg", "abs", "sign", "ceil", "exp", "log", "sqrt", "reciprocal")},
    **{name: getattr(torch, name) for name in ("sin", "cos")},
    **{name: getattr(torch, name) for name in ("sigmoid", "add", "sub", "mul", "div", "maximum", "minimum", "where")},
}
REDUCTIONS: Mapping[str, Kernel] = {
    "sum": torch.sum,
    "mean_of": torch.mean,
    "largest": torch.amax,
    "place_of_largest": lambda x, axes: x.flatten(axes[0]).argmax(-1),
    "any": torch.any,
    "all": torch.all,
}


def _lined_up(x: Tensor, term: str, indices: str) -> Tensor:
    """A tensor with an axis for each index, in this order: of one element where it has none."""
    order = [term.index(index) for index in indices if index in term]
    return x.permute(order).reshape([x.shape[term.index(i)] if i in term else 1 for i in indices])


def _elements(name: str, terms: Terms, *operands: Tensor, shape: Shape, **params: Any) -> Tensor:
    """A function of elements, or a reduction over the indices that the result lacks."""
    y = terms[-1]
    reduced = "".join(dict.fromkeys(index for term in terms[:-1] for index in term if index not in y))
    lined = [_lined_up(x, term, y + reduced) for x, term in zip(operands, terms[:-1], strict=True)]
    if name in REDUCTIONS:
        axes = tuple(range(len(y), len(y) + len(reduced)))
        made = REDUCTIONS[name](lined[0], axes) if axes else lined[0]
    else:
        made = ELEMENTS[name](*lined, **params)
    return made if tuple(made.shape) == shape else made.expand(shape).contiguous()


# --- of complex numbers, which are pairs along the last index ---------------------------------------------------------


def _polar(length: Tensor, angle: Tensor, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    y = terms[-1][:-1]
    return torch.view_as_real(
        torch.polar(*torch.broadcast_tensors(_lined_up(length, terms[0], y), _lined_up(angle, terms[1], y)))
    )


def _complex(x: Tensor, term: str, y: str) -> Tensor:
    return torch.view_as_complex(_lined_up(x, term, y).contiguous())


def _complex_mul(a: Tensor, b: Tensor, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return torch.view_as_real(_complex(a, terms[0], terms[-1]) * _complex(b, terms[1], terms[-1]))


def _conj(x: Tensor, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return torch.view_as_real(_complex(x, terms[0], terms[-1]).conj().resolve_conj())


# --- of whole tensors -------------------------------------------------------------------------------------------------


def _along(x: Tensor, term: str, other: str) -> tuple[Tensor, int]:
    """A tensor with all dims that another term has not, which lie side by side, as one axis; and that axis."""
    before = next((i for i, (a, b) in enumerate(zip(term, other, strict=False)) if a != b), min(len(term), len(other)))
    behind = next((i for i, (a, b) in enumerate(zip(term[::-1], other[::-1], strict=False)) if a != b), len(other))
    behind = min(behind, len(term) - before, len(other) - before)
    return x.reshape(*x.shape[:before], -1, *x.shape[len(term) - behind :]), before


def _stretch(axis: int, start: int, step: int, size: int) -> tuple[slice, ...]:
    """So many elements along an axis, the first at `start`."""
    return (*(slice(None),) * axis, slice(start, start + step * size, step))


def _divide_by_count(x: Tensor, terms: Terms, shape: Shape) -> Tensor:
    return _lined_up(x, terms[0], terms[-1]).expand(shape) / math.prod(shape)


def _permute(x: Tensor, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return x.permute([terms[0].index(index) for index in terms[1]])


def _reshape(x: Tensor, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return x.reshape(shape)


def _slice(x: Tensor, start: int, step: int, terms: Terms, shape: Shape) -> Tensor:
    x, axis = _along(x, terms[0], terms[1])
    size = math.prod(shape) // max(1, math.prod(x.shape[:axis] + x.shape[axis + 1 :]))
    return x[_stretch(axis, start % x.shape[axis], step, size)].reshape(shape)


def _put(x: Tensor, part: Tensor, start: int, terms: Terms, shape: Shape) -> Tensor:
    y, axis = _along(x.clone(memory_format=torch.contiguous_format), terms[0], terms[1])
    part, _ = _along(part, terms[1], terms[0])
    y[_stretch(axis, start % y.shape[axis], 1, part.shape[axis])] = part
    return y.reshape(shape)


def _slice_grad(dy: Tensor, start: int, step: int, terms: Terms, shape: Shape) -> Tensor:
    dy, axis = _along(dy, terms[0], terms[1])
    dx, _ = _along(dy.new_zeros(shape), terms[1], terms[0])
    dx[_stretch(axis, start % dx.shape[axis], step, dy.shape[axis])] = dy
    return dx.reshape(shape)


def _concat(*x: Tensor, terms: Terms, shape: Shape) -> Tensor:
    cut = [_along(part, term, terms[-1]) for part, term in zip(x, terms, strict=False)]
    return torch.cat([part for part, _ in cut], cut[0][1]).reshape(shape)


def _pad(x: Tensor, before: int, value: float, terms: Terms, shape: Shape) -> Tensor:
    x, axis = _along(x, terms[0], terms[1])
    y, _ = _along(x.new_full(shape, value), terms[1], terms[0])
    size = min(x.shape[axis] + min(0, before), y.shape[axis] - max(0, before))
    y[_stretch(axis, max(0, before), 1, size)] = x[_stretch(axis, max(0, -before), 1, size)]
    return y.reshape(shape)


def _full(value: float, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return torch.full(shape, value)


def _arange(start: int, step: int, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return start + step * torch.arange(math.prod(shape)).reshape(shape)


def _tril(x: Tensor, diagonal: int, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return x.tril(diagonal)


def _triu(x: Tensor, diagonal: int, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return x.triu(diagonal)


def _cumsum(x: Tensor, axis: int, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return x.cumsum(axis)


# --- lookups ----------------------------------------------------------------------------------------------------------


def _places(indices: tuple[Tensor, ...], terms: Terms, of: str, result: str) -> tuple[tuple[Tensor, ...], str]:
    """What to index the first dims by, those of a term that the result lacks; and the order of what comes out."""
    order = "".join(dict.fromkeys("".join(terms)))
    lined = [_lined_up(x, term, order) for x, term in zip(indices, terms, strict=True)]
    return tuple(lined), order + "".join(letter for letter in of if letter in result)


def _first(of: str, result: str) -> list[int]:
    """The dims of a term, those first that the result lacks."""
    return [of.index(i) for i in sorted(of, key=lambda i: (i in result, of.index(i)))]


def _index(x: Tensor, *indices: Tensor, terms: Terms, shape: Shape) -> Tensor:
    of, result = terms[0], terms[-1]
    at, order = _places(indices, terms[1:-1], of, result)
    return x.permute(_first(of, result))[at].permute([order.index(i) for i in result]).expand(shape)


def _index_put(x: Tensor, values: Tensor, *indices: Tensor, terms: Terms, shape: Shape) -> Tensor:
    of, result = terms[0], terms[1]
    at, order = _places(indices, terms[2:-1], of, result)
    y = x.expand(shape).clone()
    y.permute(_first(of, result)).index_put_(at, values.permute([result.index(i) for i in order]), accumulate=True)
    return y


def _spread(x: Tensor, of: Tensor, axis: int) -> Tensor:
    """A tensor with as many axes as another: with one of one element where it lacks this one."""
    return x.unsqueeze(axis) if x.ndim < of.ndim else x


def _take_along(x: Tensor, places: Tensor, axis: int, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return torch.take_along_dim(x, _spread(places, x, axis), axis).reshape(shape)


def _put_along(x: Tensor, places: Tensor, values: Tensor, axis: int, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return x.scatter(axis, _spread(places, x, axis), _spread(values, x, axis))


def _add_along(x: Tensor, places: Tensor, values: Tensor, axis: int, terms: Terms, shape: Shape) -> Tensor:  # noqa: ARG001
    return x.scatter_add(axis, _spread(places, x, axis), _spread(values, x, axis))


def _split(whole: str, cut: str) -> tuple[int, int, int]:
    """The axis of a term that another lacks, and the two axes of the other that it becomes: of patches, of places."""
    patches, places = (i for i, index in enumerate(cut) if index not in whole)
    return next(i for i, index in enumerate(whole) if index not in cut), patches, places


def _rows(patches: int, places: int, ways: Mapping[str, int], device: Any) -> Tensor:
    """By patch and place: the row, counted from the first of padding."""
    number, place = torch.arange(patches, device=device), torch.arange(places, device=device)
    return number[:, None] * ways["stride"] + place * ways["dilation"]


def _with_places(cut: str, whole: str, shape: Shape) -> tuple[str, Shape]:
    """A term that has patches, and its shape, with an index of places behind; of one if it has none."""
    one = sum(index not in whole for index in cut) == 1
    return (f"{cut}.", (*shape, 1)) if one else (cut, shape)


def _unfold(x: Tensor, terms: Terms, shape: Shape, **ways: int) -> Tensor:
    whole, (cut, sizes) = terms[0], _with_places(terms[1], terms[0], shape)
    axis, patches, places = _split(whole, cut)
    at = _rows(sizes[patches], sizes[places], ways, x.device)
    rows, padding = x.movedim(axis, 0), ways["padding"]
    filled = x.new_zeros(max(int(at.max()) + 1, rows.shape[0] + padding), *rows.shape[1:])
    filled[padding : padding + rows.shape[0]] = rows
    others = [index for index in whole if index in cut]
    made = [cut[patches], cut[places], *others]
    return filled[at].permute([made.index(index) for index in cut]).reshape(shape)


def _fold(dy: Tensor, terms: Terms, shape: Shape, **ways: int) -> Tensor:
    whole, (cut, sizes) = terms[1], _with_places(terms[0], terms[1], tuple(dy.shape))
    dy = dy.reshape(sizes)
    axis, patches, places = _split(whole, cut)
    at = _rows(dy.shape[patches], dy.shape[places], ways, dy.device)
    others, padding = [index for index in whole if index in cut], ways["padding"]
    rows = dy.permute([patches, places, *map(cut.index, others)]).flatten(0, 1)
    dx = dy.new_zeros(max(int(at.max()) + 1, shape[axis] + padding), *rows.shape[1:]).index_add(0, at.flatten(), rows)
    return dx[padding : padding + shape[axis]].movedim(0, axis).contiguous()


WHOLE: Mapping[str, Kernel] = {
    "divide_by_count": _divide_by_count,
    "polar": _polar,
    "complex_mul": _complex_mul,
    "conj": _conj,
    "permute": _permute,
    "reshape": _reshape,
    "slice": _slice,
    "put": _put,
    "slice_grad": _slice_grad,
    "concat": _concat,
    "pad": _pad,
    "full": _full,
    "arange": _arange,
    "tril": _tril,
    "triu": _triu,
    "cumsum": _cumsum,
    "index": _index,
    "index_put": _index_put,
    "take_along": _take_along,
    "put_along": _put_along,
    "add_along": _add_along,
    "unfold": _unfold,
    "fold": _fold,
}


@cache
def pointwise(text: str) -> Kernel:
    """The kernel of a function and an equation, such as `mul bhqk,qk->bhqk`."""
    name, _, equation = text.partition(" ")
    given, _, result = equation.partition("->")
    terms = (*(given.split(",") if FUNCTIONS[name].operands else ()), result)
    return partial(WHOLE[name], terms=terms) if FUNCTIONS[name].whole else partial(_elements, name, terms)
