"""Opens what runs things: NumPy or PyTorch (`names.RUNNERS`), on a CPU or a CUDA device (`names.PROCESSORS`).

A bench runs small tasks, for `calibrate`; an engine runs the graph of a whole step, for `measure`. PyTorch is loaded
only when it is asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from importlib import import_module
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from costsim.errors import InputError
from costsim.formats.named import parse_format
from costsim.formats.quantize import quantize
from costsim.graph.graph import Graph, Op
from costsim.names import Traffic
from costsim.reference.accelerator import Clock
from costsim.reference.bench import Bench, Task
from costsim.reference.execute import Executor
from costsim.reference.heap import keep_memory
from costsim.reference.numpy_bench import NumpyBench
from costsim.reference.numpy_ops import Array, run_op
from costsim.reference.torch_bench import DTYPES, TorchBench

FILLING_BYTES = 16 * 2**20  # some times what a core's own caches hold, and less than the last level that cores share
Step = Callable[[], dict[str, float]]  # runs a step; the seconds in each op, or in several under the name of the first
Look = Callable[[Op, Task], None]  # is shown an op of a step before it runs, and a task that runs it by itself
Given = Mapping[str, Array]  # values by name


class Engine(Protocol):
    """What runs a graph and times its ops."""

    name: str  # with versions, for the notes
    caveat: str  # what of it no prediction takes into account
    traffic: Traffic  # what its kernels move: unfused, where a step runs op by op
    quantizes: Sequence[str]  # formats whose quantize kernels are worth timing

    def prepare(self, graph: Graph, weights: dict[str, Array], batches: Sequence[dict[str, Array]], seed: int) -> Step:
        """A step that starts from these float32 weights, on these batches, one per micro-batch."""

    def show(self, graph: Graph, weights: Given, batch: Given, seed: int, look: Look) -> None:
        """Run a step of one micro-batch, and show every op of it: the task may run again and again."""

    def quantizer(self, format: str, x: Array) -> Task:
        """What makes these float32 numbers ones of a format of `quantizes`."""

    def disturb(self) -> None:
        """Do what leaves nothing of an op in the caches that are near the units, as the rest of a step would."""

    def wait(self) -> None:
        """Until all that was started is done."""


class NumpyEngine:
    """The reference."""

    name = f"NumPy {np.__version__}"
    caveat = "NumPy passes over memory several times in one op, and runs all but products on one core"
    traffic: Traffic = "unfused"
    # Each stands for those that numbers are rounded to in the same way: all widths of it.
    quantizes: Sequence[str] = ("bf16", "fp16", "fp8-e4m3", "fp8-e4m3-tensor", "int8", "bfp8", "mxfp4", "ternary")

    def __init__(self, clock: Clock = perf_counter) -> None:
        self._clock = clock
        self._filling = np.zeros(FILLING_BYTES // 4, np.float32)

    def prepare(self, graph: Graph, weights: dict[str, Array], batches: Sequence[dict[str, Array]], seed: int) -> Step:
        """A step, which starts from the same weights each time."""
        executor = Executor(graph, seed=seed, clock=self._clock)

        def step() -> dict[str, float]:
            measured = executor.step(weights, batches).measured
            return {name: record.seconds for name, record in measured.items()}

        return step

    def show(self, graph: Graph, weights: Given, batch: Given, seed: int, look: Look) -> None:
        """Run a step of one micro-batch, and show every op of it."""

        def compute(of: Graph, op: Op, inputs: Sequence[Array | None], **given: int) -> tuple[tuple[Array, ...], int]:
            look(op, partial(run_op, of, op, inputs, **given))
            return run_op(of, op, inputs, **given)

        Executor(graph, seed=seed, compute=compute).step(dict(weights), [batch])

    def quantizer(self, format: str, x: Array) -> Task:
        """What makes these numbers ones of a format, which stay float32."""
        return partial(quantize, x, parse_format(format))

    def disturb(self) -> None:
        """Write over as much as the caches near the units hold."""
        np.add(self._filling, 1, out=self._filling)

    def wait(self) -> None:
        """NumPy returns when it is done."""


class TorchEngine:
    """PyTorch on one of `names.PROCESSORS`."""

    caveat = "ops take longer where PyTorch has no kernel for them, and where memory is new to the process"
    # Where one kernel casts: without scales.
    quantizes: Sequence[str] = tuple(name for name in DTYPES if parse_format(name).floating)

    def __init__(self, torch: Any, device: str = "cpu", compiled: bool = False) -> None:
        """`compiled`: steps run through torch.compile; what is shown of them still runs op by op."""
        self._torch, self._device = torch, device
        self.traffic: Traffic = "fused" if compiled else "unfused"
        where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        self.name = f"PyTorch {torch.__version__}, {where}" + (", forward and backward compiled" if compiled else "")

    def prepare(self, graph: Graph, weights: dict[str, Array], batches: Sequence[dict[str, Array]], seed: int) -> Step:
        """A step, which trains on from one call to the next."""
        if self.traffic == "fused":
            from costsim.reference.torch_compiled import CompiledStep

            return CompiledStep(graph, weights, batches, self._device, seed)
        from costsim.reference.torch_step import TorchStep

        return TorchStep(graph, weights, batches, self._device, seed)

    def show(self, graph: Graph, weights: Given, batch: Given, seed: int, look: Look) -> None:
        """Run a step of one micro-batch, and show every op of it."""
        from costsim.reference.torch_step import TorchStep

        TorchStep(graph, weights, [batch], self._device, seed).show(look)

    def quantizer(self, format: str, x: Array) -> Task:
        """What casts these numbers to a format's own type."""
        return partial(self._torch.tensor(x, device=self._device).to, getattr(self._torch, DTYPES[format]))

    def disturb(self) -> None:
        """Write over as much as the caches near the units hold."""
        self._filling.add_(1)

    @cached_property
    def _filling(self) -> Any:
        return self._torch.zeros(FILLING_BYTES // 4, device=self._device)

    def wait(self) -> None:
        """Until the device is idle."""
        if self._device == "cuda":
            self._torch.cuda.synchronize()


def _load_torch(option: str, device: str) -> Any:
    """PyTorch. Raises InputError, which names the option that asked for it, if it or a CUDA device is missing."""
    try:
        torch = import_module("torch")
    except ImportError:
        raise InputError(f"{option}: PyTorch is not installed; pip install 'costsim[torch]'") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device")
    return torch


def _torch_if_chosen(device: str, engine: str | None) -> Any:
    """PyTorch if it is the engine, None if NumPy is: by default NumPy on the CPU. Raises InputError as `open_bench`."""
    if (engine or ("torch" if device == "cuda" else "numpy")) != "numpy":
        return _load_torch(f"--engine {engine}" if engine else "--device cuda", device)
    if device == "cuda":
        raise InputError("--device cuda: NumPy has none; --engine torch has")
    return None


def open_bench(device: str = "cpu", engine: str | None = None, formats: Sequence[str] = ()) -> Bench:
    """The bench of one of `names.PROCESSORS` through one of `names.RUNNERS`, which multiplies these formats.

    Raises InputError if PyTorch or the device is missing.
    """
    torch = _torch_if_chosen(device, engine)
    return NumpyBench() if torch is None else TorchBench(torch, device, formats)


def open_engine(device: str = "cpu", engine: str | None = None) -> Engine:
    """One of `names.RUNNERS` on one of `names.PROCESSORS`; memory stays with the process from then on.

    Raises InputError if PyTorch or the device is missing.
    """
    torch = _torch_if_chosen(device, engine)
    made: Engine = NumpyEngine() if torch is None else TorchEngine(torch, device, engine == "torch.compile")
    if keep_memory():
        made.name += ", freed memory kept"
    return made
