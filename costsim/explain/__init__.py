"""A number taken apart: formulas, and a second way to the same result."""
