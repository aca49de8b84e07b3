"""The adapter directory in PEFT's format."""
