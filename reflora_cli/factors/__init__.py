"""A pair of low-rank factors and the mathematics of its gauge; torch only."""
