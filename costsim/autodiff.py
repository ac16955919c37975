"""Reverse mode: appends the backward ops of a loss to the graph.

What is kept for the backward (the stash) is not decided anywhere: it is the set of forward tensors that backward ops
read. A tensor with several readers gets its gradients summed by visible `add` ops.
"""

from collections import Counter
from collections.abc import Callable

from costsim.graph import Graph, GraphBuilder, Op, Tensor
from costsim.kinds import GradRule
from costsim.ops import kind_of

_GEMM_OF_OPERAND = {"x": "dgrad", "w": "wgrad"}


def _needs_gradient(builder: GraphBuilder) -> set[str]:
    """Tensors on a way from a weight: what the forward computes from weights, and the weights."""
    needs = {t.name for t in builder.tensors.values() if t.role == "weight"}
    for op in builder.ops:
        if any(op.inputs[i] in needs for i in op.kind.differentiable):
            needs.update(op.outputs)
    return needs


class _Backward:
    """The gradients collected so far, while the forward ops are walked in reverse."""

    def __init__(self, builder: GraphBuilder, loss: str, finished: Callable[[str, str], None]) -> None:
        self.builder = builder
        self.finished = finished
        self.needs = _needs_gradient(builder)
        self.gradient: dict[str, str] = {}  # of each tensor: what its gradients sum to so far
        self.parts: Counter[str] = Counter()
        self.expected = self._count_readers(loss)

    def _count_readers(self, loss: str) -> Counter[str]:
        """How many gradients each tensor will receive: one per differentiable reader on a way to the loss."""
        reaches = {loss}
        expected: Counter[str] = Counter()
        for op in reversed(self.builder.ops):
            if reaches.isdisjoint(op.outputs):
                continue
            for i in op.kind.differentiable:
                if (name := op.inputs[i]) in self.needs:
                    expected[name] += 1
                    reaches.add(name)
        return expected

    def describe(self, source: str, name: str) -> Tensor:
        of = self.builder.tensors[source]
        role = "weight_gradient" if of.role == "weight" else "gradient"
        return Tensor(name, of.dims, role, of.layer)

    def _result(self, source: str) -> Tensor:
        """The tensor that the next gradient of `source` is written to; the only one gets the plain name."""
        if self.expected[source] == 1:
            return self.describe(source, f"{source}.grad")
        return self.describe(source, f"{source}.grad.part{self.parts[source]}")

    def _receive(self, source: str, gradient: str) -> None:
        """Add a gradient to what `source` has; sums at once, so that parts live shortly."""
        self.parts[source] += 1
        done = self.parts[source] == self.expected[source]
        if source in self.gradient:
            name = f"{source}.grad" if done else f"{source}.grad.sum{self.parts[source]}"
            gradient = self.builder.op(
                "add",
                self.gradient[source],
                gradient,
                name=f"{source}.grad.add{self.parts[source] - 1}",
                outputs=[self.describe(source, name)],
            )
        self.gradient[source] = gradient
        if done and self.builder.tensors[source].role == "weight":
            self.finished(source, gradient)

    def _apply(self, op: Op, rule: GradRule, names: dict[str, str]) -> None:
        """Append the op of one gradient rule and hand its results on."""
        sources = [names[operand] for operand in rule.operands]
        if self.needs.isdisjoint(sources):
            return
        arguments = [names[argument] for argument in rule.arguments]
        if not rule.kind:
            self._receive(sources[0], arguments[0])
            return
        gemm = _GEMM_OF_OPERAND[rule.operands[0]] if op.gemm else None
        params = {name: op.params[name] for name in kind_of(rule.kind).params}
        results = [self._result(source) for source in sources]
        self.builder.op(
            rule.kind,
            *arguments,
            name=f"{op.name}.d{'_'.join(rule.operands)}",
            outputs=results,
            gemm=gemm,
            **params,
        )
        for source, result in zip(sources, results, strict=True):
            self._receive(source, result.name)

    def visit(self, op: Op) -> None:
        """Append the gradients of one forward op. Raises ValueError on a gradient that no rule takes."""
        kind = op.kind
        names = dict(zip(kind.input_names, op.inputs, strict=True))
        arrived = False
        for (result, gradient, taken), output in zip(kind.results, op.outputs, strict=True):
            names[result] = output
            if output in self.gradient:
                if not taken:
                    raise ValueError(f"{op.name}: {kind.name} has no rule for the gradient {gradient}")
                names[gradient] = self.gradient[output]
                arrived = True
        if not arrived:
            return
        self.builder.layer = op.layer
        for rule in kind.grads:
            self._apply(op, rule, names)


def backward(builder: GraphBuilder, loss: str, finished: Callable[[str, str], None]) -> None:
    """Append the backward of `loss` (a scalar) in phase `backward`.

    `finished(weight, gradient)` is called as soon as the whole gradient of a weight is there, and may append ops.
    The gradient of the loss itself is a given tensor, `<loss>.grad`, whose value is 1.
    Raises ValueError if an output without a gradient rule receives a gradient.
    """
    state = _Backward(builder, loss, finished)
    forward_ops = list(builder.ops)
    builder.phase = "backward"
    state.gradient[loss] = builder.tensor(state.describe(loss, f"{loss}.grad"))
    for op in reversed(forward_ops):
        state.visit(op)
    builder.layer = ""


def stash(graph: Graph) -> dict[str, tuple[Op, ...]]:
    """The tensors kept for the backward: forward tensors and data that backward ops read, each with those readers.

    Weights are not in it (they are kept anyway), nor is what the backward itself makes.
    """
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        if op.phase != "backward":
            continue
        for name in dict.fromkeys(op.inputs):
            if is_stashed(graph, name):
                readers.setdefault(name, []).append(op)
    return {name: tuple(ops) for name, ops in readers.items()}


def is_stashed(graph: Graph, name: str) -> bool:
    """Whether a backward op that reads this tensor reads it from the stash."""
    return graph.tensors[name].role in ("activation", "data")
