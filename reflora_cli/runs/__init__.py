"""The run directory: its names, what it records, and the way back to a trained model."""
