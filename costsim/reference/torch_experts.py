"""Mixture of experts in PyTorch."""

from costsim.reference.torch_table import Tensor, kernel, torch

# --- experts ----------------------------------------------------------------------------------------------------------


def _slots(index: Tensor, experts: int, capacity: int) -> Tensor:
    chosen = index.reshape(-1)
    order = chosen.argsort(stable=True)
    sorted_ones = chosen[order]
    first = torch.searchsorted(sorted_ones, torch.arange(experts, device=index.device))
    place = torch.empty_like(chosen)
    place[order] = torch.arange(chosen.numel(), device=index.device) - first[sorted_ones]
    return torch.where(place < capacity, chosen * capacity + place, experts * capacity).view(index.shape)


def _gather(y: Tensor, index: Tensor) -> Tensor:
    e, c, d = y.shape
    return torch.cat([y.reshape(e * c, d), y.new_zeros(1, d)])[_slots(index, e, c)]


def _scatter(rows: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    e, c, d = shape
    y = rows.new_zeros(e * c + 1, d)
    y[_slots(index, e, c).reshape(-1)] = rows.reshape(-1, d)
    return y[: e * c].view(shape)


@kernel
def top_k(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Of equal ones any."""
    return x.topk(shape[-1], -1).indices


@kernel
def pick(x: Tensor, index: Tensor) -> Tensor:
    """One kernel."""
    return x.gather(-1, index)


@kernel
def pick_grad(dy: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros, then one kernel."""
    return dy.new_zeros(shape).scatter_(-1, index, dy)


@kernel
def normalize(x: Tensor) -> Tensor:
    """Two kernels."""
    return x / x.sum(-1, keepdim=True)


@kernel
def normalize_grad(dy: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A few small ones."""
    return (dy - (dy * y).sum(-1, keepdim=True)) / x.sum(-1, keepdim=True)


@kernel
def dispatch(x: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows to experts."""
    return _scatter(x[..., None, :].expand(*index.shape, x.shape[-1]), index, shape)


@kernel
def dispatch_grad(dy: Tensor, index: Tensor) -> Tensor:
    """And back."""
    return _gather(dy, index).sum(-2)


@kernel
def combine(y: Tensor, gates: Tensor, index: Tensor) -> Tensor:
    """Rows from experts, weighted."""
    return (_gather(y, index) * gates[..., None]).sum(-2)


@kernel
def combine_grad(dout: Tensor, gates: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """And back."""
    return _scatter(dout[..., None, :] * gates[..., None], index, shape)


@kernel
def combine_grad_gates(dout: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """Of the weights."""
    return (dout[..., None, :] * _gather(y, index)).sum(-1)
