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
            left = Tensor(f"{weight}.grad.sent", (NOTHING,), "gradient", b.tensors[weight].layer)
            b.op("send", gradient, name=f"{weight}.grad.send", outputs=[left], axis="pipeline")
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
                axis = b.axis_of(b.tensors[weight].dims)
                gradient, sent = self._rounded(b, weight, gradient) if axis in b.mesh else (gradient, "")
                gradient = self._summed(b, gradient, axis, sent)
            if weight in tied:
                gradient = self._summed(b, gradient, "tied")
                if b.parallel.stage != b.mesh["tied"].stages[0]:
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
        _, gradient = self._rounded(b, weight, gradient)
        return b.op("reduce_scatter_flat", gradient, name=f"{weight}.grad.scatter", outputs=[result], axis=axis)

    def _summed(self, b: ShardedBuilder, gradient: str, axis: str, sent: str = "") -> str:
        """The sum over an axis of what is sent, in place; the gradient itself if the axis has one rank."""
        if axis not in b.mesh:
            return gradient
        result = b.tensors[gradient]._replace(name=f"{gradient}.{axis}_sum", alias=gradient)
        return b.op("all_reduce", sent or gradient, name=f"{gradient}.{axis}_sum", outputs=[result], axis=axis)

    def _rounded(self, b: ShardedBuilder, weight: str, gradient: str) -> tuple[str, str]:
        """A gradient and what is sent of it: with error feedback, what was lost before is added, and the new loss kept.

        Each rank has an error of its own, as the workers of 1-bit Adam (Tang et al., arXiv:2102.02888, algorithm 1; of
        SGD Karimireddy et al., arXiv:1901.09847). What is made of the sum is not rounded once more.
        """
        if not b.parallel.error_feedback:
            return gradient, gradient
        of = b.tensors[gradient]
        error = b.tensor(Tensor(f"{weight}.error", of.dims, "state", of.layer))
        fed = of._replace(name=f"{weight}.grad.fed", alias=gradient)
        b.op("accumulate", gradient, error, name=f"{weight}.grad.feed", outputs=[fed])
        rounded = of._replace(name=f"{weight}.grad.rounded", alias=None)
        b.op("round_to_send", fed.name, name=f"{weight}.grad.round", outputs=[rounded])
        after = Tensor(f"{error}.next", of.dims, "state", of.layer, alias=error)
        b.op("rounding_error", fed.name, rounded.name, name=f"{weight}.grad.lose", outputs=[after])
        return fed.name, rounded.name
