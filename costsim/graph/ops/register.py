"""The op table: every kind of op that a training step has, one NumPy function each.

The decorator says the index patterns, how much work is done per point of a pattern, and which op of which arguments
makes each operand's gradient (`None` for integers and masks; "dy" passes the gradient through). Conventions of work:
a subtraction is an `add`, a maximum a `cmp`, a reduction of n counts n; signs, looking up, picking count nothing. DRAM
traffic needs no entry: every input is read once, every output written once, unless `touches` narrows what is read.
`remake` says how an output that was not kept is made again from outputs that were, where that is cheaper. Matrix
products are einsum equations (`kinds.contraction`) and are not listed here.

`torch` names the op's PyTorch kernel: "torch.relu" and "aten.gelu" are functions of the library that take the same
operands, "attention.softmax" is the function `softmax` in `reference/torch_kernels/attention.py`, and "same" is the
row's own function, where operators on arrays are all that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from costsim.graph.kinds import Kind, make_kind


class _LazyNumpy:
    """NumPy on first use: counting reads this table without ever running it."""

    def __getattr__(self, name: str) -> Any:
        import numpy

        return getattr(numpy, name)


np: Any = _LazyNumpy()
Array = Any  # a NumPy array, of floats or of objects that count their own operations

OPS: dict[str, Kind] = {}


def op(
    signature: str,
    *,
    work: Mapping[str, Mapping[str, int]],
    grads: Mapping[str, str | None],
    torch: str,
    **more: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a row to the op table. Every part is required: no op is without work, gradient or PyTorch kernel."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        OPS[run.__name__] = make_kind(run.__name__, signature, run, work, grads, torch=torch, **more)
        return run

    return register


def total(x: Array) -> Array:
    """Sum over the last dim, kept; starts from 0, so n elements take n adds."""
    return np.add.reduce(x, axis=-1, keepdims=True, initial=0)
