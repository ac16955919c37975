"""Model families by name, a file each."""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from costsim.inputs.files import Where

_SHARED = ("blocks", "build", "families", "training_step")


class FieldError(ValueError):
    """What does not fit, and in which field of a workload file it is said."""

    def __init__(self, at: Where, message: str) -> None:
        super().__init__(message)
        self.at = at


def families() -> tuple[str, ...]:
    """The names of all model families."""
    names = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(sorted(name.replace("_", "-") for name in names if name not in _SHARED))


def family(name: str) -> ModuleType:
    """The module of a family. Raises ImportError for an unknown one."""
    return importlib.import_module(f"{__package__}.{name.replace('-', '_')}")
