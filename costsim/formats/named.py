"""The formats that costsim knows: a literal each, grammar for names with numbers in them, and the parser of names.

Names are what policy files spell: `fp32`, `fixed16`, `bfp4`, `bfp4-box32-exp5`, `int8-row`, `fp8-e4m3-128x128`,
`mxfp4`, `nvfp4`, `int8-row-in-bf16`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from costsim.errors import InputError, nearest, one_line
from costsim.formats.format import STOCHASTIC, Family, Format, Scale, contained

# --- families: how an element stands for a number ---------------------------------------------------------------------

FIXED = Family(name="fixed", whole=True)  # two's complement, in units of a static power of two
INT = Family(name="int", whole=True)  # two's complement, in units of stored scales
BFP = Family(name="bfp", whole=True)  # a sign and a magnitude, in units of a power of two
TERNARY = Family(name="ternary", whole=True)  # -1, 0 or 1, in units of a stored scale
LOG = Family(
    name="log", width="bits of a logarithm with the sign"
)  # a sign and a logarithm, in units of a stored scale
FLOAT = Family(name="float", width="significand with its hidden bit")  # a sign, an exponent and a mantissa
CODEBOOK = Family(name="codebook", width="significand of the values looked up")  # an index of a table of values
INDEX = Family(name="index", values="index")  # an id or a label, which no multiplier meets
MASK = Family(name="mask", values="mask")  # true or false

# --- named formats ----------------------------------------------------------------------------------------------------

_IEEE = "IEEE 754-2019"
_A100 = "NVIDIA A100 white paper; 19 bits, stored in 32"
_BF16 = "Intel BFLOAT16 white paper, 2018"
_FP8 = "Micikevicius et al. 2022, arXiv:2209.05433"
_OCP = "OCP Microscaling Formats v1.0"
_NVFP4 = "NVIDIA Transformer Engine, nvfp4.rst@d0067d0d"
_MSFP = "Darvish Rouhani et al., NeurIPS 2020, table 1"
_MX = "Darvish Rouhani et al., ISCA 2023, With Shared Microexponents"
_HBFP = "Drumond et al., NeurIPS 2018, 24 x 24 tiles; the exponent's width is recalled"
_FLEX = "Koster et al., NeurIPS 2017, flex16+5, an exponent per tensor"
_FAST = "Zhang et al., HPCA 2022"  # e + g (m/2) 3 bits a group of g: each 2-bit chunk of the mantissa carries a sign
_QLORA = "Dettmers et al. 2023, arXiv:2305.14314 (recalled): fp32 scale per 64, multiplied as bf16"
_QLORA_DOUBLE = "Dettmers et al. 2023, double quantization (recalled): fp8 scale per 64, fp32 scale per 256 of those"
_ADAM8 = (
    "Dettmers et al. 2022, arXiv:2110.02861 (recalled): 8-bit optimizer map, fp32 scale per 2048 (bitsandbytes since "
    "0.44: 256), used as fp32"
)

_BITNET = "Ma et al. 2024, arXiv:2402.17764, BitNet b1.58: absmean quantization, an fp32 scale per tensor"
_LNS = "Zhao et al. 2022, IEEE Trans. Computers, arXiv:2106.13914, LNS-Madam: 2^(k/base) of integers k"

_E8M0_PER_32 = Scale(kind="scale e8m0", bits=8, contracted=32)
_E4M3_PER_16 = Scale(kind="scale e4m3", bits=8, contracted=16)
_E4M3_PER_16X16 = Scale(kind="scale e4m3", bits=8, contracted=16, free=16)
_FP32_PER_TENSOR = Scale(kind="scale fp32", bits=32, contracted=None, free=None)
_MEAN_PER_TENSOR = Scale(kind="mean fp32", bits=32, contracted=None, free=None)
_EXPONENT_PER_16 = Scale(kind="exponent", bits=8, contracted=16)
_EXPONENT4_PER_16 = Scale(kind="exponent", bits=4, contracted=16)
_EXPONENT_PER_24X24 = Scale(kind="exponent", bits=8, contracted=24, free=24)
_SHIFT_PER_PAIR = Scale(kind="microexponent", bits=1, contracted=2)

# QLoRA's NormalFloat: quantiles of the normal distribution, with 0 (Dettmers et al. 2023, appendix E; recalled).
_NORMAL_FLOAT = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def _dynamic_tree() -> tuple[float, ...]:
    """The signed dynamic tree of 8 bits: 2^i means in each decade (Dettmers et al. 2022, section 1.3; recalled)."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = [0.1 + 0.9 * j / 2**i for j in range(2**i + 1)]
        means = [10.0 ** (i - 6) * (low + high) / 2 for low, high in pairwise(edges)]
        values += means + [-mean for mean in means]
    return tuple(sorted(values))


_FP8_E4M3 = Format(name="fp8-e4m3", family=FLOAT, element_bits=8, exponent_bits=4, width=4, top="nan", source=_FP8)
_FP8_E5M2 = Format(name="fp8-e5m2", family=FLOAT, element_bits=8, exponent_bits=5, width=3, source=_FP8)
_FP6_E3M2 = Format(name="fp6-e3m2", family=FLOAT, element_bits=6, exponent_bits=3, width=3, top="numbers", source=_OCP)
_FP6_E2M3 = Format(name="fp6-e2m3", family=FLOAT, element_bits=6, exponent_bits=2, width=4, top="numbers", source=_OCP)
_FP4_E2M1 = Format(name="fp4-e2m1", family=FLOAT, element_bits=4, exponent_bits=2, width=2, top="numbers", source=_OCP)

_FORMATS = (
    # Floats. The width is that of the significand: a hidden bit and the mantissa's.
    Format(name="fp32", family=FLOAT, element_bits=32, exponent_bits=8, width=24, source=f"{_IEEE} binary32"),
    Format(name="tf32", family=FLOAT, element_bits=32, exponent_bits=8, width=11, source=_A100),
    Format(name="fp16", family=FLOAT, element_bits=16, exponent_bits=5, width=11, source=f"{_IEEE} binary16"),
    Format(name="bf16", family=FLOAT, element_bits=16, exponent_bits=8, width=8, source=_BF16),
    *(_FP8_E4M3, _FP8_E5M2, _FP6_E3M2, _FP6_E2M3, _FP4_E2M1),
    # Microscaling: small elements, and a power of two for each 32 of them.
    replace(_FP8_E4M3, name="mxfp8", scales=(_E8M0_PER_32,), source=f"{_OCP}, E4M3"),
    replace(_FP8_E5M2, name="mxfp8-e5m2", scales=(_E8M0_PER_32,), source=_OCP),
    replace(_FP6_E3M2, name="mxfp6", scales=(_E8M0_PER_32,), source=f"{_OCP}, E3M2"),
    replace(_FP6_E2M3, name="mxfp6-e2m3", scales=(_E8M0_PER_32,), source=_OCP),
    replace(_FP4_E2M1, name="mxfp4", scales=(_E8M0_PER_32,), source=f"{_OCP}, E2M1"),
    Format(
        name="mxint8",
        family=INT,
        element_bits=8,
        width=8,
        fraction_bits=6,
        scales=(_E8M0_PER_32,),
        source=f"{_OCP}; a code is 1/64",
    ),
    # NVFP4: an fp8 scale for each block, and one in fp32 for the tensor.
    replace(_FP4_E2M1, name="nvfp4", scales=(_E4M3_PER_16, _FP32_PER_TENSOR), source=f"{_NVFP4}, 1 x 16 blocks"),
    replace(
        _FP4_E2M1,
        name="nvfp4-16x16",
        scales=(_E4M3_PER_16X16, _FP32_PER_TENSOR),
        source=f"{_NVFP4}, 16 x 16 blocks (weights)",
    ),
    # Block floating point: a sign and a magnitude, and an exponent for each block. MSFPn has n - 8 bits an element.
    *(
        Format(name=f"msfp{n}", family=BFP, element_bits=n - 8, width=n - 8, scales=(_EXPONENT_PER_16,), source=_MSFP)
        for n in range(11, 17)
    ),
    Format(name="mx9", family=BFP, element_bits=8, width=8, scales=(_EXPONENT_PER_16, _SHIFT_PER_PAIR), source=_MX),
    Format(name="mx6", family=BFP, element_bits=5, width=5, scales=(_EXPONENT_PER_16, _SHIFT_PER_PAIR), source=_MX),
    Format(name="mx4", family=BFP, element_bits=3, width=3, scales=(_EXPONENT_PER_16, _SHIFT_PER_PAIR), source=_MX),
    Format(name="hbfp8", family=BFP, element_bits=8, width=8, scales=(_EXPONENT_PER_24X24,), source=_HBFP),
    Format(name="hbfp12", family=BFP, element_bits=12, width=12, scales=(_EXPONENT_PER_24X24,), source=_HBFP),
    Format(
        name="flex16",
        family=BFP,
        element_bits=16,
        width=16,
        scales=(Scale(kind="exponent", bits=5, contracted=None, free=None),),
        source=_FLEX,
    ),
    Format(name="fast2", family=BFP, element_bits=3, signs=1, width=2, scales=(_EXPONENT4_PER_16,), source=_FAST),
    Format(name="fast4", family=BFP, element_bits=6, signs=2, width=4, scales=(_EXPONENT4_PER_16,), source=_FAST),
    # Codebooks. The width is that of the format in which looked-up values are multiplied. Their blocks lie along the
    # flattened tensor, as in bitsandbytes: two short rows share one.
    Format(
        name="nf4",
        family=CODEBOOK,
        element_bits=4,
        width=8,
        flat=True,
        codebook=_NORMAL_FLOAT,
        scales=(Scale(kind="scale fp32", bits=32, contracted=64),),
        source=_QLORA,
    ),
    Format(
        name="nf4-double",
        family=CODEBOOK,
        element_bits=4,
        width=8,
        flat=True,
        codebook=_NORMAL_FLOAT,
        scales=(
            Scale(kind="scale fp8", bits=8, contracted=64),
            Scale(kind="scale fp32", bits=32, contracted=64 * 256),
        ),
        source=_QLORA_DOUBLE,
    ),
    Format(
        name="dynamic8",
        family=CODEBOOK,
        element_bits=8,
        width=24,
        flat=True,
        codebook=_dynamic_tree(),
        scales=(Scale(kind="scale fp32", bits=32, contracted=2048),),
        source=_ADAM8,
    ),
    # Ternary weights, in 2 bits each or five in a byte (3^5 = 243).
    Format(name="ternary2", family=TERNARY, element_bits=2, width=2, scales=(_MEAN_PER_TENSOR,), source=_BITNET),
    Format(
        name="ternary",
        family=TERNARY,
        element_bits=8,
        together=5,
        width=2,
        scales=(_MEAN_PER_TENSOR,),
        source=f"{_BITNET}; five in 8 bits",
    ),
    # What ids, labels and masks are held in.
    Format(
        name="index64",
        family=INDEX,
        element_bits=64,
        width=0,
        source="torch.int64, what PyTorch wants of ids and labels",
    ),
    Format(name="index32", family=INDEX, element_bits=32, width=0, source="int32 ids"),
    Format(name="mask8", family=MASK, element_bits=8, width=0, source="torch.bool, one byte an element"),
    Format(name="mask1", family=MASK, element_bits=1, width=0, source="one bit an element"),
)
NAMED = {format.name: format for format in _FORMATS}

# --- names with numbers in them ---------------------------------------------------------------------------------------


class Spelling(NamedTuple):
    """Formats that are named by numbers."""

    text: str  # as lists and messages show it
    pattern: str  # a regular expression; its named groups are the arguments of `make`
    bounds: Mapping[str, tuple[int, int]]  # of those groups that are numbers, inclusive
    make: Callable[..., Format]
    examples: tuple[str, ...]  # what `costsim list formats` shows


# Words for blocks, as (free, contracted). A row of a GEMM's operand is a token of activations or gradients, and an
# output channel of weights; a column is what shares an index of the contraction. `flat256` are blocks of 256 along the
# flattened tensor.
_BLOCKS: Mapping[str, tuple[int | None, int | None]] = {"tensor": (None, None), "row": (1, None), "column": (None, 1)}
_BLOCK = r"(?P<block>tensor|row|column|flat(?P<flat>\d+)|(?P<free>\d+)x(?P<contracted>\d+))"
_SIDES = {"free": (1, 65536), "contracted": (1, 65536), "flat": (1, 65536)}
_SMALL_FLOATS = [
    format.name for format in NAMED.values() if format.floating and not format.scales and format.element_bits <= 8
]
_CODEBOOKS = [format.name for format in NAMED.values() if format.codebook]


def _scale(kind: str, bits: int, block: str, free: int, contracted: int, flat: int) -> Scale:
    """What the blocks of a name share: `block` is a word for them, or free x contracted or `flat` elements."""
    across, along = (1, flat) if flat else _BLOCKS.get(block, (free, contracted))
    return Scale(kind=kind, bits=bits, contracted=along, free=across)


def _fixed(bits: int) -> Format:
    source = "two's complement, one power-of-two scale per tensor (static)"
    return Format(name=f"fixed{bits}", family=FIXED, element_bits=bits, width=bits, source=source)


def _bfp(bits: int, box: int = 16, exponent: int = 8) -> Format:
    return Format(
        name=f"bfp{bits}" + (f"-box{box}" if box != 16 else "") + (f"-exp{exponent}" if exponent != 8 else ""),
        family=BFP,
        element_bits=bits,
        width=bits,
        scales=(Scale(kind="exponent", bits=exponent, contracted=box),) if exponent else (),
        source="block floating point, N bits with sign, shared exponent (MSFP: box 16, 8 bits; NeurIPS 2020)",
    )


def _int(bits: int, asym: str = "", block: str = "tensor", free: int = 0, contracted: int = 0, flat: int = 0) -> Format:
    scale = _scale("scale fp32", 32, block, free, contracted, flat)
    zero_point = _scale("zero point", bits, block, free, contracted, flat)
    source = "linear quantizer with an fp32 scale per block"
    return Format(
        name=f"int{bits}{asym}" + ("" if block == "tensor" else f"-{block}"),
        family=INT,
        element_bits=bits,
        width=bits,
        symmetric=not asym,
        flat=bool(flat),
        scales=(scale, zero_point) if asym else (scale,),
        source=f"{source}; zero point of the elements' type, as ONNX QuantizeLinear" if asym else source,
    )


def _log(bits: int, base: int, block: str = "tensor", free: int = 0, contracted: int = 0, flat: int = 0) -> Format:
    scale = _scale("scale fp32", 32, block, free, contracted, flat)
    return Format(
        name=f"log{bits}-base{base}" + ("" if block == "tensor" else f"-{block}"),
        family=LOG,
        element_bits=bits,
        width=bits,
        log_base=base,
        flat=bool(flat),
        scales=(scale,),
        source=_LNS,
    )


def _scaled(element: str, block: str, free: int = 0, contracted: int = 0, flat: int = 0) -> Format:
    scale = _scale("scale fp32", 32, block, free, contracted, flat)
    source = f"{NAMED[element].source}; an fp32 scale per {scale.block} block" + " of the flattened tensor" * bool(flat)
    return replace(NAMED[element], name=f"{element}-{block}", flat=bool(flat), scales=(scale,), source=source)


def _codebook(codebook: str, block: int, rows: str = "") -> Format:
    """A codebook with blocks of another length; what refines their scales still spans as many blocks as before."""
    named = NAMED[codebook]
    before = named.scales[0].contracted or 1
    if block == before and not rows:
        return named
    scales = tuple(scale._replace(contracted=(scale.contracted or 1) // before * block) for scale in named.scales)
    return replace(named, name=f"{codebook}-{rows}{block}", flat=not rows, scales=scales)


SPELLINGS = (
    Spelling(
        text="fixedN",
        pattern=r"fixed(?P<bits>\d+)",
        bounds={"bits": (2, 32)},
        make=_fixed,
        examples=("fixed4", "fixed8", "fixed16", "fixed32"),
    ),
    Spelling(
        text="bfpN[-boxB][-expE]",
        pattern=r"bfp(?P<bits>\d+)(?:-box(?P<box>\d+))?(?:-exp(?P<exponent>\d+))?",
        bounds={"bits": (2, 32), "box": (1, 65536), "exponent": (0, 16)},
        make=_bfp,
        examples=("bfp2", "bfp4", "bfp8", "bfp16", "bfp32"),
    ),
    Spelling(
        text="intN[-asym][-BLOCK]",
        pattern=rf"int(?P<bits>\d+)(?P<asym>-asym)?(?:-{_BLOCK})?",
        bounds={"bits": (2, 32), **_SIDES},
        make=_int,
        examples=("int4", "int8", "int8-row", "int8-column", "int8-asym", "int4-1x128"),
    ),
    Spelling(
        text="logN-baseG[-BLOCK]",
        pattern=rf"log(?P<bits>\d+)-base(?P<base>\d+)(?:-{_BLOCK})?",
        bounds={"bits": (2, 16), "base": (1, 2048), **_SIDES},
        make=_log,
        examples=("log8-base8", "log4-base2-row"),
    ),
    Spelling(
        text="FLOAT-BLOCK",
        pattern=rf"(?P<element>{'|'.join(_SMALL_FLOATS)})-{_BLOCK}",
        bounds=_SIDES,
        make=_scaled,
        examples=("fp8-e4m3-tensor", "fp8-e5m2-tensor", "fp8-e4m3-1x128", "fp8-e4m3-128x128", "fp8-e4m3-flat256"),
    ),
    Spelling(
        text="CODEBOOK-[1x]B",
        pattern=rf"(?P<codebook>{'|'.join(_CODEBOOKS)})-(?P<rows>1x)?(?P<block>\d+)",
        bounds={"block": (1, 65536)},
        make=_codebook,
        examples=("nf4-128", "dynamic8-256", "dynamic8-1x256"),
    ),
)
EXAMPLES = (*NAMED, *(name for spelling in SPELLINGS for name in spelling.examples), "int8-row-in-bf16", "nvfp4-sr")

_LONGEST_NAME = 100
_SIDE = "a block's side"
_WORDS = {
    "free": _SIDE,
    "contracted": _SIDE,
    "flat": _SIDE,
    "block": _SIDE,
    "exponent": "exponent bits",
    "base": "the base's root",
}  # of groups, in errors


def _arguments(name: str, groups: Mapping[str, str | None], spelling: Spelling) -> dict[str, str | int]:
    """The arguments of a spelling's `make` in a name. Raises InputError for a number out of bounds."""
    arguments: dict[str, str | int] = {}
    for group, text in groups.items():
        if text is None:
            continue
        arguments[group] = text
        if group in spelling.bounds:
            low, high = spelling.bounds[group]
            if len(text) > 6 or not low <= int(text) <= high:
                message = f"{_WORDS.get(group, group)} must be from {low} to {high}"
                raise InputError(f"format {one_line(name)!r}: {message}")
            arguments[group] = int(text)
    return arguments


@cache
def parse_format(name: str) -> Format:
    """The format of that name. Raises InputError with the nearest name, or the bound that a number breaks.

    >>> parse_format("bfp4").stored_bits(elements=40, run=20)  # 2 runs of 20: each a whole and a cut-off box of 16
    192
    """
    if name in NAMED:
        return NAMED[name]
    if len(name) > _LONGEST_NAME:
        raise InputError(f"format {one_line(name)!r}: names have at most {_LONGEST_NAME} characters")
    grid, within, container = name.rpartition("-in-")
    if within:
        return contained(parse_format(grid), parse_format(container))
    if name.endswith(STOCHASTIC):
        nearest_to = parse_format(name.removesuffix(STOCHASTIC))
        if nearest_to.values != "float" or nearest_to.stochastic:
            raise InputError(f"format {one_line(name)!r}: only numbers are rounded by chance, and once")
        return replace(nearest_to, name=name, stochastic=True)
    for spelling in SPELLINGS:
        match = re.fullmatch(spelling.pattern, name, re.ASCII)
        if match is not None:
            return spelling.make(**_arguments(name, match.groupdict(), spelling))
    spellings = ", ".join(spelling.text for spelling in SPELLINGS)
    raise InputError(
        f"unknown format {one_line(name)!r}{nearest(name, EXAMPLES)}; or {spellings}, A-in-B, A{STOCHASTIC}"
    )
