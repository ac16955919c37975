"""This machine through NumPy, as a bench."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from costsim.reference.bench import Task, cpu_machine, cpu_sizes


def _blas() -> str:
    """The BLAS that NumPy was built with."""
    built: Any = np.show_config(mode="dicts")
    blas = built.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'BLAS unknown')} {blas.get('version', '')}".strip()


class NumpyBench:
    """Products by BLAS on all cores, everything else on one."""

    accumulators: Mapping[str, str] = {"fp32": "fp32"}
    curve = "fp32"

    def __init__(self) -> None:
        self.sizes = cpu_sizes()
        setup = f"NumPy {np.__version__} with {_blas()}"
        lack = "NumPy has no fast product of int8: no such rate"
        self.machine = cpu_machine("NumPy", setup, "NumPy uses one core for it", (lack,))
        self._rng = np.random.default_rng(0)

    def _draw(self, *shape: int) -> Any:
        return self._rng.random(shape, np.float32)

    def copy(self, size: int) -> Task:
        """Copy an array of so many bytes to another."""
        x = self._draw(size // 4)
        return partial(np.copyto, np.ones_like(x), x)

    def vector(self, elements: int) -> Task:
        """Multiply two fp32 arrays element by element into a third."""
        x, y = self._draw(elements), self._draw(elements)
        return partial(np.multiply, x, y, out=np.ones_like(x))

    def gemm(self, format: str, n: int) -> Task:  # noqa: ARG002
        """Multiply two fp32 matrices of n by n."""
        x, y = self._draw(n, n), self._draw(n, n)
        return partial(np.matmul, x, y, out=np.ones_like(x))

    def wait(self) -> None:
        """NumPy returns when it is done."""
