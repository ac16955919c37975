"""Patches of a sequence, which may overlap."""

from costsim.reference.torch_kernels.library import Tensor, torch


def _filled(x: Tensor, rows: int, padding: int) -> Tensor:
    """x with so many rows: after zeros, and before more of them."""
    filled = x.new_zeros(x.shape[0], max(rows, x.shape[1] + padding), x.shape[2])
    filled[:, padding : padding + x.shape[1]] = x
    return filled


def unfold(x: Tensor, stride: int, padding: int, shape: tuple[int, ...]) -> Tensor:
    """Zeros around, then a copy of a view that strides over them."""
    patches, places = shape[1:3]
    filled = _filled(x, (patches - 1) * stride + places, padding)
    return filled.unfold(1, places, stride)[:, :patches].transpose(2, 3).contiguous()


def fold(dy: Tensor, stride: int, padding: int, shape: tuple[int, ...]) -> Tensor:
    """One indexed sum, then a copy of what is no padding."""
    patches, places = dy.shape[1:3]
    at = torch.arange(patches, device=dy.device)[:, None] * stride + torch.arange(places, device=dy.device)
    rows = max((patches - 1) * stride + places, shape[1] + padding)
    dx = dy.new_zeros(shape[0], rows, shape[2]).index_add(1, at.flatten(), dy.flatten(1, 2))
    return dx[:, padding : padding + shape[1]].contiguous()
