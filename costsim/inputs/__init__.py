"""What users write: YAML files with positions, their schemas, CSV tables of widths."""
