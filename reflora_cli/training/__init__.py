"""A training run: from a recipe to a run directory, whatever interrupts it."""
