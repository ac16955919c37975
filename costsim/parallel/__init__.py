"""A step on many devices: what each rank has of every tensor, and the collectives in between."""
