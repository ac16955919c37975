"""The best policy of a space, and the assumptions that would explain a paper's figure."""
