"""Decide, for each kind of task, how rows become batches, what is minimized and how a model is scored."""
