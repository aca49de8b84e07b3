"""What the user sees; rich is imported here and nowhere else."""
