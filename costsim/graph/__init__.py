"""A training step as a graph of ops: kinds, builder, autodiff, fusion into kernels."""
