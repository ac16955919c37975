"""A run: what is asked is read and checked, counted, timed, swept."""
