"""Rows of files or of the hub become padded batches."""
