"""costsim: exact arithmetic and DRAM traffic of training quantized Transformers.

Importing this loads nothing heavy. Start reading at `costsim.simulate`, which is the whole program in one function.
"""


def __getattr__(name: str) -> object:
    """`costsim.__version__`, read from the installed package when asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("costsim")
    raise AttributeError(f"module 'costsim' has no attribute {name!r}")
