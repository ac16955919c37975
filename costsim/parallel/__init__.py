"""A step on many devices: what each rank has of every tensor, the collectives in between, and pipeline schedules."""
