"""What an adapter has changed, module by module."""
