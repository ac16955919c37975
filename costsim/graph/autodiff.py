"""Reverse mode: appends the backward ops of a loss to the graph, and the ops that recompute what was not kept.

Nothing decides what is kept for the backward (the stash): it is the set of forward tensors that backward ops read. In a
segment of the forward only some results are kept. Ops in phase `recompute`, right before the segment's backward, make
the others once more. A tensor with several readers gets its gradients summed by visible `add` ops.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from costsim.graph.builder import GraphBuilder, Segment
from costsim.graph.graph import Graph, Op, Tensor
from costsim.graph.kinds import GradRule
from costsim.graph.ops import kind_of
from costsim.graph.order import in_backward_order, move_behind, stretch
from costsim.names import Gemm

AFTER_FORWARD = ("recompute", "backward")  # phases that read the stash
_GEMM_OF_OPERAND: Mapping[str, Gemm] = {"x": "dgrad", "w": "wgrad"}  # which GEMM makes an operand's gradient


def _needs_gradient(builder: GraphBuilder) -> set[str]:
    """The trained weights, what a stage before made, and all that the forward computes from them."""
    needs = {t.name for t in builder.tensors.values() if t.role == "weight" and t.trainable} | builder.received
    for op in builder.ops:
        if any(op.inputs[i] in needs for i in op.kind.differentiable):
            needs.update(op.outputs)
    return needs


def _names(op: Op) -> dict[str, str]:
    """By name of an operand or result of an op: its tensor."""
    return dict(zip(op.kind.names, op.inputs + op.outputs, strict=True))


class _Recomputation(NamedTuple):
    """The ops of a segment that run once more, and the tensors kept or given that they and its backward read."""

    ops: list[tuple[Op, str]]  # in order; with the result that is remade from others, or "" to run the op as it was
    reads: set[str]


def _remake(op: Op, missing: list[str], kept: set[str]) -> tuple[str, set[str]]:
    """How to recompute results of an op: the one that is remade from others, or "" to run the op; what that reads."""
    names = _names(op)
    for result, (_, arguments) in (op.kind.remake or {}).items():
        reads = {names[argument] for argument in arguments}
        if missing == [names[result]] and reads <= kept.union(op.inputs):
            return result, reads
    return "", set(op.inputs)


class _Backward:
    """The gradients collected so far, while the forward ops are walked in reverse."""

    def __init__(self, builder: GraphBuilder, loss: str, finished: Callable[[str, str], None]) -> None:
        self.builder = builder
        self.finished = finished
        self.needs = _needs_gradient(builder)
        self.channels = builder.channels
        self.one = f"{loss}.grad"  # the gradient of the loss itself
        self.ends = {op.outputs[0] for op in builder.ops if op.kind.collective == "send"}.union([loss] if loss else [])
        self.gradient: dict[str, str] = {}  # by tensor: the sum of its gradients so far
        self.parts: Counter[str] = Counter()  # by tensor: how many gradients that sums
        self.expected = self._count_readers()
        self.made_at = {name: at for at, name in enumerate(builder.tensors)}  # of the forward: in which order
        self.readers: dict[str, list[Op]] = {}
        for op in builder.ops:
            for name in op.inputs:
                self.readers.setdefault(name, []).append(op)
        self.rows: set[str] = set()  # gradients that have some rows, and are 0 in others
        self.open: list[tuple[Segment, dict[str, str]]] = []  # segments being walked; by forward tensor: the recomputed
        self.makers = {name: op for op in builder.ops for name in op.outputs if name in builder.dropped}
        self.again: dict[str, str] = {}  # by dropped tensor: the one that was made in its place

    def _count_readers(self) -> Counter[str]:
        """By tensor: how many gradients it will receive, one per differentiable reader on a way to an end."""
        reaches = set(self.ends)
        expected: Counter[str] = Counter()
        for op in reversed(self.builder.ops):
            if reaches.isdisjoint(op.outputs):
                continue
            for i in op.kind.differentiable:
                if (name := op.inputs[i]) in self.needs:
                    expected[name] += 1
                    reaches.add(name)
        return expected

    # --- recomputation ------------------------------------------------------------------------------------------------

    def _plan(self, segment: Segment, depth: int) -> _Recomputation:
        """The recomputation of what a segment's backward reads, worked out from its last op to its first."""
        made = {name for op in segment.ops for name in op.outputs}
        kept = segment.keep | self._read_outside(segment, made)
        wanted = self._read_by_backward(segment, depth)
        ops: list[tuple[Op, str]] = []
        for op in reversed(segment.ops):
            missing = [name for name in op.outputs if name in wanted and name not in kept]
            if missing:
                remade, reads = _remake(op, missing, kept)
                ops.append((op, remade))
                wanted |= reads
        return _Recomputation(ops[::-1], {name for name in wanted if name not in made or name in kept})

    def _read_outside(self, segment: Segment, made: set[str]) -> set[str]:
        """The tensors made in a segment that ops outside read."""
        inside = {op.position for op in segment.ops}
        return {name for name in made if any(op.position not in inside for op in self.readers.get(name, ()))}

    def _read_by_backward(self, segment: Segment, depth: int) -> set[str]:
        """The tensors that the backward of a segment's ops reads, and the recomputation of the segments inside."""
        reads: set[str] = set()
        inner: set[Segment] = set()
        for op in segment.ops:
            path = self.builder.segments[op.position]
            if len(path) > depth + 1:
                inner.add(path[depth + 1])
                continue
            names = _names(op)
            for rule in op.kind.grads:
                if not self.needs.isdisjoint(names[operand] for operand in rule.operands):
                    reads |= {names[argument] for argument in rule.arguments if argument in names}
        return reads.union(*(self._plan(segment, depth + 1).reads for segment in inner))

    def _recompute(self, segment: Segment) -> None:
        """Append the ops that recompute what the backward of a segment reads."""
        b, depth = self.builder, len(self.open)
        if segment.at_once:
            self.open.append((segment, {}))
            return
        plan, start = self._plan(segment, depth), len(b.ops)
        if segment.kernel:  # nothing comes between its ops
            for name in sorted(plan.reads, key=self.made_at.__getitem__):
                self._available(name)
        recomputed: dict[str, str] = {}
        self.open.append((segment, recomputed))
        suffix = f".recompute{depth + 1 if depth else ''}"
        before, b.phase = b.phase, "recompute"
        for op, remade in plan.ops:
            b.layer = op.layer
            b.kernel = self._kernel() or (f"{op.kernel}{suffix}" if op.kernel else "")
            kind, names = op.kind.name, _names(op)
            inputs, outputs = list(op.inputs), list(op.outputs)
            if remade:
                kind, arguments = (op.kind.remake or {})[remade]
                inputs, outputs = [names[argument] for argument in arguments], [names[remade]]
            results = [b.tensors[name]._replace(name=f"{name}{suffix}", recomputes=name) for name in outputs]
            b.op(
                kind,
                *(self._available(name) for name in inputs),
                name=f"{op.name}{suffix}",
                outputs=results,
                gemm=op.gemm,
                recomputes=op.name,
                **{name: op.params[name] for name in kind_of(kind).params},
            )
            recomputed.update(zip(outputs, (result.name for result in results), strict=True))
        b.phase = before
        self.makers |= {name: op for op in b.ops[start:] if op.kind.passes for name in op.outputs}

    def _available(self, name: str) -> str:
        """The tensor that has the values of a forward tensor in the backward: a recomputed one, or itself."""
        for _, recomputed in reversed(self.open):
            name = recomputed.get(name, name)
        return self._make_again(name) if name in self.makers else name

    def _make_again(self, name: str) -> str:
        """The tensor that has the values of a dropped one; the first who asks has it made."""
        if name not in self.again:
            b, op = self.builder, self.makers[name]
            before = b.phase, b.layer, b.kernel
            kind, source, params = b.remade.get(name, (op.kind.name, op.inputs, op.params))
            inputs = [self._available(i) for i in source]
            b.phase, b.layer, b.kernel = "recompute", op.layer, ""
            results = [
                b.tensors[result]._replace(name=f"{result}.recompute", recomputes=b.tensors[result].original)
                for result in op.outputs
            ]
            more: dict[str, Any] = {"outputs": results, "gemm": op.gemm, "recomputes": op.original, **params}
            b.op(kind, *inputs, name=f"{op.name}.recompute", **more)
            b.phase, b.layer, b.kernel = before
            self.again.update((result, f"{result}.recompute") for result in op.outputs)
        return self.again[name]

    def _kernel(self) -> str:
        """The kernel that backward ops belong to, by the segments being walked; "" if none of them is a kernel."""
        names: list[str] = [segment.name for segment, _ in self.open if segment.kernel]
        return f"{names[-1]}.backward" if names else ""

    def _enter(self, op: Op) -> None:
        """Leave the segments that an op is not in, and enter those that it is in."""
        path = self.builder.segments.get(op.position, ())
        while self.open and self.open[-1][0] not in path:
            self.open.pop()
        for segment in path[len(self.open) :]:
            self._recompute(segment)

    # --- gradients ----------------------------------------------------------------------------------------------------

    def gradient_tensor(self, source: str, name: str) -> Tensor:
        """A tensor of that name for a gradient of `source`."""
        tensor = self.builder.tensors[source]
        role = "weight_gradient" if tensor.role == "weight" else "gradient"
        dims = self.channels[source].of(tensor.dims) if source in self.channels else tensor.dims
        return Tensor(name, dims, role, tensor.layer)

    def _of_channels(self, op: Op, source: str, gradient: str) -> str:
        """Append the view of the gradient of a product's result that has the channels of a weight that are trained."""
        part, tensor = self.channels[source], self.builder.tensors[gradient]
        axis = part.axis_of_result(op, op.inputs.index(source))
        dims = (*tensor.dims[:axis], part.dim, *tensor.dims[axis + 1 :])
        name = f"{op.name}.dy.channels"
        result = Tensor(name, dims, "gradient", op.layer)
        return self.builder.op("take_channels", gradient, name=name, outputs=[result], axis=axis)

    def _result(self, source: str) -> Tensor:
        """The tensor for the next gradient of `source`; an only gradient has the plain name."""
        if self.expected[source] == 1:
            return self.gradient_tensor(source, f"{source}.grad")
        return self.gradient_tensor(source, f"{source}.grad.part{self.parts[source]}")

    def _receive(self, source: str, gradient: str) -> None:
        """Add a gradient to the sum of those of `source`, at once, so that parts live shortly."""
        self.parts[source] += 1
        done = self.parts[source] == self.expected[source]
        if source in self.gradient:
            name = f"{source}.grad" if done else f"{source}.grad.sum{self.parts[source]}"
            gradient = self._add(self.gradient[source], gradient, self.gradient_tensor(source, name))
        self.gradient[source] = gradient
        if done and (self.builder.tensors[source].role == "weight" or source in self.builder.received):
            self.finished(source, gradient)

    def _add(self, before: str, gradient: str, result: Tensor) -> str:
        """Append the sum of two gradients: of rows that lie side by side, of a weight in a segment in place."""
        kind, source = "add", result.name.rpartition(".grad")[0]
        if {before, gradient} <= self.rows:
            kind = "merge_rows"
            self.rows.add(result.name)
        elif self.open and result.role == "weight_gradient":
            kind, result = "accumulate", result._replace(alias=before)
        number = self.parts[source] - 1
        return self.builder.op(kind, before, gradient, name=f"{source}.grad.add{number}", outputs=[result])

    def _apply(self, op: Op, rule: GradRule, names: dict[str, str]) -> None:
        """Append the op of one gradient rule, and hand its results to their tensors."""
        sources = [names[operand] for operand in rule.operands]
        if self.needs.isdisjoint(sources):
            return
        arguments = [self._available(names[argument]) for argument in rule.arguments]
        if not rule.kind:
            self._receive(sources[0], arguments[0])
            return
        if sources[0] in self.channels:
            dy = rule.arguments.index("dy")
            arguments[dy] = self._of_channels(op, sources[0], arguments[dy])
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
        if kind_of(rule.kind).view:
            self.rows.update(result.name for result in results)
        for source, result in zip(sources, results, strict=True):
            if source in self.needs:
                self._receive(source, result.name)

    def visit(self, op: Op) -> None:
        """Append the gradients of one forward op. Raises ValueError on a gradient that no rule takes."""
        if not any(output in self.gradient for output in op.outputs):
            return
        if op.kind.collective and not op.kind.grads:
            return  # a weight that was gathered: who is told of its gradient reduces it
        kind, names = op.kind, _names(op)
        for (_, gradient, taken), output in zip(kind.results, op.outputs, strict=True):
            if output in self.gradient:
                if not taken:
                    raise ValueError(f"{op.name}: {kind.name} has no rule for the gradient {gradient}")
                if gradient in kind.unit and self.gradient[output] != self.one:
                    raise ValueError(f"{op.name}: {kind.name} wants the gradient {gradient} to be 1")
                names[gradient] = self.gradient[output]
        self._enter(op)
        self.builder.layer, self.builder.kernel = op.layer, self._kernel()
        for rule in kind.grads:
            self._apply(op, rule, names)


def _nothing() -> None:
    pass


def backward(
    builder: GraphBuilder,
    loss: str,
    finished: Callable[[str, str], None],
    between: Callable[[], None] = _nothing,
) -> None:
    """Append the backward of `loss`, a scalar, in phase `backward`; "": of what is sent to other stages alone.

    `finished(weight, gradient)` is called as soon as the whole gradient of a weight (or of what another stage made) is
    there, and may append ops; so may `between`, which is called after the gradients of each forward op.
    The gradient of the loss itself is a given tensor, `<loss>.grad`, whose value is 1.
    Raises ValueError if an output without a gradient rule receives a gradient, or nothing is trainable.
    """
    state = _Backward(builder, loss, finished)
    if state.needs.isdisjoint(state.ends):
        raise ValueError("no weight is trainable")
    builder.loss, builder.phase = loss, "backward"
    made: dict[Segment, list[Op]] = {}
    order = in_backward_order(builder)
    state.gradient = dict.fromkeys(state.ends & state.needs, state.one)
    if loss:
        builder.tensor(state.gradient_tensor(loss, state.one))
    for op in order:
        before = len(builder.ops)
        state.visit(op)
        between()
        if segment := stretch(builder, op):
            made.setdefault(segment, []).extend(builder.ops[before:])
    move_behind(builder, made)
    builder.layer = builder.kernel = ""


def stash(graph: Graph) -> dict[str, tuple[Op, ...]]:
    """The tensors kept for the backward: forward tensors and data that later ops read, each with those readers.

    Weights are not in it (they are kept anyway), nor are results of the backward and of recomputing ops.
    """
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        if op.phase not in AFTER_FORWARD:
            continue
        for name in dict.fromkeys(op.inputs):
            if is_stashed(graph, name):
                readers.setdefault(name, []).append(op)
    return {name: tuple(ops) for name, ops in readers.items()}


def is_stashed(graph: Graph, name: str) -> bool:
    """Whether an op after the forward reads this tensor from the stash."""
    tensor = graph.tensors[name]
    return tensor.role in ("activation", "data") and tensor.recomputes is None
