"""Weights of which only a share of the output channels is trained: the first ones, which lie in the weight's memory.

Their gradient is that share's alone. Source: Lin et al., NeurIPS 2022, arXiv:2206.15472, section 2.2 (sub-tensors).
"""

from typing import NamedTuple

from costsim.graph.graph import Op
from costsim.graph.kinds import Dims


class Part(NamedTuple):
    """The channels of a weight that are trained."""

    axis: int  # of the weight
    dim: str

    def of(self, dims: Dims) -> Dims:
        """The dims of the part of a weight with these dims."""
        return (*dims[: self.axis], self.dim, *dims[self.axis + 1 :])

    def axis_of_result(self, op: Op, operand: int) -> int:
        """The axis along which the channels lie in the result of a product with the weight as that operand."""
        return op.kind.outputs[0].pattern.index(op.kind.inputs[operand].pattern[self.axis])
