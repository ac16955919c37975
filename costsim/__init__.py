"""costsim: exact arithmetic and DRAM traffic of training quantized Transformers.

In a notebook start with `costsim.load("iwslt17-dsq").run()`; to read, with `costsim.run.simulate`: the whole program.
Importing this loads nothing heavy; the names below come from `costsim.api`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from costsim.api import (
        Format,
        Hardware,
        InputError,
        Policy,
        Reconciliation,
        Results,
        Search,
        Survey,
        Workload,
        load,
        load_format,
        load_hardware,
        load_policy,
        make_policy,
        read,
    )

    __version__: str

__all__ = [
    "Format",
    "Hardware",
    "InputError",
    "Policy",
    "Reconciliation",
    "Results",
    "Search",
    "Survey",
    "Workload",
    "load",
    "load_format",
    "load_hardware",
    "load_policy",
    "make_policy",
    "read",
]


def __dir__() -> list[str]:
    """The names to use, for completion."""
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> object:
    """What notebooks use, loaded when it is used; and `costsim.__version__`, of the installed package."""
    if name == "__version__":
        from importlib.metadata import version

        return version("costsim")
    if name in __all__:
        from costsim import api

        return getattr(api, name)
    raise AttributeError(f"module 'costsim' has no attribute {name!r}")
