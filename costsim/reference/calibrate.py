"""Measures a machine and writes the figures as a hardware profile: bandwidth, rates, launches, kernels kind by kind.

A measurement is a task that is timed again and again; the figure is the median, and the quartiles go into its note.
What runs the tasks is a bench (`bench`), and for kernels the engine of a step (`kernel_bench`). Everything but the
clock is deterministic.
"""

import datetime
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import yaml

from costsim.devices.measured import ANY_PRODUCT
from costsim.devices.profile import Hardware, load_hardware
from costsim.errors import InputError, one_line
from costsim.graph.graph import Graph
from costsim.inputs.sorts import editor_lines
from costsim.reference import kernel_bench
from costsim.reference.accelerator import Clock
from costsim.reference.bench import Bench, Machine, Sizes, Task
from costsim.reference.engines import Engine
from costsim.reference.numpy_bench import NumpyBench

QUICK_S = 5.0  # for the rates of a profile that is used at once
KERNELS_S = 30.0  # from so many seconds on there is time for kernels
_OF_RATES = 0.25  # of the time that there is
_SAMPLE_S = 1e-3  # tasks shorter than this are timed together: clocks and their calls take a fraction of a microsecond
_LEAST, _MOST = 3, 200  # samples of one measurement
_MOST_TOGETHER = 1000
_LONG_S = 1.0  # a product whose runs take longer is timed only if there are as many seconds for all
_HOW = (
    "ops of steps of other sizes and quantize kernels, each run by itself with the near caches filled with something "
    "else; fitted: launch, MACs and elements of products by least squares of relative errors, others by size; spread "
    "is what the fit misses, and half of what the middle half of the runs spans"
)


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timed:
    """How long a task took, sample by sample, in seconds."""

    samples: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The middle one; never 0, which a coarse clock may say."""
        return max(statistics.median(self.samples), 1e-12)

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """Between these lies the middle half."""
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return max(low, 1e-12), max(high, 1e-12)


def time_task(task: Task, wait: Callable[[], None], clock: Clock, budget_s: float) -> Timed:
    """Run a task again and again for about so many seconds, at least three times after a first that does not count.

    Short ones run many times between two looks at the clock.
    """
    task()
    wait()
    start = clock()
    task()
    wait()
    once = max(clock() - start, 1e-9)
    together = max(1, min(_MOST_TOGETHER, math.ceil(_SAMPLE_S / once)))
    samples: list[float] = []
    end = start + budget_s
    while len(samples) < _LEAST or (len(samples) < _MOST and clock() < end):
        start = clock()
        for _ in range(together):
            task()
        wait()
        samples.append((clock() - start) / together)
    return Timed(tuple(samples))


@dataclass(slots=True)
class Samples:
    """All that was timed: vector operations by size, GEMMs by format and size."""

    launch: Timed
    copy: Timed
    vector: dict[int, Timed] = field(default_factory=dict)
    gemm: dict[str, dict[int, Timed]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # formats that did not run, and why


class Kernels(NamedTuple):
    """What runs the ops of these steps, and quantizes to these formats: to be timed kind by kind."""

    engine: Engine
    steps: Sequence[Graph]
    formats: Sequence[str] = ()


def work_to_do(bench: Bench, sizes: Sizes | None = None, kernels: Kernels | None = None) -> int:
    """How many times `calibrate` will tick."""
    sizes = sizes or bench.sizes
    rates = 2 + len(sizes.vector_elements) + len(bench.accumulators) * len(sizes.gemm)
    return rates + (kernel_bench.work_to_do(kernels.steps, kernels.formats) if kernels else 0)


def _runs_s(by_size: Mapping[int, Timed], n: int) -> float:
    """What the fewest runs of a product of n by n will take, by the largest one timed."""
    largest = max(by_size)
    return (_LEAST + 2) * by_size[largest].median_s * (n / largest) ** 3


def measure(
    bench: Bench,
    seconds: float,
    sizes: Sizes | None = None,
    clock: Clock = perf_counter,
    tick: Callable[[], None] = lambda: None,
) -> Samples:
    """Time everything within about so many seconds. `tick` is called after each task.

    Each has its share of the time left: short tasks soon have samples enough, and leave theirs to the long ones.
    """
    sizes = sizes or bench.sizes
    end, left = clock() + seconds, work_to_do(bench, sizes)

    def done() -> None:
        nonlocal left
        left -= 1
        tick()

    def timed(task: Task) -> Timed:
        measurement = time_task(task, bench.wait, clock, (end - clock()) / left)
        done()
        return measurement

    samples = Samples(timed(bench.vector(1)), timed(bench.copy(sizes.copy_bytes)))
    for elements in sizes.vector_elements:
        samples.vector[elements] = timed(bench.vector(elements))
    for format in bench.accumulators:
        by_size = samples.gemm.setdefault(format, {})
        for n in sizes.gemm:
            if by_size and _runs_s(by_size, n) > max(seconds, _LONG_S):  # in a format that the device only emulates
                done()
                continue
            try:
                by_size[n] = timed(bench.gemm(format, n))
            except (RuntimeError, ValueError, AttributeError) as error:  # the device or PyTorch lacks it
                samples.failed[format] = one_line(error)
                done()
    samples.gemm = {format: by_size for format, by_size in samples.gemm.items() if format not in samples.failed}
    return samples


# --- the profile ------------------------------------------------------------------------------------------------------


def _quartiles(work: float, timed: Timed, unit: str) -> str:
    slow, fast = (work / seconds for seconds in reversed(timed.quartiles_s))
    return f"median of {len(timed.samples)} samples, middle half {slow:.3g} to {fast:.3g} {unit}"


def _without_launch(timed: Timed, launch_s: float) -> Timed:
    """The time of the work alone, as launches are counted by themselves; no less than half."""
    return Timed(tuple(max(seconds - launch_s, seconds / 2) for seconds in timed.samples))


def _work_alone(samples: Samples, by_size: Mapping[int, Timed]) -> dict[int, Timed]:
    return {n: _without_launch(timed, samples.launch.median_s) for n, timed in by_size.items()}


def _rates(by_size: Mapping[int, Timed], power: int) -> dict[int, float]:
    """The work a second by size; the work is a power of the size."""
    return {n: n**power / timed.median_s for n, timed in by_size.items()}


def _mac_rates(samples: Samples, bench: Bench) -> Iterator[dict[str, Any]]:
    for format, timed in samples.gemm.items():
        by_size = _work_alone(samples, timed)
        rates = _rates(by_size, 3)
        best = max(rates, key=lambda n: rates[n])
        yield {
            "operands": [format, format],
            "accumulator": bench.accumulators[format],
            "mac_per_s": max(10**5, round(rates[best])),
            "source": ["here"],
            "note": f"{best} x {best} matrices, the fastest; {_quartiles(best**3, by_size[best], 'MAC/s')}",
        }


def _efficiencies(samples: Samples, bench: Bench) -> Iterator[dict[str, Any]]:
    curve = bench.curve if bench.curve in samples.gemm else next(iter(samples.gemm))
    by_size = _work_alone(samples, samples.gemm[curve])
    rates = _rates(by_size, 3)
    for n, rate in rates.items():
        yield {
            "macs": n**3,
            "value": max(1e-6, round(rate / max(rates.values()), 4)),
            "source": ["here"],
            "note": f"{n} x {n} matrices; {_quartiles(n**3, by_size[n], 'MAC/s')}",
        }


def _vector(samples: Samples, machine: Machine) -> dict[str, Any]:
    by_size = _work_alone(samples, samples.vector)
    rates = _rates(by_size, 1)
    best = max(rates, key=lambda n: rates[n])
    spread = _quartiles(best, by_size[best], "op/s")
    note = f"multiply, {best} elements in cache; {machine.remark}; {spread}"
    return {"value": max(1, round(rates[best])), "source": ["here"], "note": note}


def _known(value: int | None) -> Any:
    return {"value": value, "source": ["said"]} if value else "unknown"


def _four(number: float) -> float:
    return float(f"{number:.4g}")


def _kernels(seen: Sequence[kernel_bench.Seen]) -> Iterator[dict[str, Any]]:
    """A kind an entry, with as much of it as it has."""
    counts = Counter(each.kind for each in seen)
    counts[ANY_PRODUCT] = sum(each.product for each in seen)
    for kind, times in kernel_bench.fit(seen).items():
        yield {
            "kind": kind,
            "launch_s": _four(times.launch_s),
            **({"s_per_mac": _four(times.mac_s)} if times.element_s else {}),
            **({"s_per_element": list(map(_four, times.element_s))} if times.element_s else {}),
            **({"sizes": [{"elements": n, "s": _four(taken)} for n, taken in times.sizes]} if times.sizes else {}),
            "spread": _four(times.spread),
            "source": ["kernels"],
            "note": f"{counts[kind]} shapes",
        }


def profile(
    samples: Samples, bench: Bench, sizes: Sizes, when: datetime.date, seen: Sequence[kernel_bench.Seen] = ()
) -> dict[str, Any]:
    """The fields of a profile. Raises InputError if no product ran at all."""
    machine = bench.machine
    if not samples.gemm:
        raise InputError(f"no product of matrices could be measured: {samples.failed}")
    moved = 2 * sizes.copy_bytes  # read and written
    bandwidth = round(moved / samples.copy.median_s)
    copied = f"copy of {sizes.copy_bytes} bytes, each read and written once; {machine.remark}"
    lacking = tuple(f"{format} was not measured: {why}" for format, why in samples.failed.items())
    short, long = samples.launch.quartiles_s
    spread = f"median of {len(samples.launch.samples)} samples, middle half {short:.3g} to {long:.3g} s"
    return {
        "schema_version": 1,
        "description": machine.description,
        **({"vendor": machine.vendor} if machine.vendor else {}),
        "memory": "unknown",  # no system call names its type
        "rates": list(_mac_rates(samples, bench)),
        "vector_op_per_s": _vector(samples, machine),
        "dram_bytes_per_s": {
            "value": max(1, bandwidth),
            "source": ["here"],
            "note": f"{copied}; {_quartiles(moved, samples.copy, 'byte/s')}",
        },
        "dram_bytes": _known(machine.dram_bytes),
        "on_chip_bytes": _known(machine.on_chip_bytes),
        "launch_s": {
            "value": float(f"{samples.launch.median_s:.4g}"),
            "source": ["here"],
            "note": f"multiply of one element; {spread}",
        },
        "gemm_efficiency": list(_efficiencies(samples, bench)),
        **({"kernels": list(_kernels(seen))} if seen else {}),
        "notes": [*machine.notes, *lacking, f"the efficiencies are those of {bench.curve}, at the sizes measured"],
        "sources": {
            "here": f"measured by costsim calibrate {version('costsim')} on {when.isoformat()}: {machine.setup}; "
            "medians, less the launch where it is not the launch itself or a copy",
            **({"kernels": _HOW} if seen else {}),
            **({"said": machine.memory_source} if machine.dram_bytes or machine.on_chip_bytes else {}),
        },
    }


def calibrate(
    bench: Bench,
    seconds: float,
    sizes: Sizes | None = None,
    clock: Clock = perf_counter,
    tick: Callable[[], None] = lambda: None,
    kernels: Kernels | None = None,
) -> str:
    """Measure for about so many seconds; the text of a profile. Raises InputError if no product ran."""
    sizes = sizes or bench.sizes
    of_rates = _OF_RATES * seconds if kernels else seconds
    samples = measure(bench, of_rates, sizes, clock, tick)
    seen = []
    if kernels:
        seen = kernel_bench.see(kernels.engine, kernels.steps, seconds - of_rates, clock, tick, kernels.formats)
    fields = profile(samples, bench, sizes, datetime.date.today(), seen)
    text: str = yaml.safe_dump(fields, sort_keys=False, width=120, allow_unicode=True)
    return editor_lines("hardware") + text


def device_here(
    tick: Callable[[], None] = lambda: None,
    bench: Bench | None = None,
    seconds: float = QUICK_S,
    kernels: Kernels | None = None,
) -> Hardware:
    """This machine as a device, measured at once for about so many seconds; named this-machine."""
    with tempfile.TemporaryDirectory() as folder:  # profiles are checked as files
        path = Path(folder, "this-machine.yaml")
        path.write_text(calibrate(bench or NumpyBench(), seconds, tick=tick, kernels=kernels), encoding="utf-8")
        return load_hardware(str(path))
