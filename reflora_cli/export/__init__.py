"""Adapters and merged models in the formats that others load: one file per format."""
