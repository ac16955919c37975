"""The op table, a file for each sort of op; see `register` for what a row says."""

from costsim.graph.ops import attention, elementwise, experts, lookups, loss, norms, rows, update
from costsim.graph.ops.register import OPS, kind_of

__all__ = ["OPS", "attention", "elementwise", "experts", "kind_of", "lookups", "loss", "norms", "rows", "update"]
