"""Results as tables, in every output style."""
