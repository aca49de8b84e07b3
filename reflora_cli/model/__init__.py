"""Base models: the only room that uses transformers' Auto classes."""
