"""Gradients of a step on many devices: summed over micro-batches and over ranks, whole or in shares."""

from costsim.graph.builder import GraphBuilder
from costsim.graph.graph import Tensor
from costsim.parallel.builder import NOTHING, ShardedBuilder


def accumulated(b: GraphBuilder, name: str, gradient: str) -> str:
    """Append the sum of a weight's gradients over micro-batches, in place: the first becomes it, the others are added.

    So does PyTorch after zero_grad(set_to_none=True). Without others, the gradient itself.
    """
    if b.micro_batches == 1:
        return gradient
    layer, dims = b.tensors[name].layer, b.tensors[gradient].dims
    before = b.tensor(Tensor(f"{name}.grad_sum", dims, "weight_gradient", layer))
    after = Tensor(f"{name}.grad_sum.next", dims, "weight_gradient", layer, alias=before)
    b.times = b.micro_batches - 1
    total = b.op("accumulate", before, gradient, name=f"{name}.accumulate", outputs=[after])
    b.times = b.micro_batches
    return total


class Gradients:
    """By weight that the update changes (or the share of it that a rank keeps): its gradient.

    Ranks of data reduce gradients once a step, with zero 2 and 3 after each micro-batch, so that no rank has all of
    them. Source: Rajbhandari et al., arXiv:1910.02054, section 5.
    """

    def __init__(self, b: GraphBuilder) -> None:
        self.b, self.of = b, dict[str, str]()

    def finished(self, weight: str, gradient: str) -> None:
        """Take the gradient of a weight in one micro-batch; that of what the stage before made is sent to it."""
        b = self.b
        if weight in b.received:
            left = Tensor(f"{gradient}.sent", (NOTHING,), "gradient", b.tensors[weight].layer)
            b.op("send", gradient, name=f"{gradient}.send", outputs=[left], axis="pipeline")
            return
        if isinstance(b, ShardedBuilder) and b.parallel.zero >= 2 and weight in b.shares:
            gradient = self._scattered(b, weight, gradient)
            weight = b.shares[weight]
        self.of[weight] = accumulated(b, weight, gradient)

    def complete(self) -> dict[str, str]:
        """The gradients, each summed over all ranks that have a part of it."""
        b = self.b
        if not isinstance(b, ShardedBuilder):
            return self.of
        b.times = 1
        complete: dict[str, str] = {}
        tied = {b.shares.get(weight, weight) for weight in b.tied}
        for weight, gradient in self.of.items():
            b.layer = b.tensors[weight].layer
            if weight in b.shares:
                gradient = self._scattered(b, weight, gradient)
                weight = b.shares[weight]
            elif not b.parallel.zero or weight not in b.shares.values():
                gradient = self._summed(b, gradient, b.axis_of(b.tensors[weight].dims))
            if weight in tied:
                gradient = self._summed(b, gradient, "tied")
                if b.parallel.stage:
                    b.counted_elsewhere.add(weight)
            if weight in b.partial:
                gradient = self._summed(b, gradient, "tensor")
            complete[weight] = gradient
        b.layer = ""
        return complete

    def _scattered(self, b: ShardedBuilder, weight: str, gradient: str) -> str:
        """The rank's share of the sum of all ranks' gradients."""
        share = b.tensors[b.shares[weight]]
        result = Tensor(f"{share.name}.grad", share.dims, "weight_gradient", share.layer)
        axis = b.axis_of(b.tensors[weight].dims)
        return b.op("reduce_scatter_flat", gradient, name=f"{weight}.grad.scatter", outputs=[result], axis=axis)

    def _summed(self, b: ShardedBuilder, gradient: str, axis: str) -> str:
        """The sum over an axis, in place; the gradient itself if the axis has one rank."""
        if axis not in b.mesh:
            return gradient
        tensor = b.tensors[gradient]
        result = tensor._replace(name=f"{gradient}.{axis}_sum", alias=gradient)
        return b.op("all_reduce", gradient, name=f"{gradient}.{axis}_sum", outputs=[result], axis=axis)
