"""Model families by name, a file each: a file here that has what a family has is one, and needs no entry elsewhere.

A family's file has `Model` and `Batch` (what its sections of a workload file hold), `sizes` (the dims) and `forward`
(appends the forward ops, returns the loss). The backward is worked out from these, unless the file has a `backward`;
small copies are of few layers and small dims, unless it has `smaller`, which says by which fields they are made.
The family is named like its file, with hyphens.
"""

import importlib
import pkgutil
from types import ModuleType

from costsim import models

_PARTS = ("Model", "Batch", "sizes", "forward")


def _names() -> list[str]:
    """The names that the files here have, or would have as families."""
    return sorted(file.name.replace("_", "-") for file in pkgutil.iter_modules(models.__path__))


def family(name: str) -> ModuleType:
    """The module of a family. Raises ImportError for an unknown one."""
    return importlib.import_module(f"{__package__}.{name.replace('-', '_')}")


def is_family(name: str) -> bool:
    """Whether there is a family of that name. Only its own file is imported: a run needs no other."""
    return name in _names() and all(hasattr(family(name), part) for part in _PARTS)


def families() -> tuple[str, ...]:
    """The names of all model families."""
    return tuple(filter(is_family, _names()))
