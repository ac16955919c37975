"""Mixture of experts: choosing experts, moving tokens to them and back, all written by hand."""

from typing import Any

from costsim.reference.torch_kernels.library import Tensor, torch


def _slots(index: Tensor, experts: int, capacity: int) -> Tensor:
    """Of each choice: its row among experts x capacity, or one beyond them if the expert is full."""
    chosen = index.reshape(-1)
    order = chosen.argsort(stable=True)
    in_order = chosen[order]
    first = torch.searchsorted(in_order, torch.arange(experts, device=index.device))
    place = torch.empty_like(chosen)
    place[order] = torch.arange(chosen.numel(), device=index.device) - first[in_order]
    return torch.where(place < capacity, chosen * capacity + place, experts * capacity).view(index.shape)


def _gather(y: Tensor, index: Tensor) -> Tensor:
    """Rows [b, s, k, d] of y[e, c, d] that the choices have; zeros for those left out."""
    e, c, d = y.shape
    return torch.cat([y.reshape(e * c, d), y.new_zeros(1, d)])[_slots(index, e, c)]


def _scatter(rows: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """y[e, c, d] of rows [b, s, k, d], each in its slot."""
    e, c, d = shape
    y = rows.new_zeros(e * c + 1, d)
    y[_slots(index, e, c).reshape(-1)] = rows.reshape(-1, d)
    return y[: e * c].view(shape)


def top_k(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One kernel; of equal ones it takes any."""
    return x.topk(shape[-1], -1).indices


def pick(x: Tensor, index: Tensor) -> Tensor:
    """One gather."""
    return x.gather(-1, index)


def pick_grad(dy: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros, then a scatter."""
    return dy.new_zeros(shape).scatter_(-1, index, dy)


def normalize(x: Tensor) -> Tensor:
    """Two kernels: a sum and a quotient."""
    return x / x.sum(-1, keepdim=True)


def normalize_grad(dy: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Five kernels."""
    return (dy - (dy * y).sum(-1, keepdim=True)) / x.sum(-1, keepdim=True)


def dispatch(x: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Every token's row to each of its experts."""
    return _scatter(x[..., None, :].expand(*index.shape, x.shape[-1]), index, shape)


def dispatch_grad(dy: Tensor, index: Tensor) -> Tensor:
    """The rows back, and their sum."""
    return _gather(dy, index).sum(-2)


def combine(y: Tensor, gates: Tensor, index: Tensor) -> Tensor:
    """The rows back, weighted, and their sum."""
    return (_gather(y, index) * gates[..., None]).sum(-2)


def combine_grad(dout: Tensor, gates: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Every token's gradient, weighted, to its experts."""
    return _scatter(dout[..., None, :] * gates[..., None], index, shape)


def combine_grad_gates(dout: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """The rows back, and their products with the gradient."""
    return (dout[..., None, :] * _gather(y, index)).sum(-1)


def add_bias_of_each(x: Tensor, b: Tensor) -> Tensor:
    """One sum, broadcast over rows."""
    return x + b[:, None]


def sum_of_each(dy: Tensor) -> Tensor:
    """One sum."""
    return dy.sum(1)


def _groups(experts: int, groups: int, device: Any) -> Tensor:
    """The group of each expert, runs of as many each."""
    return torch.arange(experts, device=device) * groups // experts


def _largest(x: Tensor, groups: int, number: int) -> Tensor:
    """The sum of so many of the largest of each group, group by group."""
    of = _groups(x.shape[-1], groups, x.device)
    cut = [x[..., of == group] for group in range(groups)]
    return torch.stack([each.topk(min(number, each.shape[-1]), -1).values.sum(-1) for each in cut], -1)


def group_max(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The largest of each group."""
    return _largest(x, shape[-1], 1)


def group_top2(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The two largest of each group, and their sum."""
    return _largest(x, shape[-1], 2)


def keep_groups(x: Tensor, scores: Tensor, index: Tensor) -> Tensor:
    """A comparison, and a fill of minus infinity."""
    of = _groups(x.shape[-1], scores.shape[-1], x.device)
    return x.masked_fill(~(of[:, None] == index[..., None, :]).any(-1), -torch.inf)
