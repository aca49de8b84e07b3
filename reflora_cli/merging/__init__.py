"""Fold an adapter into its base."""
