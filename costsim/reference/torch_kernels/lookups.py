"""Lookups: the gradients of tables and of the first position."""

from costsim.reference.torch_kernels.library import Tensor, aten


def embed_grad(dy: Tensor, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What autograd calls for a dense gradient."""
    return aten.embedding_dense_backward(dy, ids, shape[0], -1, False)


def select_first_grad(dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What autograd calls: zeros, then a copy."""
    return aten.select_backward(dy, shape, 1, 0)


def prepend(first: Tensor, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros, then two copies."""
    y = x.new_zeros(shape)
    y[:, 0] = first
    y[:, 1 : x.shape[1] + 1] = x[:, : shape[1] - 1]
    return y


def repeat(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One copy."""
    return x.expand(shape).clone()


def drop_first(dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros, then a copy."""
    dx = dy.new_zeros(shape)
    dx[:, : dy.shape[1] - 1] = dy[:, 1 : shape[1] + 1]
    return dx


def mean_pool(x: Tensor, keep: Tensor) -> Tensor:
    """By hand, as transformers' ModernBERT."""
    return (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)


def mean_pool_grad(dy: Tensor, keep: Tensor) -> Tensor:
    """By hand."""
    return (dy / keep.sum(1, keepdim=True))[:, None] * keep[..., None]
