"""Counters of energy that machines have: RAPL's on Linux, for a CPU; NVML's, for an NVIDIA GPU.

They count what a whole package or board draws, idle or not, whoever uses it. RAPL: Linux kernel documentation, power
capping framework. NVML: nvmlDeviceGetTotalEnergyConsumption, in mJ since the driver was loaded (Volta and later).
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from costsim.errors import InputError

POWERCAP = Path("/sys/class/powercap")


class Meter(Protocol):
    """What counts energy."""

    name: str  # what is counted, for notes

    def joules(self) -> float:
        """Energy since an arbitrary moment, which never falls."""


class _Zone:
    """A counter of RAPL in a folder of its own, which starts at 0 again after its largest value."""

    def __init__(self, folder: Path) -> None:
        self.name = (folder / "name").read_text(encoding="utf-8").strip()
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text(encoding="utf-8"))
        self._last, self._turns = self._read(), 0

    def _read(self) -> int:
        return int(self._file.read_text(encoding="utf-8"))

    def microjoules(self) -> int:
        """What it counts, over any number of turns, if it is read at least once a turn."""
        value = self._read()
        self._turns += value < self._last
        self._last = value
        return self._turns * (self._range + 1) + value


class Rapl:
    """RAPL of all packages of a machine, and of DRAM where it has a counter; cores are counted within their package."""

    def __init__(self, root: Path = POWERCAP) -> None:
        """Raises InputError if there is no counter, or none that may be read."""
        folders = sorted(path for path in root.glob("intel-rapl:*") if (path / "energy_uj").exists())
        try:
            zones = [_Zone(path) for path in folders]
        except PermissionError as error:
            raise InputError(f"--energy: {error.filename} may be read by root only; sudo chmod a+r it") from None
        except (OSError, ValueError) as error:
            raise InputError(f"--energy: {root} has counters that cannot be read: {error}") from None
        packages = [zone for zone in zones if zone.name.startswith("package-")]
        self._zones = packages + [zone for zone in zones if zone.name == "dram"]
        if not packages:
            raise InputError(f"--energy: {root} has no energy of a package (RAPL); needs Linux on a CPU that counts it")
        self.name = "RAPL, " + ", ".join(zone.name for zone in self._zones)

    def joules(self) -> float:
        """Energy of all zones."""
        return 1e-6 * sum(zone.microjoules() for zone in self._zones)


class Nvml:
    """NVML's counter of the first GPU."""

    def __init__(self) -> None:
        """Raises InputError if the package nvidia-ml-py or the counter is missing."""
        try:
            self._nvml: Any = import_module("pynvml")
        except ImportError:
            raise InputError("--energy: on cuda it needs NVML; pip install nvidia-ml-py") from None
        try:
            self._nvml.nvmlInit()
            self._gpu = self._nvml.nvmlDeviceGetHandleByIndex(0)
            self.joules()
            name = self._nvml.nvmlDeviceGetName(self._gpu)
        except self._nvml.NVMLError as error:
            raise InputError(f"--energy: NVML has no energy of GPU 0: {error}") from None
        self.name = f"NVML, {name.decode() if isinstance(name, bytes) else name}"

    def joules(self) -> float:
        """Energy of the board."""
        return 1e-3 * float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu))


_METERS: Mapping[str, type[Rapl] | type[Nvml]] = {"cpu": Rapl, "cuda": Nvml}


def open_meter(device: str) -> Meter:
    """The meter of one of `names.PROCESSORS`. Raises InputError where there is none."""
    return _METERS[device]()
