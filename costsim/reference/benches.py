"""What can be timed on a machine: copies, vector operations, products of matrices, by the library that runs them.

NumPy on the CPU, PyTorch on the CPU or on a CUDA device. PyTorch is loaded only when it is asked for.
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from costsim.errors import InputError

Task = Callable[[], object]  # does its work once

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the arrays are that are worked on."""

    copy_bytes: int  # of one array, beyond every cache
    vector_elements: tuple[int, ...]  # fp32; three such arrays stay in a cache
    gemm: tuple[int, ...]  # rows and columns of square matrices, rising


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known without measuring, and how it will be measured."""

    description: str
    vendor: str
    how: str  # libraries, their versions, cores
    said_by: str  # who says how large the memories are
    dram_bytes: int | None
    on_chip_bytes: int | None
    alone: str  # a clause on copies and vector operations, for their notes
    notes: tuple[str, ...]


class Bench(Protocol):
    """What can be timed on a device. Making a task makes its arrays; calling it does the work."""

    accumulators: Mapping[str, str]  # of each format that may be multiplied
    curve: str  # the format whose rates by size stand for all
    sizes: Sizes
    machine: Machine

    def copy(self, size: int) -> Task:
        """Copy an array of so many bytes to another."""

    def vector(self, elements: int) -> Task:
        """Multiply two fp32 arrays element by element into a third."""

    def gemm(self, format: str, n: int) -> Task:
        """Multiply two matrices of n by n numbers of a format. Raises if the device cannot."""

    def wait(self) -> None:
        """Until all tasks that were started are done."""


# --- NumPy ------------------------------------------------------------------------------------------------------------


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _cache_bytes() -> int | None:
    """The last level of cache, as Linux says it; None elsewhere."""
    sizes = [_text_of(str(path)).strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 2**10, "M": 2**20}
    found = [int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units and size[:-1].isdigit()]
    return max(found, default=None)


def _memory_bytes(pages: str) -> int | None:
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system, or one that does not say
        return None


def _cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)  # of those that the process may use; not on every system
    return len(usable(0)) if usable else os.cpu_count() or 1


def _processor() -> str:
    lines = _text_of("/proc/cpuinfo").splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or "processor"


def _blas() -> str:
    """The BLAS that NumPy was built with."""
    built: Any = np.show_config(mode="dicts")
    blas = built.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'BLAS unknown')} {blas.get('version', '')}".strip()


_CUDA_SIZES = Sizes(
    copy_bytes=1024 * _MIB,
    vector_elements=(2**18, 2**20, 2**22),
    gemm=(256, 512, 1024, 2048, 4096, 8192),
)


def _cpu_sizes() -> Sizes:
    cache, free = _cache_bytes(), _memory_bytes("SC_AVPHYS_PAGES")
    beyond = max(64 * _MIB, 4 * (cache or 0))
    return Sizes(
        copy_bytes=beyond if free is None else max(_MIB, min(beyond, free // 8)),
        vector_elements=(2**12, 2**14, 2**16),
        gemm=(64, 128, 256, 512, 1024, 2048),
    )


def _cpu_machine(library: str, how: str, alone: str, notes: tuple[str, ...]) -> Machine:
    cores = _cores()
    return Machine(
        description=f"{_processor()}, {cores} cores, through {library}",
        vendor="",
        how=f"{how}, {cores} cores, {platform.system()} {platform.machine()}",
        said_by=f"what {platform.system()} says",
        dram_bytes=_memory_bytes("SC_PHYS_PAGES"),
        on_chip_bytes=_cache_bytes(),
        alone=alone,
        notes=notes,
    )


class NumpyBench:
    """This machine through NumPy: products by BLAS on all cores, everything else on one."""

    accumulators: Mapping[str, str] = {"fp32": "fp32"}
    curve = "fp32"

    def __init__(self) -> None:
        self.sizes = _cpu_sizes()
        how = f"NumPy {np.__version__} with {_blas()}"
        without = "NumPy has no fast product of int8: no such rate"
        self.machine = _cpu_machine("NumPy", how, "NumPy uses one core for it", (without,))
        self._rng = np.random.default_rng(0)

    def _draw(self, *shape: int) -> Any:
        return self._rng.random(shape, np.float32)

    def copy(self, size: int) -> Task:
        """Copy an array of so many bytes to another."""
        x = self._draw(size // 4)
        return partial(np.copyto, np.ones_like(x), x)

    def vector(self, elements: int) -> Task:
        """Multiply two fp32 arrays element by element into a third."""
        x, y = self._draw(elements), self._draw(elements)
        return partial(np.multiply, x, y, out=np.ones_like(x))

    def gemm(self, format: str, n: int) -> Task:  # noqa: ARG002
        """Multiply two fp32 matrices of n by n."""
        x, y = self._draw(n, n), self._draw(n, n)
        return partial(np.matmul, x, y, out=np.ones_like(x))

    def wait(self) -> None:
        """NumPy returns when it is done."""


# --- PyTorch ----------------------------------------------------------------------------------------------------------


class TorchBench:
    """A CPU or a CUDA device through PyTorch: on the CPU everything runs on all cores.

    `formats` are those to multiply, by default all that are worth measuring on the device.
    """

    _ACCUMULATORS: Mapping[str, str] = {
        "fp32": "fp32",
        "tf32": "fp32",
        "bf16": "fp32",
        "fp16": "fp32",
        "fp8-e4m3": "fp32",
        "int8": "int32",
    }
    _DTYPES: Mapping[str, str] = {"bf16": "bfloat16", "fp16": "float16", "fp8-e4m3": "float8_e4m3fn", "int8": "int8"}
    _WORTH: Mapping[str, tuple[str, ...]] = {"cpu": ("fp32", "bf16"), "cuda": tuple(_ACCUMULATORS)}
    _CURVE: Mapping[str, str] = {"cpu": "fp32", "cuda": "bf16"}

    def __init__(self, torch: Any, device: str = "cuda", formats: Sequence[str] = ()) -> None:
        self._torch, self._device = torch, device
        chosen = formats or self._WORTH[device]
        self.accumulators: Mapping[str, str] = {name: self._ACCUMULATORS[name] for name in chosen}
        self.curve = self._CURVE[device] if self._CURVE[device] in chosen else chosen[0]
        self.sizes, self.machine = (_cpu_sizes(), self._cpu()) if device == "cpu" else (_CUDA_SIZES, self._cuda())
        self._generator = torch.Generator(device).manual_seed(0)

    def _cuda(self) -> Machine:
        torch = self._torch
        its = torch.cuda.get_device_properties(0)
        return Machine(
            description=f"{its.name}, through PyTorch",
            vendor=its.name.partition(" ")[0],
            how=f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {its.name}",
            said_by="what CUDA says",
            dram_bytes=its.total_memory,
            on_chip_bytes=getattr(its, "L2_cache_size", None),
            alone="three passes over the cache at most as fast as it is, so less than the units could do",
            notes=(),
        )

    def _cpu(self) -> Machine:
        how = f"PyTorch {self._torch.__version__}, {self._torch.get_num_threads()} threads"
        return _cpu_machine("PyTorch", how, "on all threads", ())

    def _draw(self, dtype: str, *shape: int) -> Any:
        x = self._torch.rand(shape, generator=self._generator, device=self._device)
        return x.to(getattr(self._torch, dtype))

    def copy(self, size: int) -> Task:
        """Copy an array of so many bytes to another."""
        x = self._draw("float32", size // 4)
        return partial(self._torch.ones_like(x).copy_, x)

    def vector(self, elements: int) -> Task:
        """Multiply two fp32 arrays element by element into a third."""
        x, y = self._draw("float32", elements), self._draw("float32", elements)
        return partial(self._torch.mul, x, y, out=self._torch.ones_like(x))

    def gemm(self, format: str, n: int) -> Task:
        """Multiply two matrices of n by n. Raises what PyTorch raises if the device or PyTorch cannot."""
        torch = self._torch
        # A setting of the process: right for the task made last, which is the one that runs.
        torch.set_float32_matmul_precision("high" if format == "tf32" else "highest")
        dtype = self._DTYPES.get(format, "float32")
        x, y = self._draw(dtype, n, n), self._draw(dtype, n, n)
        if format == "int8":
            return partial(torch._int_mm, x, y)
        if format == "fp8-e4m3":
            one = torch.ones((), device=self._device)
            # cuBLAS takes the second operand by columns.
            return partial(torch._scaled_mm, x, y.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        return partial(torch.matmul, x, y, out=torch.ones_like(x))

    def wait(self) -> None:
        """Until the device is idle."""
        if self._device == "cuda":
            self._torch.cuda.synchronize()


def load_torch(asked: str, device: str) -> Any:
    """PyTorch. Raises InputError, which names the option that asked for it, if it or a CUDA device is missing."""
    try:
        torch = import_module("torch")
    except ImportError:
        raise InputError(f"{asked}: PyTorch is not installed; pip install 'costsim[torch]'") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device")
    return torch


def choose_engine(engine: str | None, device: str) -> tuple[str, Any]:
    """One of names.ENGINES, by default NumPy on the CPU, and PyTorch if it is that. Raises InputError otherwise."""
    chosen = engine or ("torch" if device == "cuda" else "numpy")
    if chosen == "numpy":
        if device == "cuda":
            raise InputError("--device cuda: NumPy has none; --engine torch has")
        return chosen, None
    return chosen, load_torch("--engine torch" if engine else "--device cuda", device)


def open_bench(device: str = "cpu", engine: str | None = None, formats: Sequence[str] = ()) -> Bench:
    """What measures one of names.PROCESSORS through one of names.ENGINES.

    Raises InputError if PyTorch or the device is missing.
    """
    _, torch = choose_engine(engine, device)
    return NumpyBench() if torch is None else TorchBench(torch, device, formats)
