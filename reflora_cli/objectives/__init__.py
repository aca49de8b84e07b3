"""What a kind of task decides: how rows become batches, what is minimized, how a model is scored."""
