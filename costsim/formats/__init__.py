"""Number formats: what one is, the named ones, and what they do to numbers."""
