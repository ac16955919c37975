"""Models traced from PyTorch, forward and backward, as files that need no PyTorch to be read."""
