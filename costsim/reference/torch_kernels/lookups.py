"""Lookups: the gradients of tables and of the first position."""

from costsim.reference.torch_kernels.library import Tensor, aten


def embed_grad(dy: Tensor, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What autograd calls for a dense gradient."""
    return aten.embedding_dense_backward(dy, ids, shape[0], -1, False)


def select_first_grad(dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What autograd calls: zeros, then a copy."""
    return aten.select_backward(dy, shape, 1, 0)
