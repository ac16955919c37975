"""Which writes scope gemm counts: of GEMMs, and of other ops, by the role of what is written and by who reads it."""

from collections.abc import Mapping
from typing import NamedTuple, get_args

from costsim.names import Gemm, Writes

Gemms = frozenset[Gemm]
By = Mapping[str, Gemms | None]  # role, "" any other: the GEMMs of which one must read it; None: whoever does

_ALL: By = {"": None}
_GEMMS: Gemms = frozenset(get_args(Gemm))
_BACKWARD: Gemms = frozenset(("dgrad", "wgrad"))
NEVER: Gemms = frozenset()


class Counted(NamedTuple):
    """Which writes count, if any; of none of another role."""

    of_gemms: By
    of_others: By

    def readers(self, gemm: bool, role: str) -> Gemms | None:
        """The GEMMs of which one must read what a GEMM, or another op, writes of this role; None: whoever does."""
        by = self.of_gemms if gemm else self.of_others
        return by.get(role, by.get("", NEVER))


# A stash is whatever of the forward a GEMM of the backward reads, a copy or the tensor itself. Between the GEMM that
# makes a gradient and those that read it are ops of the scopes beyond, which write it once for each format in which it
# is read; `gradients` counts those writes and not the GEMM's, as a layer that is nothing but GEMMs would have them.
WRITES: Mapping[Writes, Counted] = {
    "gemms": Counted(_ALL, {}),
    "none": Counted({}, {}),
    "operands": Counted(_ALL, {"": _GEMMS}),
    "stashes": Counted(_ALL, {"activation": _BACKWARD}),
    "stashes-alone": Counted({"activation": _BACKWARD}, {"activation": _BACKWARD}),
    "gradients": Counted({"": None, "gradient": _GEMMS}, {"gradient": _GEMMS}),
}
