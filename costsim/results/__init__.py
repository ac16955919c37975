"""Results as data: records, tidy tables, traces, assertions. No words."""
