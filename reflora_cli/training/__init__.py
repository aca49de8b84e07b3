"""Train from a recipe to a run directory, whatever interrupts the run."""
