"""Energy that machines count: RAPL in a folder of our own, NVML as a module of our own, and a step measured by one."""

import json
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from costsim.cli import main
from costsim.devices.energy import DRAM
from costsim.devices.profile import load_hardware
from costsim.errors import InputError
from costsim.inputs import files
from costsim.reference import engines, measure, meters
from costsim.run.job import Request, prepare
from costsim.tables.styles import render
from costsim.tables.validation import time_document

SMALL = ("model.d_model=16", "model.ffn_dim=32", "model.heads=2", "model.vocab=50", "model.max_positions=40")
BATCH = ("batch.sequences=4", "batch.tokens=32")
RANGE = 262_143_328_850  # max_energy_range_uj of a Xeon


def zone(root, folder, name, microjoules=0):
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return path / "energy_uj"


@pytest.fixture
def powercap(tmp_path):
    """As of a server with two packages: cores are within them, DRAM is beside them, and MMIO shows package 0 again."""
    root = tmp_path / "powercap"
    (root / "intel-rapl").mkdir(parents=True)
    zone(root, "intel-rapl:0", "package-0")
    zone(root, "intel-rapl:0:0", "core")
    zone(root, "intel-rapl:0:1", "dram")
    zone(root, "intel-rapl:1", "package-1")
    zone(root, "intel-rapl:2", "psys")
    zone(root, "intel-rapl-mmio:0", "package-0")
    return root


def draws(root, folder, microjoules):
    """The counter of a zone moves on, around its range."""
    file = root / folder / "energy_uj"
    file.write_text(str((int(file.read_text()) + microjoules) % (RANGE + 1)))


def test_packages_and_dram_are_counted_once(powercap):
    meter = meters.Rapl(powercap)
    before = meter.joules()
    for folder, joules in (("0", 3), ("0:0", 2), ("0:1", 1), ("1", 5), ("2", 20)):
        draws(powercap, f"intel-rapl:{folder}", joules * 10**6)
    draws(powercap, "intel-rapl-mmio:0", 3 * 10**6)
    assert meter.joules() - before == pytest.approx(3 + 1 + 5)
    assert meter.name == "RAPL, package-0, package-1, dram"


def test_a_counter_may_turn_more_than_once(powercap):
    meter, joules = meters.Rapl(powercap), 0.0
    before = meter.joules()
    for _ in range(7):  # 1.05 turns
        draws(powercap, "intel-rapl:1", 40_000 * 10**6)
        joules += 40_000
        assert meter.joules() - before == pytest.approx(joules)
    assert joules * 1e6 > RANGE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: [(root / f"intel-rapl:{n}" / "energy_uj").unlink() for n in (0, 1)], "no energy of a package"),
        (lambda root: (root / "intel-rapl:1" / "energy_uj").write_text("none"), "counters that cannot be read"),
    ],
)
def test_counters_that_are_not_there(powercap, change, message):
    change(powercap)
    with pytest.raises(InputError, match=message):
        meters.Rapl(powercap)


def test_counters_of_root(powercap, monkeypatch):
    """Linux lets root alone read energy_uj since CVE-2020-8694."""

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(powercap / "intel-rapl:0" / "energy_uj"))

    monkeypatch.setattr(meters._Zone, "_read", refuse)
    with pytest.raises(InputError, match=r"--energy: .*energy_uj may be read by root only; sudo chmod a\+r it"):
        meters.Rapl(powercap)


def run_small(meter, hardware="t4", steps=2):
    job = prepare(Request("gpt2-small", assignments=[*SMALL, *BATCH]))
    return measure.measure(job, load_hardware(hardware), steps=steps, meter=meter)


def test_the_energy_of_a_step_is_what_the_timed_steps_drew(powercap, monkeypatch):
    """Each of them draws 0.5 J, the first, which is not timed, too; the model predicts what `predict` adds up to."""
    prepare_numpy = engines.NumpyEngine.prepare

    def drawing(self, *arguments):
        step = prepare_numpy(self, *arguments)

        def run():
            draws(powercap, "intel-rapl:0", 500_000)
            return step()

        return run

    monkeypatch.setattr(engines.NumpyEngine, "prepare", drawing)
    timing = run_small(meters.Rapl(powercap), steps=3)
    assert timing.energy.measured_j == pytest.approx(0.5)
    parts = measure.predict(
        prepare(Request("gpt2-small", assignments=[*SMALL, *BATCH, *timing.fields])).graph, timing.hardware
    )
    expected = sum(part.arithmetic_j + part.on_chip_j + part.dram_j for part in parts.values())
    assert timing.energy.predicted_j == pytest.approx(expected)
    assert timing.energy.error_percent == pytest.approx(100 * (expected / 0.5 - 1))
    assert f"{expected:.3g} J; measured 0.5 J" in " ".join(render(time_document(timing), "table").split())
    assert json.loads(render(time_document(timing), "json"))["energy"]["meter"] == timing.energy.meter


def test_without_a_meter_there_is_no_energy():
    timing = run_small(None)
    assert timing.energy is None
    assert "energy" not in render(time_document(timing), "table")


class NVMLError(Exception):
    """As pynvml's."""


def nvml(millijoules, missing=False):
    def energy(gpu):
        if missing:
            raise NVMLError("Not Supported")
        return next(millijoules)

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda gpu: b"Tesla T4",
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )


def test_nvml_counts_millijoules(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml(iter([5, 1000, 3500])))
    meter = meters.open_meter("cuda")
    assert meter.name == "NVML, Tesla T4"
    assert -(meter.joules() - meter.joules()) == pytest.approx(2.5)


def refused(*arguments):
    done = CliRunner().invoke(main, ["validate", "gpt2-small", *arguments])
    assert done.exit_code == 2, done.output
    return done.stderr


def test_the_command_refuses_where_nothing_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(meters.Rapl.__init__, "__defaults__", (tmp_path,))
    assert refused("--measure", "--energy").startswith(
        f"costsim: --energy: {tmp_path} has no energy of a package (RAPL)"
    )
    assert refused("--energy") == "costsim: --energy: only --measure compares times\n"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    expected = "costsim: --energy: on cuda it needs NVML; pip install nvidia-ml-py\n"
    assert refused("--measure", "--energy", "--device", "cuda") == expected
    monkeypatch.setitem(sys.modules, "pynvml", nvml(None, missing=True))
    expected = "costsim: --energy: NVML has no energy of GPU 0: Not Supported\n"
    assert refused("--measure", "--energy", "--device", "cuda") == expected


def test_every_memory_of_a_device_has_an_energy():
    devices = [load_hardware(name) for name in files.list_shipped("hardware_profiles")]
    assert {device.memory for device in devices} <= {*DRAM, "sram", "none", "hyperram"}  # no figure of HyperRAM's found
    assert {"lpddr5x", "ddr4", "ddr5", "hbm3e", "gddr7"} <= set(DRAM)
    assert DRAM["ddr4"].pj_per_bit == pytest.approx(20.3, abs=0.05)  # Jouppi et al., ISCA 2021, table 2, as printed
    assert {name for name, dram in DRAM.items() if dram.verified} == {"hbm", "hbm2", "gddr6", "lpddr4", "ddr4"}
