"""The first seam: how the adapted weight W + dW is computed."""
