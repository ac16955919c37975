"""The same graph run in NumPy or PyTorch, in real formats: how we know that the counts are true."""
