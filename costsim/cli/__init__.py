"""The command line: parse, one library call, write."""

from costsim.cli.commands import main

__all__ = ["main"]
