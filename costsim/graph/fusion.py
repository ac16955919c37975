"""Which ops run as one kernel: fusion patterns as data, and the traffic models that are made of them.

A kernel is a run of consecutive ops, so any grouping can be executed. A pattern says which sorts of op may join a
kernel, by the sort of its first op. A traffic model is a set of patterns. Another way to fuse is another row here.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from costsim.graph.graph import Graph, Op
from costsim.names import Traffic


class Pattern(NamedTuple):
    """Ops of the sorts or kinds `then` join a kernel whose first op is of a sort or kind in `first`."""

    name: str
    first: tuple[str, ...]
    then: tuple[str, ...]
    description: str
    with_weights: bool = False  # an op joins only if all else that it reads are weights


class TrafficModel(NamedTuple):
    """A named way to count DRAM traffic: what fuses, and whether GEMMs are cut into tiles for a finite buffer."""

    name: Traffic
    patterns: tuple[str, ...]
    tiled: bool
    description: str
    compared: bool = True  # whether tables that compare conventions have it whatever a run's own is
    by_steps: bool = False  # whether ops move what their kernels in eager mode do: `graph.steps`


WRITTEN = Pattern(
    "written", (), (), "ops that the model family wrote as one kernel: flash attention, and its backward as another"
)
CALLS = Pattern("calls", (), (), "of a traced graph, what PyTorch does in one call of an aten op: a product and a bias")
_FUSING: tuple[Pattern, ...] = (
    WRITTEN,
    Pattern(
        "passes",
        ("pass",),
        ("pass",),
        "elementwise chains, softmax, norms, sums of gradients, one after another: scale, mask, softmax, dropout",
    ),
    Pattern(
        "epilogue",
        ("gemm",),
        ("pass",),
        "what follows a GEMM on its result: bias, activation, dropout, residual, norm",
    ),
    Pattern(
        "after-lookup",
        ("lookup",),
        ("pass",),
        "what follows an embedding, a loss, or tokens sent to experts: the sum with positions, a norm",
    ),
    Pattern(
        "optimizer",
        ("update",),
        ("update",),
        "the update of a weight with what comes right before; Adam is one op, its factor of clipping another kernel",
    ),
)

_ATEN: tuple[Pattern, ...] = (
    CALLS,
    Pattern("addmm", ("gemm",), ("add_bias",), "a product and its bias, which is a weight", with_weights=True),
    Pattern("native_dropout", ("bernoulli",), ("dropout",), "dropout and its mask, as on a GPU"),
)
PATTERNS = (*_FUSING, *_ATEN)
_FUSED = tuple(pattern.name for pattern in _FUSING)
_EAGER = (WRITTEN.name, *(pattern.name for pattern in _ATEN))
MODELS: Mapping[Traffic, TrafficModel] = {
    model.name: model
    for model in (
        TrafficModel("unfused", (WRITTEN.name,), False, "every op reads each input once and writes its outputs once"),
        TrafficModel("fused", _FUSED, False, "what is born and consumed inside a kernel stays on chip, however large"),
        TrafficModel(
            "tiled",
            _FUSED,
            True,
            "kernels as in fused; GEMMs and flash attention re-read what a finite buffer cannot hold",
        ),
        TrafficModel(
            "eager",
            _EAGER,
            False,
            "what each kernel of PyTorch's eager mode reads and writes, temporaries included",
            compared=False,
            by_steps=True,
        ),
    )
}
COMPARED = tuple(name for name, model in MODELS.items() if model.compared and not model.tiled)
UNTILED = tuple(name for name, model in MODELS.items() if not model.tiled)  # those that depend on no buffer


def _sort(op: Op) -> str:
    """The sort of an op, as patterns name it; none has a view, which is in no kernel, or a collective, which is one."""
    if op.kind.view:
        return "view"
    if op.kind.collective:
        return "collective"
    if op.kind.is_contraction:
        return "gemm"
    if op.phase == "update":
        return "update"
    if not op.kind.fuses:
        return "lookup"
    return "pass"  # over the elements of tensors, or over rows that stay on chip


def grouping(traffic: Traffic, scope: str) -> Traffic:
    """The traffic model that groups the ops of a scope: scope `gemm` has nothing to fuse."""
    return "unfused" if scope == "gemm" else traffic


def kernel_starts(graph: Graph, traffic: Traffic) -> list[int]:
    """The numbers of the kernels of a step, in order; a view runs in none."""
    group = group_ops(graph, traffic)
    return sorted({group[op.position] for op in graph.ops if not op.kind.view})


def group_ops(graph: Graph, traffic: Traffic) -> tuple[int, ...]:
    """By position of the op: the kernel that it belongs to. Kernels are runs of consecutive ops.

    An op joins the kernel before it if a pattern of the traffic model has the sorts of the kernel's first op and of
    this one, if its kind fuses, if it reads something made in that kernel (or nothing at all, as a drawn mask), and if
    both run equally often in the same phase. A GEMM never joins. Ops written as one kernel are one under every model.
    """
    return _group_ops(graph.structure, traffic)


class _Kernel:
    """The kernel that ops are joining, and what it has made so far."""

    def __init__(self, graph: Graph, op: Op) -> None:
        self.graph, self.first = graph, op
        self.names = {_sort(op), op.kind.name}
        self.made = set(op.outputs)

    def takes(self, op: Op, patterns: Sequence[Pattern]) -> bool:
        """Whether an op joins by one of these patterns."""
        if not op.kind.fuses or (op.phase, op.times) != (self.first.phase, self.first.times):
            return False
        others = [name for name in op.inputs if name not in self.made]
        if op.inputs and len(others) == len(op.inputs):
            return False
        weights = all(self.graph.tensors[name].role == "weight" for name in others)
        names = {_sort(op), op.kind.name}
        return any(
            not (names.isdisjoint(pattern.then) or self.names.isdisjoint(pattern.first))
            and (weights or not pattern.with_weights)
            for pattern in patterns
        )


@lru_cache(maxsize=8)
def _group_ops(graph: Graph, traffic: Traffic) -> tuple[int, ...]:
    patterns = [pattern for pattern in PATTERNS if pattern.name in MODELS[traffic].patterns]
    fusing = [pattern for pattern in patterns if pattern.then]
    called = CALLS in patterns
    groups: list[int] = []
    before: Op | None = None
    kernel: _Kernel | None = None
    for op in graph.ops:
        if before is None or kernel is None:
            joins = False
        elif called and op.joins is not None:
            joins = op.joins
        elif op.kernel or before.kernel:
            joins = op.kernel == before.kernel
        else:
            joins = bool(fusing) and kernel.takes(op, fusing)
        if joins and kernel is not None:
            kernel.made.update(op.outputs)
        else:
            kernel = _Kernel(graph, op)
        groups.append(groups[-1] if joins else len(groups))
        before = op
    return tuple(groups)
