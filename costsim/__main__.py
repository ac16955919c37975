"""`python -m costsim` is the command `costsim`."""

from costsim.cli import main

main()
