"""The reductions of a run: a panel each in `comparison` and `sweep`, and where records hold them."""

from collections.abc import Sequence
from typing import NamedTuple

from costsim.devices.profile import Hardware
from costsim.results.records import Record


class Reduction(NamedTuple):
    """How many times less of a quantity than the baseline a policy takes; a field in records of `--by reduction`."""

    title: str
    field: str
    device: str = ""  # "": of no device

    def ratio(self, record: Record) -> float | None:
        """The ratio in a policy's record; None where it is not known."""
        place = record["hardware"][self.device] if self.device else record
        value: float | None = place[self.field]
        return value


def reductions(devices: Sequence[Hardware], memory: str) -> list[Reduction]:
    """Arithmetic, DRAM traffic, peak memory (under the title `memory`), and time and energy on each device."""
    return [
        Reduction("arithmetic", "arithmetic_reduction"),
        Reduction("DRAM traffic", "dram_reduction"),
        Reduction(memory, "memory_reduction"),
        *(
            Reduction(f"{quantity} on {device.name}", f"{quantity}_reduction", device.name)
            for device in devices
            for quantity in ("time", "energy")
        ),
    ]
