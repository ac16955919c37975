"""The named formats, the families with numbers in their names, and the parser of names."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from costsim.errors import InputError, nearest, one_line
from costsim.formats.format import Format, Scale, contained

_IEEE = "IEEE 754-2019"
_FP8 = "Micikevicius et al. 2022, arXiv:2209.05433"
_OCP = "OCP Microscaling Formats v1.0"
_MSFP = "Darvish Rouhani et al., NeurIPS 2020, table 1"
_MX = "Darvish Rouhani et al., ISCA 2023, With Shared Microexponents"
_NVFP4 = "NVIDIA Transformer Engine, nvfp4.rst@d0067d0d"


def _float(name: str, exponent: int, mantissa: int, source: str, top: str = "ieee", stored: int = 0) -> Format:
    bits = stored or 1 + exponent + mantissa
    return Format(name, "float", bits, mantissa + 1, source, exponent_bits=exponent, top=top)


def _shared(element: Format, name: str, source: str, *scales: Scale) -> Format:
    return replace(element, name=name, source=source, scales=scales)


_E4M3 = _float("fp8-e4m3", 4, 3, _FP8, "nan")
_E5M2 = _float("fp8-e5m2", 5, 2, _FP8)
_E3M2 = _float("fp6-e3m2", 3, 2, _OCP, "numbers")
_E2M3 = _float("fp6-e2m3", 2, 3, _OCP, "numbers")
_E2M1 = _float("fp4-e2m1", 2, 1, _OCP, "numbers")
_E8M0 = Scale("scale e8m0", 8, 32)
_PER_TENSOR = Scale("scale fp32", 32, None, None)

_FORMATS = (
    _float("fp32", 8, 23, f"{_IEEE} binary32"),
    _float("tf32", 8, 10, "NVIDIA A100 white paper; 19 bits, stored in 32", stored=32),
    _float("fp16", 5, 10, f"{_IEEE} binary16"),
    _float("bf16", 8, 7, "Intel BFLOAT16 white paper, 2018"),
    *(_E4M3, _E5M2, _E3M2, _E2M3, _E2M1),
    _shared(_E4M3, "mxfp8", f"{_OCP}, E4M3", _E8M0),
    _shared(_E5M2, "mxfp8-e5m2", _OCP, _E8M0),
    _shared(_E3M2, "mxfp6", f"{_OCP}, E3M2", _E8M0),
    _shared(_E2M3, "mxfp6-e2m3", _OCP, _E8M0),
    _shared(_E2M1, "mxfp4", f"{_OCP}, E2M1", _E8M0),
    Format("mxint8", "int", 8, 8, f"{_OCP}; a code is 1/64", scales=(_E8M0,)),
    _shared(_E2M1, "nvfp4", f"{_NVFP4}, 1 x 16 blocks", Scale("scale e4m3", 8, 16), _PER_TENSOR),
    _shared(_E2M1, "nvfp4-16x16", f"{_NVFP4}, 16 x 16 blocks (weights)", Scale("scale e4m3", 8, 16, 16), _PER_TENSOR),
    *(
        Format(f"msfp{bits + 8}", "bfp", bits, bits, _MSFP, scales=(Scale("exponent", 8, 16),))
        for bits in (3, 4, 5, 6, 7, 8)
    ),
    *(
        Format(name, "bfp", bits, bits, _MX, scales=(Scale("exponent", 8, 16), Scale("microexponent", 1, 2)))
        for name, bits in (("mx9", 8), ("mx6", 5), ("mx4", 3))
    ),
    *(
        Format(
            f"hbfp{bits}",
            "bfp",
            bits,
            bits,
            "Drumond et al., NeurIPS 2018, 24 x 24 tiles; the exponent's width is recalled",
            scales=(Scale("exponent", 8, 24, 24),),
        )
        for bits in (8, 12)
    ),
    Format(
        "flex16",
        "bfp",
        16,
        16,
        "Koster et al., NeurIPS 2017, flex16+5, an exponent per tensor",
        scales=(Scale("exponent", 5, None, None),),
    ),
    *(
        # e + g (m/2) 3 bits a group of g: each 2-bit chunk of the mantissa carries a sign.
        Format(
            f"fast{m}",
            "bfp",
            3 * m // 2,
            m,
            "Zhang et al., HPCA 2022",
            scales=(Scale("exponent", 4, 16),),
            signs=m // 2,
        )
        for m in (2, 4)
    ),
    Format(
        "nf4",
        "codebook",
        4,
        8,
        "Dettmers et al. 2023, arXiv:2305.14314 (recalled): fp32 scale per 64, multiplied as bf16",
        scales=(Scale("scale fp32", 32, 64),),
    ),
    Format(
        "nf4-double",
        "codebook",
        4,
        8,
        "Dettmers et al. 2023, double quantization (recalled): fp8 scale per 64, fp32 scale per 256 of those",
        scales=(Scale("scale fp8", 8, 64), Scale("scale fp32", 32, 64 * 256)),
    ),
    Format(
        "dynamic8",
        "codebook",
        8,
        24,
        "Dettmers et al. 2022, arXiv:2110.02861 (recalled): 8-bit optimizer map, fp32 scale per 2048, used as fp32",
        scales=(Scale("scale fp32", 32, 2048),),
    ),
    # What ids, labels and masks are held in. No arithmetic of a MAC law meets them.
    Format("index64", "index", 64, 0, "torch.int64, what PyTorch wants of ids and labels"),
    Format("index32", "index", 32, 0, "int32 ids"),
    Format("mask8", "mask", 8, 0, "torch.bool, one byte an element"),
    Format("mask1", "mask", 1, 0, "one bit an element"),
)
NAMED = {format.name: format for format in _FORMATS}

# Words for blocks (free, contracted). A row of a GEMM's operand is a token of activations or gradients, and an output
# channel of weights; a column is what shares an index of the contraction.
_BLOCKS: dict[str, tuple[int | None, int | None]] = {"tensor": (None, None), "row": (1, None), "column": (None, 1)}
_BLOCK = r"(?P<block>tensor|row|column|(?P<free>\d+)x(?P<contracted>\d+))"


def _scale(what: str, bits: int, block: str, free: int, contracted: int) -> Scale:
    across, along = _BLOCKS.get(block, (free, contracted))
    return Scale(what, bits, along, across)


def _fixed(bits: int) -> Format:
    return Format(f"fixed{bits}", "fixed", bits, bits, "two's complement, one power-of-two scale per tensor (static)")


def _bfp(bits: int, box: int = 16, exponent: int = 8) -> Format:
    name = f"bfp{bits}" + (f"-box{box}" if box != 16 else "") + (f"-exp{exponent}" if exponent != 8 else "")
    source = "block floating point, N bits with sign, shared exponent (MSFP: box 16, 8 bits; NeurIPS 2020)"
    return Format(name, "bfp", bits, bits, source, scales=(Scale("exponent", exponent, box),) if exponent else ())


def _int(bits: int, asym: str = "", block: str = "tensor", free: int = 0, contracted: int = 0) -> Format:
    suffix = "" if block == "tensor" else f"-{block}"
    scales = [_scale("scale fp32", 32, block, free, contracted)]
    source = "linear quantizer with an fp32 scale per block"
    if asym:
        scales.append(_scale("zero point", bits, block, free, contracted))
        source += "; zero point of the elements' type, as ONNX QuantizeLinear"
    return Format(f"int{bits}{asym}{suffix}", "int", bits, bits, source, scales=tuple(scales))


def _scaled(element: str, block: str, free: int = 0, contracted: int = 0) -> Format:
    scale = _scale("scale fp32", 32, block, free, contracted)
    source = f"{NAMED[element].source}; an fp32 scale per {scale.block} block"
    return _shared(NAMED[element], f"{element}-{block}", source, scale)


@dataclass(frozen=True, slots=True)
class FormatFamily:
    """Formats named by numbers: the spelling, the bounds (inclusive) of the pattern's numbers, and how to make one."""

    spelling: str
    pattern: str
    bounds: dict[str, tuple[int, int]]
    make: Callable[..., Format]
    examples: tuple[str, ...]


_SIDE = {"free": (1, 65536), "contracted": (1, 65536)}
FAMILIES = (
    FormatFamily(
        "fixedN", r"fixed(?P<bits>\d+)", {"bits": (2, 32)}, _fixed, ("fixed4", "fixed8", "fixed16", "fixed32")
    ),
    FormatFamily(
        "bfpN[-boxB][-expE]",
        r"bfp(?P<bits>\d+)(?:-box(?P<box>\d+))?(?:-exp(?P<exponent>\d+))?",
        {"bits": (2, 32), "box": (1, 65536), "exponent": (0, 16)},
        _bfp,
        ("bfp2", "bfp4", "bfp8", "bfp16", "bfp32"),
    ),
    FormatFamily(
        "intN[-asym][-BLOCK]",
        rf"int(?P<bits>\d+)(?P<asym>-asym)?(?:-{_BLOCK})?",
        {"bits": (2, 32), **_SIDE},
        _int,
        ("int4", "int8", "int8-row", "int8-column", "int8-asym", "int4-1x128"),
    ),
    FormatFamily(
        "FLOAT-BLOCK",
        rf"(?P<element>fp[864]-e\dm\d)-{_BLOCK}",
        _SIDE,
        _scaled,
        ("fp8-e4m3-tensor", "fp8-e5m2-tensor", "fp8-e4m3-1x128", "fp8-e4m3-128x128"),
    ),
)
EXAMPLES = (*NAMED, *(name for family in FAMILIES for name in family.examples), "int8-row-in-bf16")


@cache
def parse_format(name: str) -> Format:
    """The format of that name. Raises InputError with the nearest name, or the bound that a number breaks.

    >>> parse_format("bfp4").stored_bits(elements=40, run=20)  # 2 runs of 20: each a whole and a cut-off box of 16
    192
    """
    if name in NAMED:
        return NAMED[name]
    grid, within, container = name.rpartition("-in-")
    if within:
        return contained(parse_format(grid), parse_format(container))
    for family in FAMILIES:
        match = re.fullmatch(family.pattern, name, re.ASCII)
        if match is None or match.groupdict().get("element", "fp8-e4m3") not in NAMED:
            continue
        arguments: dict[str, str | int] = {}
        for what, text in match.groupdict().items():
            if text is None:
                continue
            low, high = family.bounds.get(what, (0, 0))
            if high and (len(text) > 6 or not low <= int(text) <= high):
                words = {"free": "a block's side", "contracted": "a block's side", "exponent": "exponent bits"}
                raise InputError(f"format {one_line(name)!r}: {words.get(what, what)} must be from {low} to {high}")
            arguments[what] = int(text) if high else text
        return family.make(**arguments)
    spellings = ", ".join(family.spelling for family in FAMILIES)
    raise InputError(f"unknown format {one_line(name)!r}{nearest(name, EXAMPLES)}; or {spellings}, A-in-B")
