"""Model families, a file each, and the training step that they share."""
