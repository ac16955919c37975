"""What a search can ask for besides counts: peak memory, and time and energy on each device of a job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from costsim.cost.kernels import Kernels, compile_kernels
from costsim.cost.measure import Measure, of_run
from costsim.cost.memory import of_policy
from costsim.cost.peak import peak_memory
from costsim.errors import InputError
from costsim.names import ON_DEVICES, PEAK
from costsim.policy.space import Space
from costsim.run.job import Job
from costsim.run.simulate import count_policy
from costsim.search.phases import Stretch, largest_measure, summed_measure

if TYPE_CHECKING:
    from costsim.devices.compiled import Timed
    from costsim.devices.profile import Hardware


class Measured(NamedTuple):
    """Something that is measured of the policies of a space, and of the baseline; None if that does not run."""

    measure: Measure
    baseline: float | None


def device_fields(job: Job) -> dict[str, tuple[Hardware, str]]:
    """The fields of devices, as a search calls them: by their names if there is one device, else DEVICE.FIELD."""
    several = len(job.hardware) > 1
    return {
        f"{device.name}.{field}" if several else field: (device, field)
        for device in job.hardware
        for field in ON_DEVICES
    }


def reduction_of(field: str) -> str:
    """The name of how many times less of a field there is: time_reduction of time_s."""
    device, dot, name = field.rpartition(".")
    return f"{device}{dot}{name.removeprefix('peak_').partition('_')[0]}_reduction"


class Compiled:
    """A job's measures, compiled for a space as they are asked for. Raises InputError for what is not known."""

    def __init__(self, job: Job, space: Space, multiplied: Sequence[str], stretches: Sequence[Stretch]) -> None:
        """`multiplied`: the formats that are chosen from, in each stretch of training."""
        self.job, self.space, self.formats, self.stretches = job, space, multiplied, stretches
        self.phases = range(len(stretches[0].of_phases))

    @cached_property
    def _kernels(self) -> list[Kernels]:
        of = self.job.convention
        return [
            compile_kernels(self.job.graph, self.space, of.traffic, of.scope, of.of_gemms, index)
            for index in self.phases
        ]

    def peak_memory(self) -> Measured:
        """Bytes at the peak of a step."""
        graph, traffic = self.job.graph, self.job.convention.traffic
        baseline = of_policy(graph, self.job.baseline, traffic)[1].peak_bytes
        phases = [of.phases for of in self.stretches]
        peaks = {each: peak_memory(graph, self.space, traffic, each) for each in dict.fromkeys(phases)}
        return Measured(largest_measure([peaks[each] for each in phases]), baseline)

    def on_device(self, device: Hardware, field: str) -> Measured:
        """Seconds or joules of a run on a device.

        Raises InputError for formats that it cannot multiply, and for kernels in tiles.
        """
        if self.job.convention.tiled:
            raise InputError(f"{field}: a search times no kernels in tiles; say --traffic unfused or fused")
        from costsim.devices.compiled import Timed  # few searches need a device
        from costsim.run.timing import time_run

        timed = [Timed(kernels, device, self.job.overlap, self.job.file.parallel.overlap) for kernels in self._kernels]
        self._refuse(device, timed)
        steps = [each.time() if field == "time_s" else each.energy() for each in timed]
        spent = time_run(self.job, count_policy(self.job.graph, self.job.baseline, self.job.convention), device)
        baseline: float | None = None if spent.unsupported else getattr(spent, field)
        of_stretches = [of_run(list(zip(of.of_phases, steps, strict=True))) for of in self.stretches]
        return Measured(summed_measure(of_stretches), baseline)

    def _refuse(self, device: Hardware, phases: Iterable[Timed]) -> None:
        """Raise InputError for formats that no group can be multiplied in, and if nothing else can be."""
        runs: dict[tuple[int, int], bool] = {}  # by variable and choice that is multiplied: whether it may run
        for timed in phases:
            for variables, holds in timed.barred:
                if all(holds):
                    pairs = ", ".join(sorted(timed.unsupported)[:3])
                    raise InputError(f"--hardware {device.name}: has no multiplier for {pairs}, whatever is chosen")
                for (variable, choice), may in _may(self.space, variables, holds).items():
                    runs[variable, choice] = runs.get((variable, choice), True) and may
        for at, format in enumerate(self.formats):
            mays = [may for (_, choice), may in runs.items() if choice == at]
            if mays and not any(mays):
                raise InputError(f"--formats {format}: {device.name} has no multiplier for it in any of these groups")

    def named(self, fields: Mapping[str, bool]) -> Mapping[str, Measured]:
        """Fields by name, but for those that are not known and need not be."""
        devices, found = device_fields(self.job), {}
        for field in [name for name in (PEAK, *devices) if name in fields]:
            try:
                found[field] = self.peak_memory() if field == PEAK else self.on_device(*devices[field])
            except InputError:
                if fields[field]:
                    raise
        return found


def _may(space: Space, variables: Sequence[int], barred: Sequence[bool]) -> dict[tuple[int, int], bool]:
    """By variable and choice: whether a combination with it is not barred."""
    may: dict[tuple[int, int], bool] = {}
    inner = len(barred)
    for variable in variables:
        size = space.sizes[variable]
        inner //= size
        for choice in range(size):
            may[variable, choice] = not all(so for i, so in enumerate(barred) if i // inner % size == choice)
    return may
