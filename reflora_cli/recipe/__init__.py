"""From YAML to a checked recipe and back; no torch."""
