"""Runs the graph of a step through torch.compile: what Inductor fuses, it fuses.

The ops of forward and backward become one graph of aten ops (make_fx), which is compiled whole. What is drawn at random
or made of nothing comes from outside, for Inductor takes no generator of its own; the update runs op by op with
PyTorch's fused kernels, as beside a compiled model. So a step has two times, and none of single ops.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from costsim.errors import InputError
from costsim.graph.graph import Graph, Op
from costsim.reference.torch_kernels.library import Tensor, torch
from costsim.reference.torch_step import WATCHES, Stopwatch, TorchStep

_make_fx: Any = import_module("torch.fx.experimental.proxy_tensor").make_fx
_Failed: type[Exception] = import_module("torch._dynamo.exc").BackendCompilerFailed
Compiled = Callable[..., list[Tensor]]


class CompiledStep(TorchStep):
    """A training step whose forward and backward are compiled at the first call; each call trains."""

    backend = "inductor"

    def __init__(self, graph: Graph, *arguments: Any, **named: Any) -> None:
        """As a `TorchStep`."""
        super().__init__(graph, *arguments, **named)
        self._outside = [op for op in graph.ops if op.phase != "update" and not op.inputs]
        self._inside = [op for op in graph.ops if op.phase != "update" and op.inputs]
        self._update = [op for op in graph.ops if op.phase == "update"]
        self._read = self._roots(self._inside, lambda op: op.inputs)
        read_later = {*self._roots(self._update, lambda op: op.inputs), *self._given, graph.loss}
        self._made = [name for name in self._roots(self._inside, lambda op: op.outputs) if name in read_later]
        self._compiled: dict[tuple[str, ...], Compiled] = {}  # by what there is when it starts

    def _roots(self, ops: Sequence[Op], names: Callable[[Op], Sequence[str]]) -> list[str]:
        """The memory that some ops name, each once."""
        return list(dict.fromkeys(self.graph.root[name] for op in ops for name in names(op)))

    def _compile(self, names: tuple[str, ...], values: Sequence[Tensor]) -> Compiled:
        """Forward and backward, from these values to `_made`. It raises InputError without a compiler."""

        def run(*given: Tensor) -> list[Tensor]:
            here = dict(zip(names, given, strict=True))
            for op in self._inside:
                self._run(op, here)
            return [here[name] for name in self._made]

        compiled: Any = torch.compile(_make_fx(run, tracing_mode="fake")(*values), dynamic=False, backend=self.backend)

        def checked(*given: Tensor) -> list[Tensor]:
            try:
                made: list[Tensor] = compiled(*given)
            except _Failed as error:
                raise InputError(f"--engine torch.compile: {str(error).splitlines()[0]}") from None
            return made

        return checked

    def _micro_batch(self, values: dict[str, Tensor], micro: int, seconds: dict[str, float]) -> None:
        """Draw what is random, run what is compiled, and after the last micro-batch the update.

        The seconds of either are under the name of its first op that is no view.
        """
        watch: Stopwatch = WATCHES[self.device]()
        last = micro == self.graph.micro_batches - 1
        watch.look()
        for op in self._outside:
            self._run(op, values)
        names = tuple(name for name in self._read if name in values)
        given = [values[name] for name in names]
        if names not in self._compiled:
            self._compiled[names] = self._compile(names, given)
        values |= zip(self._made, self._compiled[names](*given), strict=True)
        watch.look()
        for op in self._update if last else ():
            self._run(op, values)
        watch.look()
        for ops, lap in zip((self._inside, self._update), watch.laps(), strict=True):
            if ops:
                seconds[next(op.name for op in ops if not op.kind.view)] += lap
