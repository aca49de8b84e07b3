"""The second seam: how a pair of factors steps. Optimizers with a rule around their step, and parameter groups."""
