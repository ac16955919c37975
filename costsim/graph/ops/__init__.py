"""The op table, a file for each sort of op; see `table` for what a row says."""

from costsim.ops import attention, elementwise, experts, lookups, loss, norms, update
from costsim.ops.table import OPS, kind_of

__all__ = ["OPS", "attention", "elementwise", "experts", "kind_of", "lookups", "loss", "norms", "update"]
