"""Exact counts of a step, as integers: work, DRAM traffic and memory. Knows no device and no run."""
