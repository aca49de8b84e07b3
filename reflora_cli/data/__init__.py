"""From files or the hub to padded batches."""
