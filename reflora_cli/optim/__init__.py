"""The second seam: how a pair of factors steps. AdamW with update rules around its step, and its parameter groups."""
