"""The command line: parse, one library call, write."""

from costsim.cli.group import main

__all__ = ["main"]
