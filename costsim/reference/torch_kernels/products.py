"""Matrix products: the kernels of contractions, which have no row in the op table."""

from functools import cache

from costsim.reference.torch_kernels.library import Tensor, torch


@cache
def _swapped(equation: str) -> str | None:
    """The equation with its operands swapped, if that leaves the rows of the result one after another."""
    operands, y = equation.split("->")
    x, w = operands.split(",")
    return f"{w},{x}->{y}" if y and y[-1] in x and y[-1] not in w else None


def contract(equation: str, x: Tensor, w: Tensor) -> Tensor:
    """A contraction by batched matrix products."""
    swapped = _swapped(equation)
    return torch.einsum(swapped, w, x) if swapped else torch.einsum(equation, x, w)
