"""What everything stands on: errors, paths, writes, signals; no torch."""
