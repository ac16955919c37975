"""The first channels of a tensor."""

from costsim.reference.torch_kernels.library import Tensor


def put_channels(x: Tensor, part: Tensor, axis: int) -> Tensor:
    """A copy, then a copy of the part."""
    y = x.clone()
    y.narrow(axis, 0, part.shape[axis]).copy_(part)
    return y
