"""What each row of the op table is in PyTorch: the kernels that an ordinary eager training step launches for it.

Where PyTorch has one function for an op, or for its backward, it is that one (aten's own, as autograd calls it); where
PyTorch has none, a few functions, as people write the op by hand. Updates and sums of gradients are made in place, as
the graph says. There is a file for each file of `graph.ops`, besides `products` for matrix products; `table` has all
kernels by op kind, and `library` alone loads PyTorch.
"""
