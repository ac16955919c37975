"""The op table, a file for each sort of op; see `register` for what a row says, `pointwise` for equations."""

from costsim.graph.ops import (
    attention,
    channels,
    complex_numbers,
    convolutions,
    elementwise,
    experts,
    functions,
    lookups,
    loss,
    norms,
    optimizers,
    rows,
    shares,
    update,
)
from costsim.graph.ops.collectives import COLLECTIVES
from costsim.graph.ops.named import kind_of
from costsim.graph.ops.pointwise import FUNCTIONS, Function
from costsim.graph.ops.register import OPS

__all__ = [
    "COLLECTIVES",
    "FUNCTIONS",
    "OPS",
    "Function",
    "attention",
    "channels",
    "complex_numbers",
    "convolutions",
    "elementwise",
    "experts",
    "functions",
    "kind_of",
    "lookups",
    "loss",
    "norms",
    "optimizers",
    "rows",
    "shares",
    "update",
]
