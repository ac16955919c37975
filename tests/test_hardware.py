"""Hardware profiles: every shipped one, worked figures, which multiplier a pair of formats runs on, bad files."""

import json
import re
from fractions import Fraction

import pytest
import yaml
from click.testing import CliRunner

from costsim.cli import catalogue, main
from costsim.devices.links import Link
from costsim.devices.profile import load_hardware, pair_on, ridge_point
from costsim.errors import InputError
from costsim.formats.named import parse_format
from costsim.inputs import files

SHIPPED = files.list_shipped("hardware_profiles")
ASKED = (
    "v100 t4 a10 l4 l40s a100-40gb a100-80gb h100-sxm h100-pcie h200 b200 rtx-3090 rtx-4090 rtx-5090 jetson-nano "
    "jetson-orin-nano jetson-orin-nx jetson-agx-orin mi250x mi300x tpu-v2 tpu-v3 tpu-v4 tpu-v5e tpu-v5p tpu-v6e "
    "edge-tpu gaudi2 gaudi3 trainium1 trainium2 apple-m1 apple-m2 raspberry-pi-4 raspberry-pi-5 cortex-m4 cortex-m7 "
    "gap9 abstract-bit-serial abstract-msfp gb200 gb300 mi325x mi355x tpu-v7 trainium3 dgx-spark jetson-thor apple-m3 "
    "apple-m4 hexagon-x-elite ethos-u85 versal-vc1902"
)


def rate_of(device, name):
    [rate] = [rate for rate in device.rates if rate.name == name]
    return rate


def on(device, a, b=None, accumulator="fp32"):
    """The name of the rate a pair gets, and whether by an upcast."""
    found = pair_on(load_hardware(device), *map(parse_format, (a, b or a, accumulator)))
    return found and (found[0].name, found[1])


# --- every profile ----------------------------------------------------------------------------------------------------


def test_the_asked_devices_are_shipped():
    assert set(ASKED.split()) <= set(SHIPPED)
    assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_profile(name):
    device = load_hardware(name)
    assert device.name == name
    assert device.description
    for rate in device.shown_rates:
        assert rate.mac_per_s > 0
        assert rate.source
        ridge = ridge_point(device, rate)
        assert (ridge is None) == (device.dram_bytes_per_s is None)
        assert ridge is None or 0.1 < ridge < 10_000
    assert all(device.source.values())
    assert device.unverified <= set(device.source)
    assert device.memory == "none" or device.dram_bytes_per_s


@pytest.mark.parametrize("name", SHIPPED)
def test_every_number_has_a_source_and_every_source_is_used(name):
    """Read by PyYAML, so that a figure that our loader would pass over is found too."""
    file = yaml.safe_load(SHIPPED[name].read_text(encoding="utf-8"))
    used = set()

    def walk(value, at):
        if isinstance(value, dict):
            numbers = [key for key, inner in value.items() if isinstance(inner, int | float) and key != "verified"]
            if numbers and at:
                assert value["source"], at
                used.update(value["source"])
                recalled = {"recalled", "memory"} & set(value["source"])
                assert not recalled or value["verified"] is False, at
            for key, inner in value.items():
                walk(inner, (*at, key))
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                walk(inner, (*at, i))

    walk({key: value for key, value in file.items() if key != "schema_version"}, ())
    assert used == set(file["sources"])
    assert file["schema_version"] == 1


# --- figures from outside -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fma_per_unit", "units", "mhz", "rounding"),
    [
        ("h100-sxm", 512, 528, 1830, 5e10),  # 989.42976 TFLOPS, published 989.4
        ("a100-40gb", 256, 432, 1410, 5e11),  # 311.86944 TFLOPS, published 312
        ("a100-80gb", 256, 432, 1410, 5e11),
        ("h100-pcie", 512, 456, 1620, 5e11),  # 756.4 TFLOPS, published 756: karpathy/llm.c@0e69e3ae mfu.h
        ("mi300x", 256, 1216, 2100, 5e10),  # 1307.4 TFLOPS
        ("mi325x", 256, 1216, 2100, 5e10),
        ("mi355x", 2048, 256, 2400, 2e13),  # 2516.6 TFLOPS, published 2500; FMA a CU recalled
        ("gaudi2", 256 * 256, 2, 1650, 6e11),  # 432.5 TFLOPS
        ("gaudi3", 256 * 256, 8, 1600, 8e11),  # 1677.7 TFLOPS
        ("jetson-thor", 1024, 80, 1575, 1e12),  # 258.0 TFLOPS: https://torring.dev/blog/2026/rtx-spark-throttling
    ],
)
def test_peaks_from_clocks(name, fma_per_unit, units, mhz, rounding):
    """2 x FMA per unit and cycle x units x clock. Source: stas00/ml-engineering, compute/accelerator/README.md."""
    rate = rate_of(load_hardware(name), "bf16 x bf16 + fp32")
    assert abs(2 * rate.mac_per_s - 2 * fma_per_unit * units * mhz * 10**6) <= rounding


# --- no sparse figure passes for a dense one --------------------------------------------------------------------------

# A narrower format is as fast as the next wider one, or twice as fast: a multiplier halves its width or is not divided.
# A sparse figure among dense ones is twice that.
STEPS = [
    ("tf32", "bf16"),
    ("16", "fp8"),
    ("16", "int8"),
    ("fp8", "fp6"),
    ("fp8", "fp4"),
    ("int16", "int8"),
    ("int8", "int4"),
]
ODD_STEPS = {  # what the sources print all the same, and why
    ("gaudi3", "tf32", "bf16"): 1677 / 459,  # stas00/ml-engineering: the MME is built for bf16
    ("v100", "16", "int8"): 62.8 / 125,  # no tensor cores for int8
    ("b300", "fp8", "fp4"): 14 / 4.5,  # Blackwell Ultra has three times the FP4 and hardly any INT8:
    ("gb300", "fp8", "fp4"): 15 / 5,  # aiconfigurator, verda.com/blog/gb300-nvl72-architecture
    ("b300", "16", "int8"): 153.5 / 2250,
    ("gb300", "16", "int8"): 165 / 2500,
    ("trainium3", "16", "fp8"): 2517 / 671,  # four times bf16, dense: trainium3.rst
    ("versal-vc1902", "int16", "int8"): 128 / 32,  # UG1079, table 1: 8 x 8 multipliers, of which 16 x 16 takes four
}
NAMES_OF = {"16": r"fp16|bf16", "fp8": "fp8-.*", "fp6": "fp6-.*", "fp4": "fp4-.*"}


def best(device, kind):
    """The highest rate of a format, or a kind of formats, with itself; None if there is none. tf32 sums in fp32."""
    wide = (
        [r for r in device.rates if r.accumulator.name in ("fp32", "int32")]
        if kind in ("tf32", "bf16")
        else device.rates
    )
    own = [r.mac_per_s for r in wide if r.a == r.b and re.fullmatch(NAMES_OF.get(kind, kind), r.a.name)]
    return max(own, default=None)


@pytest.mark.parametrize("name", [name for name in SHIPPED if not name.startswith("abstract-")])
def test_formats_of_a_device_scale_by_powers_of_two(name):
    device = load_hardware(name)
    for wide, narrow in STEPS:
        rates = best(device, wide), best(device, narrow)
        if None not in rates:
            ratio, odd = rates[1] / rates[0], ODD_STEPS.get((name, wide, narrow))
            expected = (1, 2) if odd is None else (odd,)
            assert any(ratio == pytest.approx(e, rel=0.06 if odd is None else 0.01) for e in expected), (wide, narrow)


def test_no_odd_step_is_even():
    assert all(abs(ratio / even - 1) > 0.06 for ratio in ODD_STEPS.values() for even in (1, 2))
    assert {name for name, _, _ in ODD_STEPS} <= set(SHIPPED)


SPARSE = [  # what vendors print with 2:4 sparsity, in 1e12 op/s, as a source of another sort has it
    ("a100-40gb", "tf32", 312),  # stas00/ml-engineering@00744732, table "w/ Sparsity" of NVIDIA's A100 page
    ("a100-80gb", "bf16", 624),
    ("a100-80gb", "int8", 1248),
    ("h100-sxm", "bf16", 1979),  # github deepseek-ai/FlashMLA issue 75: "1979 TFLOPS for sparse mma, 989 dense"
    ("h100-pcie", "bf16", 1513),  # github qoofyk/LLM_Sizing_Guide issue 3
    (
        "b200",
        "fp4-e2m1",
        18000,
    ),  # github 0xSero/blackwell-gpu-wiki issue 2, from NVIDIA's DGX B200 page: 144 PFLOPS of 8
    ("b300", "bf16", 4500),  # https://glennklockwood.com/garden/processors/B300
    ("b300", "fp8-e4m3", 9000),
    ("gb200", "fp4-e2m1", 20000),  # wifitalents.com: 40 PFLOPS of FP4 a superchip
    ("mi325x", "fp8-e4m3", 5229.8),  # https://awesomeagents.ai/hardware/amd-mi325x
    ("rtx-5090", "fp4-e2m1", 3350),  # https://torring.dev/blog/2026/rtx-spark-throttling, from SMs and clock
    ("jetson-thor", "fp4-e2m1", 2070),  # RidgeRun, table 1
    ("jetson-thor", "fp8-e4m3", 1035),
    ("jetson-agx-orin", "int8", 171),  # NVIDIA Deep-Learning-Accelerator-SW README, MAXN, without the DLAs
    ("trainium2", "fp8-e4m3", 2563),  # aws-neuron/aws-neuron-sdk, trainium2.rst
]


@pytest.mark.parametrize(("name", "kind", "sparse"), SPARSE)
def test_dense_rates_are_half_of_the_sparse_ones(name, kind, sparse):
    assert 2 * best(load_hardware(name), kind) == pytest.approx(sparse / 2 * 1e12, rel=0.02)


@pytest.mark.parametrize(
    ("name", "fma_a_lane"),
    [
        ("a100-40gb", 16),  # 256 FMA x 432 tensor cores, 6912 lanes: stas00/ml-engineering
        ("a100-80gb", 16),
        ("h100-sxm", 16),  # 512 x 528, 16896 lanes
        ("h200", 16),
        ("b200", 32),  # 1024 FMA x 4 of an SM, 128 lanes: https://torring.dev/blog/2026/rtx-spark-throttling
        ("gb200", 32),
        ("b300", 32),
        ("gb300", 32),
        ("jetson-thor", 32),
        ("rtx-5090", 4),  # an eighth of it
        ("mi300x", 8),  # 256 x 1216 matrix cores, 304 x 128 lanes that may do two operations
        ("mi325x", 8),
    ],
)
def test_multipliers_and_lanes(name, fma_a_lane):
    """Dense FMA of 16 bits a cycle by lane of fp32: a sparse figure would be above. Clocks may differ."""
    device = load_hardware(name)
    assert 0.8 * fma_a_lane < best(device, "16") / device.vector_op_per_s < 1.03 * fma_a_lane


def test_checked_figures():
    """Figures read in their sources; the files name them."""
    h100 = load_hardware("h100-sxm")  # stas00/ml-engineering@00744732
    assert 2 * rate_of(h100, "int8 x int8 + int32").mac_per_s == 1979 * 10**12
    assert h100.dram_bytes_per_s == 3350 * 10**9
    assert h100.vector_op_per_s == 335 * 10**11  # half of 67 TFLOPS: an FMA is one operation of a lane
    rtx = load_hardware("rtx-4090")  # karpathy/llm.c@0e69e3ae, mfu.h
    assert 2 * rate_of(rtx, "fp16 x fp16 + fp32").mac_per_s == 1652 * 10**11
    assert 2 * rate_of(rtx, "fp16 x fp16 + fp16").mac_per_s == 3303 * 10**11
    tpu = load_hardware("tpu-v5e")  # jax-ml/jax@1ebd186c, tpu_info.py
    assert 2 * rate_of(tpu, "int4 x int4 + int32").mac_per_s == 788 * 10**12
    assert tpu.on_chip_bytes == 128 * 2**20
    assert load_hardware("a100-40gb").dram_bytes_per_s == 1555 * 10**9  # hahnyuan/LLM-Viewer@0e78452f
    trainium = load_hardware("trainium1")  # 16 chips of a trn1.32xlarge: 13.1 TB/s (AWS)
    assert 16 * trainium.dram_bytes_per_s == pytest.approx(13.1e12, rel=0.01)
    assert load_hardware("cortex-m7").dram_bytes == 320 * 1024  # Linux, stm32f746-overview.rst


def test_published_ridge_points():
    """A100-80: 312e12 / 2039e9 = 153 op/byte; MSFP12 has 31.9 times the density of fp32 (NeurIPS 2020, table 1)."""
    a100 = load_hardware("a100-80gb")
    assert ridge_point(a100, rate_of(a100, "bf16 x bf16 + fp32")) == Fraction(312_000, 2039)
    msfp = load_hardware("abstract-msfp")
    rates = [rate_of(msfp, f"{name} x {name} + fp32").mac_per_s for name in ("bfp4", "fp32")]
    assert Fraction(*rates) == Fraction("31.9")


# --- which multiplier -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "pair", "expected"),
    [
        # own, scales left aside
        ("h100-sxm", ("bf16",), ("bf16 x bf16 + fp32", False)),
        ("h100-sxm", ("int8-row", "int8-column"), ("int8 x int8 + int32", False)),
        ("h100-sxm", ("bfp8",), ("int8 x int8 + int32", False)),
        ("h100-sxm", ("mxfp8",), ("fp8-e4m3 x fp8-e4m3 + fp32", False)),
        ("h100-sxm", ("int8-in-bf16",), ("bf16 x bf16 + fp32", False)),  # fake quantization is multiplied in bf16
        ("h100-sxm", ("fp8-e5m2", "fp8-e4m3"), ("fp8-e4m3 x fp8-e5m2 + fp32", False)),  # in either order
        ("b200", ("nvfp4",), ("fp4-e2m1 x fp4-e2m1 + fp32", False)),
        ("cortex-m4", ("fixed16",), ("int16 x int16 + int32", False)),
        ("b300", ("int8",), ("int8 x int8 + int32", False)),  # though its bf16 is faster
        # upcast: fp32 has 24 bits of significand and so holds 16-bit integers; bf16, fp16 and tf32 do not
        ("h100-sxm", ("fixed16",), ("fp32 x fp32 + fp32", True)),
        ("h100-sxm", ("bfp4",), ("int8 x int8 + int32", True)),  # not fp8, which is as fast: integers for integers
        ("h100-sxm", ("bfp4", "bf16"), ("bf16 x bf16 + fp32", True)),
        ("h100-sxm", ("fixed16", "bfp4"), ("fp32 x fp32 + fp32", True)),
        ("h100-sxm", ("mxfp4", "mxfp8-e5m2"), ("fp8-e4m3 x fp8-e5m2 + fp32", True)),
        ("a100-40gb", ("fp8-e4m3",), ("bf16 x bf16 + fp32", True)),  # as fast as fp16, as many bits: by name
        ("t4", ("fp8-e4m3",), ("fp16 x fp16 + fp32", True)),
        ("t4", ("bf16",), ("fp32 x fp32 + fp32", True)),  # its range is not fp16's
        ("t4", ("bfp2", "bfp4"), ("int4 x int4 + int32", True)),
        ("abstract-msfp", ("bfp2",), ("bfp3 x bfp3 + fp32", True)),
        # sums: fp16 does not do where fp32 is asked for
        ("jetson-nano", ("fp16",), ("fp32 x fp32 + fp32", True)),
        ("jetson-nano", ("fp16", "fp16", "fp16"), ("fp16 x fp16 + fp16", False)),
        ("rtx-4090", ("fp16",), ("fp16 x fp16 + fp32", False)),
        ("rtx-4090", ("fp16", "fp16", "fp16"), ("fp16 x fp16 + fp16", False)),
        ("h100-sxm", ("fp16", "fp16", "fp16"), ("fp16 x fp16 + fp32", False)),  # better sums are no upcast
        ("h100-sxm", ("int8", "int8", "int32"), ("int8 x int8 + int32", False)),
        ("h100-sxm", ("fixed16", "fixed16", "int32"), ("fp32 x fp32 + fp32", True)),  # integers as floats add as floats
        ("h100-sxm", ("int8-in-bf16", "bf16", "int32"), None),
        # any two widths of a bit-serial multiplier, integers only
        ("abstract-bit-serial", ("fixed32",), ("int32 x int32 + int32", False)),
        ("abstract-bit-serial", ("bfp3", "fixed8"), ("int3 x int8 + int32", False)),
        ("abstract-bit-serial", ("bf16", "fixed8"), ("fp32 x fp32 + fp32", True)),
        # unsupported
        ("h100-sxm", ("fixed32",), None),
        ("h100-sxm", ("bf16", "bf16", "int32"), None),  # fp32 rounds where int32 would not
        ("edge-tpu", ("bf16",), None),
        ("edge-tpu", ("fixed16",), None),
        ("tpu-v4", ("fp32",), None),
    ],
    ids=str,
)
def test_pairs(device, pair, expected):
    assert on(device, *pair) == expected
    if len(pair) > 1 and expected and "bit-serial" not in device:
        assert on(device, pair[1], pair[0], *pair[2:]) == expected


def test_fixed32_is_unsupported_on_most():
    assert {name for name in SHIPPED if on(name, "fixed32")} == {"abstract-bit-serial", "versal-vc1902"}


def test_bit_serial_rates_go_with_both_widths():
    device = load_hardware("abstract-bit-serial")
    rates = {}
    for a, b in ((4, 4), (4, 8), (8, 8), (16, 8)):
        rate, upcast = pair_on(device, *map(parse_format, (f"bfp{a}", f"fixed{b}", "fp32")))
        assert not upcast
        rates[a, b] = rate.mac_per_s
    assert rates[4, 4] == 2 * rates[4, 8] == 4 * rates[8, 8] == 8 * rates[16, 8]
    assert [rate.name for rate in device.shown_rates[1:]] == [f"int{n} x int{n} + int32" for n in (4, 8, 16)]


# --- commands ---------------------------------------------------------------------------------------------------------


def test_list_show_and_schema():
    def said(*args):
        done = CliRunner().invoke(main, args)
        assert done.exit_code == 0, done.output
        return done.output

    lines = {line.split()[0]: line for line in said("list", "hardware").splitlines()}
    assert list(lines) == list(SHIPPED)
    assert "295.3 bf16 fp16, 590.7 fp8-e4m3 fp8-e5m2 int8" in lines["h100-sxm"]
    assert "n/a int8" in lines["edge-tpu"]
    assert "69.78 int8?" in lines["v100"]
    assert "(?: unverified)" in lines["v100"]
    assert "?" not in lines["h100-sxm"]
    assert "75.85 bf16 fp16+fp32, 151.7 fp16+fp16" in lines["rtx-3090"]
    assert said("show", "h100-sxm") == SHIPPED["h100-sxm"].read_text(encoding="utf-8")
    device, cluster = json.loads(said("schema", "hardware"))["anyOf"]
    assert device["properties"]["dram_bytes_per_s"]["anyOf"][1] == {"const": "unknown"}
    assert cluster["required"] == ["schema_version", "description", "device", "links", "sources"]
    assert lines["h100-node"].endswith("; links in GB/s: nvlink of 8 450, infiniband 50")


def test_every_rate_with_itself_is_listed():
    for name, line in catalogue.CATALOGUES["hardware"]().items():
        for rate in load_hardware(name).rates:
            assert rate.a != rate.b or f" {rate.a.name}" in line


# --- bad files --------------------------------------------------------------------------------------------------------

GOOD = """\
schema_version: 1
description: A device
memory: lpddr5
rates:
  - operands: [int8, int8]
    accumulator: int32
    mac_per_s: 8000000000
    source: [sheet]
vector_op_per_s: {value: 1000000000, source: [sheet], verified: false}
dram_bytes_per_s: unknown
dram_bytes: {value: 8000000000, source: [sheet], note: as printed, disagreement: others print more}
on_chip_bytes: {value: 2097152, source: [sheet]}
launch_s: {value: 5e-6, source: [sheet]}
efficiency: {mac: {value: 0.8, source: [sheet]}}
sources: {sheet: the data sheet}
"""
RATE = "    mac_per_s: 8000000000\n"
BANDWIDTH = "dram_bytes_per_s: unknown\n"


def load(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_hardware(str(path))


def test_a_file_of_ones_own(tmp_path):
    device = load(tmp_path, GOOD)
    assert device.name == "mine"
    assert (device.launch_s, device.mac_efficiency, device.dram_efficiency) == (5e-6, 0.8, 1.0)
    assert (device.dram_bytes_per_s, device.dram_bytes) == (None, 8 * 10**9)
    assert device.unverified == {"vector_op_per_s"}
    assert device.source["dram_bytes"] == "the data sheet; as printed; others: others print more"
    assert ridge_point(device, device.rates[0]) is None


BAD = [
    ("negative rate", (RATE, "    ¶mac_per_s: -8\n"), "rates.0.mac_per_s: expected at least 100000, got -8"),
    ("zero rate", (RATE, "    ¶mac_per_s: 0\n"), "rates.0.mac_per_s: expected at least 100000, got 0"),
    ("rate in tera", (RATE, "    ¶mac_per_s: 8\n"), "rates.0.mac_per_s: expected at least 100000, got 8"),
    ("rate as float", (RATE, "    ¶mac_per_s: 80000000.5\n"), "rates.0.mac_per_s: expected an integer, got 80000000.5"),
    ("missing rate", ("  - operands", "  - ¶operands", RATE, ""), "rates.0.mac_per_s: missing"),
    (
        "no rates",
        (GOOD[GOOD.index("rates:") : GOOD.index("vector")], "¶rates: []\n"),
        "rates: expected at least 1 item",
    ),
    (
        "rate in op/s",
        (RATE, "    ¶op_per_s: 16000000000\n"),
        "rates.0.op_per_s: unknown key 'op_per_s'; write mac_per_s",
    ),
    ("rate in TFLOPS", (RATE, RATE + "    ¶tflops: 16\n"), "rates.0.tflops: unknown key 'tflops'; write mac_per_s"),
    ("rate outside", ("memory:", "¶op_per_s: 5\nmemory:"), "op_per_s: unknown key 'op_per_s'; write mac_per_s of"),
    (
        "bandwidth in bits",
        (BANDWIDTH, "¶dram_bits_per_s: {value: 800000000000, source: [sheet]}\n"),
        "dram_bits_per_s: unknown key 'dram_bits_per_s'; write dram_bytes_per_s, in bytes a second",
    ),
    (
        "two units",
        (BANDWIDTH, BANDWIDTH + "¶dram_gb_per_s: 100\n"),
        "dram_gb_per_s: unknown key 'dram_gb_per_s'; write dram_bytes_per_s, in bytes a second",
    ),
    ("bandwidth", (BANDWIDTH, "¶bandwidth: 100\n"), "bandwidth: unknown key 'bandwidth'; write dram_bytes_per_s"),
    ("memory in GB", ("dram_bytes: {", "¶dram_gb: {"), "dram_gb: unknown key 'dram_gb'; write dram_bytes, in bytes"),
    (
        "vector rate",
        ("vector_op_per_s", "¶vector_flops"),
        "vector_flops: unknown key 'vector_flops'; write vector_op_per_s",
    ),
    (
        "a unit beside a figure",
        ("on_chip_bytes: {value: 2097152,", "on_chip_bytes: {value: 2, ¶unit: MiB,"),
        "on_chip_bytes.unit: unknown key 'unit'; write no unit: it is in the field's name",
    ),
    ("an unknown key", ("memory:", "¶memry:"), "memry: unknown key 'memry'; did you mean 'memory'?"),
    ("missing bandwidth", (BANDWIDTH, ""), "dram_bytes_per_s: missing"),
    (
        "null bandwidth",
        (BANDWIDTH, "¶dram_bytes_per_s:\n"),
        "dram_bytes_per_s: expected `value: ...` and `source: [...]`, or",
    ),
    (
        "unknown energy table",
        (BANDWIDTH, BANDWIDTH + "¶energy_table: jouppi-5nm\n"),
        "energy_table: unknown energy table 'jouppi-5nm'; did you mean 'jouppi-7nm'?",
    ),
    ("zero memory", ("value: 8000000000, source", "¶value: 0, source"), "dram_bytes.value: expected at least 1, got 0"),
    ("negative launch", ("{value: 5e-6", "{¶value: -1"), "launch_s.value: expected more than 0"),
    ("efficiency", ("{value: 0.8", "{¶value: 80"), "efficiency.mac.value: expected at most 1"),
    (
        "bare figure",
        (BANDWIDTH, "¶dram_bytes_per_s: 9\n"),
        "dram_bytes_per_s: expected `value: ...` and `source: [...]`, got 9",
    ),
    ("no source", ("    source: [sheet]\n", "", "  - operands", "  - ¶operands"), "rates.0.source: missing"),
    ("empty source", ("    source: [sheet]\n", "    ¶source: []\n"), "rates.0.source: expected at least 1 item"),
    (
        "unknown source",
        ("    source: [sheet]\n", "    source: [¶shet]\n"),
        "rates.0.source.0: 'shet' is not in sources; did you mean 'sheet'? (known: sheet)",
    ),
    (
        "no sources",
        ("{sheet: the data sheet}", "{¶sheet: ' '}"),
        "sources.sheet: expected what the source is, got nothing",
    ),
    (
        "unknown format",
        ("[int8, int8]", "[¶itn8, int8]"),
        "rates.0.operands.0: unknown format 'itn8'; did you mean 'int8'?",
    ),
    (
        "format out of range",
        ("accumulator: int32", "¶accumulator: int64"),
        "rates.0.accumulator: format 'int64': bits must be",
    ),
    ("no number", ("[int8, int8]", "[int8, ¶mask1]"), "rates.0.operands.1: mask1 is nothing that a multiplier takes"),
    ("one operand", ("operands: [int8, int8]", "¶operands: [int8]"), "rates.0.operands.1: missing"),
    (
        "the same triple twice",
        (
            "vector_op",
            "  - ¶{operands: [int8, int8], accumulator: int32, mac_per_s: 9000000, source: [sheet]}\nvector_op",
        ),
        "rates.1: a second rate of int8 x int8 + int32, after rates.0",
    ),
    (
        "older schema",
        ("schema_version: 1", "¶schema_version: 0"),
        "schema_version: expected 1, got 0: a profile of another",
    ),
    ("no version", ("schema_version: 1\ndescription", "¶description"), "schema_version: expected 1, got nothing"),
    ("version as text", ("schema_version: 1", "¶schema_version: '1'"), "schema_version: expected 1, got 1"),
    ("version true", ("schema_version: 1", "¶schema_version: true"), "schema_version: expected 1, got True"),
]


@pytest.mark.parametrize(("edits", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_files(tmp_path, edits, says):
    text = GOOD
    for old, new in zip(edits[::2], edits[1::2], strict=True):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    place = ""
    if "¶" in text:
        before = text.partition("¶")[0]
        place = f"mine.yaml:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "
    with pytest.raises(InputError) as failure:
        load(tmp_path, text.replace("¶", ""))
    assert f"{place}{says}" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_an_unknown_name():
    with pytest.raises(InputError, match="no such file, nor a shipped hardware profile; did you mean 'h100-sxm'"):
        load_hardware("h100-sxn")


# --- clusters ---------------------------------------------------------------------------------------------------------

CLUSTER = """\
schema_version: 1
description: Boxes of 4
device: h100-sxm
links:
  - {name: pcie, devices: 4, bytes_per_s: 6.3e10, source: [sheet], efficiency: {value: 0.8, source: [sheet]}}
  - name: ethernet
    devices: 64
    bytes_per_s: 12500000000
    source: [sheet]
    verified: false
    latency_s: {value: 2e-5, source: [sheet], note: measured}
sources: {sheet: the data sheet}
"""


def cluster(tmp_path, text, name="boxes"):
    (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return load_hardware(str(tmp_path / f"{name}.yaml"))


def test_a_cluster_is_its_device_and_links(tmp_path):
    boxes, h100 = cluster(tmp_path, CLUSTER), load_hardware("h100-sxm")
    assert (boxes.name, boxes.description, boxes.rates, boxes.dram_bytes) == (
        "boxes",
        "Boxes of 4",
        h100.rates,
        8 * 10**10,
    )
    assert boxes.links == (Link("pcie", 4, 63 * 10**9, 0.0, 0.8), Link("ethernet", 64, 125 * 10**8, 2e-5, 1.0))
    assert boxes.unverified == h100.unverified | {"links.1"}
    assert boxes.source["links.1.latency_s"] == "the data sheet; measured"
    assert boxes.source["dram_bytes"] == h100.source["dram_bytes"]
    assert h100.links == ()


def test_a_cluster_of_clusters_adds_its_links(tmp_path):
    cluster(tmp_path, CLUSTER)
    text = (
        CLUSTER.replace("h100-sxm", "boxes")
        .replace("devices: 4,", "devices: 128,")
        .replace("devices: 64", "devices: 512")
    )
    halls = cluster(tmp_path, text.replace("pcie", "radio").replace("ethernet", "pigeon"), "halls")
    assert [(link.name, link.devices) for link in halls.links] == [
        ("pcie", 4),
        ("ethernet", 64),
        ("radio", 128),
        ("pigeon", 512),
    ]
    assert halls.unverified >= {"links.1", "links.3"}
    assert halls.source["links.3.latency_s"] == "the data sheet; measured"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("h100-sxm", "h100-sxn", "boxes.yaml:3:1: device: hardware profile 'h100-sxn': no such file, nor a shipped"),
        ("h100-sxm", "boxes", "boxes.yaml would be made of itself; expected the profile of a device"),
        (
            "h100-sxm",
            "h100-node",
            "boxes.yaml:3:1: device: infiniband joins any number of devices, so none is",
        ),
        (
            "ethernet\n    devices: 64",
            "pcie\n    devices: 64",
            "boxes.yaml:6:5: links.1.name: a second link",
        ),
        (
            "h100-sxm",
            "orin-shelf",
            "boxes.yaml:3:1: device: ethernet joins any number of devices, so none is left for pcie",
        ),
        (
            "devices: 64",
            "devices: 4",
            "boxes.yaml:7:5: links.1.devices: expected more than the 4 that pcie joins, got 4",
        ),
        (
            "devices: 64",
            "devices: 6",
            "boxes.yaml:7:5: links.1.devices: expected a multiple of the 4 that pcie joins, got 6",
        ),
        ("devices: 4,", "", "boxes.yaml:5:5: links.0: pcie joins any number of devices, so none is left for ethernet"),
        ("devices: 64", "devices: 1", "links.1.devices: expected at least 2, got 1"),
        ("devices: 64", "nodes: 16", "links.1.nodes: unknown key 'nodes'; write devices: how many it joins"),
        (
            "bytes_per_s: 12500000000",
            "bandwidth: 9",
            "links.1.bandwidth: unknown key 'bandwidth'; write bytes_per_s, of a",
        ),
        (
            "bytes_per_s: 12500000000",
            "gbps: 100",
            "links.1.gbps: unknown key 'gbps'; write bytes_per_s, of a device in one",
        ),
        ("latency_s:", "latency_us:", "links.1.latency_us: unknown key 'latency_us'; write latency_s, in seconds"),
        ("bytes_per_s: 12500000000", "bytes_per_s: 100", "links.1.bytes_per_s: expected at least 100000, got 100"),
        ("verified: false", "verified: no", "links.1.verified: expected true or false, got 'no'"),
        ("    source: [sheet]\n", "", "boxes.yaml:6:5: links.1.source: missing"),
        ("device: h100-sxm\n", "memory: hbm3\ndevice: h100-sxm\n", "memory: unknown key 'memory'"),
        ("schema_version: 1", "schema_version: 2", "schema_version: expected 1, got 2: a profile of another version"),
    ],
)
def test_bad_clusters(tmp_path, old, new, says):
    assert CLUSTER.count(old) == 1
    with pytest.raises(InputError) as failure:
        cluster(tmp_path, CLUSTER.replace(old, new))
    assert says in str(failure.value)


def test_what_is_wrong_with_the_device_of_a_cluster_is_told_where_it_stands(tmp_path):
    (tmp_path / "board.yaml").write_text(GOOD.replace("value: 0.8", "value: 8"))
    with pytest.raises(InputError) as failure:
        cluster(tmp_path, CLUSTER.replace("h100-sxm", "board").replace("devices: 64", "devices: 4"))
    assert [line.rpartition("/")[2].partition(": ")[0] for line in str(failure.value).splitlines()] == [
        "board.yaml:14:20",
        "boxes.yaml:7:5",
    ]
