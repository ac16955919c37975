"""Policies: which format each tensor has in each phase of training, and through which copies it is read."""
