"""All mappings of aten ops: importing this fills `translate.ATEN`. PyTorch is not needed for it."""

from costsim.trace import (
    aten_complex,
    aten_convolutions,
    aten_lookups,
    aten_memory,
    aten_pointwise,
    aten_products,
    aten_rows,
    aten_views,
)
from costsim.trace.translate import ATEN

__all__ = [
    "ATEN",
    "aten_complex",
    "aten_convolutions",
    "aten_lookups",
    "aten_memory",
    "aten_pointwise",
    "aten_products",
    "aten_rows",
    "aten_views",
]
