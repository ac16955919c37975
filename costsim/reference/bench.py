"""What can be timed on a machine: copies, vector operations, products of matrices, by the library that runs them.

`numpy_bench` and `torch_bench` make the tasks, `engines` opens the one that is asked for, `calibrate` takes the time.
Both need what the operating system says of this machine, so that is read here.
"""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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
    setup: str  # libraries, their versions, cores
    memory_source: str  # who says how large the memories are
    dram_bytes: int | None
    on_chip_bytes: int | None
    remark: str  # a clause on copies and vector operations, for their notes
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


# --- this machine -----------------------------------------------------------------------------------------------------


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _cache_bytes() -> int | None:
    """The last level of cache, as Linux says it; None elsewhere."""
    sizes = [_text_of(str(path)).strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 2**10, "M": 2**20}
    levels = [int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units and size[:-1].isdigit()]
    return max(levels, default=None)


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
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine() or "processor"


def cpu_sizes() -> Sizes:
    """Sizes that suit this machine's caches and free memory."""
    cache, free = _cache_bytes(), _memory_bytes("SC_AVPHYS_PAGES")
    beyond = max(64 * _MIB, 4 * (cache or 0))
    return Sizes(
        copy_bytes=beyond if free is None else max(_MIB, min(beyond, free // 8)),
        vector_elements=(2**12, 2**14, 2**16),
        gemm=(64, 128, 256, 512, 1024, 2048),
    )


def cpu_machine(library: str, setup: str, remark: str, notes: tuple[str, ...] = ()) -> Machine:
    """This machine through a library; `setup` is the library with its version."""
    cores = _cores()
    return Machine(
        description=f"{_processor()}, {cores} cores, through {library}",
        vendor="",
        setup=f"{setup}, {cores} cores, {platform.system()} {platform.machine()}",
        memory_source=f"what {platform.system()} says",
        dram_bytes=_memory_bytes("SC_PHYS_PAGES"),
        on_chip_bytes=_cache_bytes(),
        remark=remark,
        notes=notes,
    )
