"""The first channels of a tensor along one of its axes: views, which lie in the memory of the whole and move nothing.

Of a weight of which only a share of the output channels is trained, and of the gradient of what it makes.
"""

from __future__ import annotations

from costsim.graph.ops.register import Array, op


@op(
    "x[*k] -> y[*m]",
    work={},
    grads={"x": None},
    params=("axis",),
    runtime=("shape",),
    view=True,
    lies_in={"y": "x"},
    torch="same",
)
def take_channels(x: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """y = x without the last channels along an axis."""
    return x[(slice(None),) * axis + (slice(shape[axis]),)]


@op(
    "x[*k], part[*m] -> y[*k]",
    work={},
    grads={"x": None, "part": None},
    params=("axis",),
    view=True,
    lies_in={"part": "x"},
    torch="channels.put_channels",
)
def put_channels(x: Array, part: Array, axis: int) -> Array:
    """y = x whose first channels along an axis are those of part: where part has changed in the memory of x."""
    y = x.copy()
    y[(slice(None),) * axis + (slice(part.shape[axis]),)] = part
    return y
