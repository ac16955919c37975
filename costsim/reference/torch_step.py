"""Runs the graph of a step in PyTorch, op by op in float32 on a CPU or a CUDA device, and times every op.

It is the graph that is counted, and that `execute` runs in NumPy; kernels are those of `torch_kernels`. Memory that
nobody reads any more is given back at once, as autograd does.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from costsim.errors import InputError
from costsim.graph.graph import Graph, Op
from costsim.reference.numpy_ops import Array, runtime
from costsim.reference.torch_kernels.library import Tensor, torch
from costsim.reference.torch_kernels.products import contract
from costsim.reference.torch_kernels.table import kernel_of


class Stopwatch(Protocol):
    """Looks at the time on the device, to be read once all is done."""

    def look(self) -> None:
        """What was started so far ends here."""

    def laps(self) -> list[float]:
        """Seconds between one look and the next."""


class HostWatch:
    """For a device that is done when a call returns."""

    def __init__(self) -> None:
        self._looks: list[float] = []

    def look(self) -> None:
        """What was started so far is done."""
        self._looks.append(perf_counter())

    def laps(self) -> list[float]:
        """Seconds between one look and the next."""
        return [after - before for before, after in zip(self._looks, self._looks[1:], strict=False)]


class CudaWatch:
    """Events in the stream of kernels: what the device takes, waiting for the host included where it has to."""

    def __init__(self) -> None:
        self._looks: list[Any] = []

    def look(self) -> None:
        """Record an event behind what was started so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._looks.append(event)

    def laps(self) -> list[float]:
        """Wait for all, then seconds between one event and the next."""
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in zip(self._looks, self._looks[1:], strict=False)]


WATCHES: dict[str, Callable[[], Stopwatch]] = {"cpu": HostWatch, "cuda": CudaWatch}


class TorchStep:
    """A training step, and what it starts from: each call runs one more, on the same batches, and trains."""

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Array],
        batches: Sequence[Mapping[str, Array]],
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        self.graph, self.device, self.step = graph, device, 0
        self.losses: list[float] = []  # of the last step, one per micro-batch
        self._generator = torch.Generator(device).manual_seed(seed)
        self._given = {name: self._put(x) for name, x in weights.items()} | self._states(weights)
        self._batches = [{name: self._put(x) for name, x in batch.items()} for batch in batches]
        self._dead: defaultdict[int, list[str]] = defaultdict(list)
        self._find_dead()

    @property
    def weights(self) -> dict[str, Array]:
        """Weights and states, as they are by now."""
        return {
            name: x.cpu().numpy().copy()
            for name, x in self._given.items()
            if self.graph.tensors[name].role in ("weight", "state")
        }

    def _put(self, x: Array) -> Tensor:
        tensor = torch.tensor(x, device=self.device)
        return tensor.float() if tensor.is_floating_point() else tensor

    def _states(self, weights: Mapping[str, Array]) -> dict[str, Tensor]:
        """States start at 0; the gradient of the loss is 1."""
        starts = {"state": torch.zeros, "gradient": torch.ones}
        return {
            tensor.name: starts[tensor.role](self.graph.shape(tensor.name), device=self.device)
            for tensor in self.graph.tensors.values()
            if tensor.role in starts
            and tensor.name not in self.graph.producer
            and tensor.alias is None
            and tensor.name not in weights
        }

    def _find_dead(self) -> None:
        """Note, by position of the op, the memory that no later op reads."""
        last: dict[str, int] = {}
        for op in self.graph.ops:
            last |= {self.graph.root[name]: op.position for name in (*op.inputs, *op.outputs)}
        for name, position in last.items():
            if name not in self._given and name != self.graph.loss:
                self._dead[position].append(name)

    def _results(self, op: Op, inputs: Sequence[Tensor | None]) -> Any:
        if op.kind.is_contraction:
            return contract(op.kind.name, *inputs)
        given = runtime(self.graph, op, self.step, self._generator)
        with nullcontext() if inputs else torch.device(self.device):  # where what has no operands is made
            return kernel_of(op.kind)(*inputs, **op.params, **given)

    def _inputs(self, op: Op, values: Mapping[str, Tensor]) -> list[Tensor | None]:
        """The operands; None: the sum of gradients, before the first."""
        return [values.get(self.graph.root[name]) for name in op.inputs]

    def _run(self, op: Op, values: dict[str, Tensor]) -> None:
        root, results = self.graph.root, self._results(op, self._inputs(op, values))
        for name, x in zip(op.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            values[root[name]] = x
        for name in self._dead[op.position]:
            values.pop(name, None)

    def _micro_batch(self, values: dict[str, Tensor], micro: int, seconds: defaultdict[str, float]) -> None:
        """Run the ops of a micro-batch, and of the update in the last one; `execute` says what costs nothing."""
        watch: Stopwatch = WATCHES[self.device]()
        last = micro == self.graph.micro_batches - 1
        ops = [op for op in self.graph.ops if last or op.phase != "update"]
        watch.look()
        for op in ops:
            self._run(op, values)
            watch.look()
        for op, lap in zip(ops, watch.laps(), strict=True):
            if micro >= self.graph.micro_batches - op.times:
                seconds[op.name] += lap

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Raises InputError where the device's memory is too small for what is run."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise InputError(f"{self.device}: a step does not fit into memory; --set narrows the model") from None

    def show(self, look: Callable[[Op, Callable[[], object]], None]) -> None:
        """Run the step of one micro-batch, and show every op of it before it runs, with a task that runs it."""
        self.step += 1
        values = self._given | self._batches[0]
        torch.set_float32_matmul_precision("highest")  # not TF32
        with torch.no_grad(), self._room():
            for op in self.graph.ops:
                look(op, partial(self._results, op, self._inputs(op, values)))
                self._run(op, values)

    def __call__(self) -> dict[str, float]:
        """Seconds in each op. Raises InputError if the device's memory is too small."""
        self.step += 1
        self.losses = []
        seconds: defaultdict[str, float] = defaultdict(float)
        values = dict(self._given)
        torch.set_float32_matmul_precision("highest")  # not TF32
        with torch.no_grad(), self._room():
            for micro, batch in enumerate(self._batches):
                values |= batch
                self._micro_batch(values, micro, seconds)
                self.losses.append(float(values[self.graph.loss]))
        self._given |= {name: values[name] for name in self._given}
        return dict(seconds)
