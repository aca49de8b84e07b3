"""A small closed world, tasks about it, and a tiny model that has read about it: no network needed."""
