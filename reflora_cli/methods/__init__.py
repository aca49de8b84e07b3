"""What a method is: its choices, presets, and what is refused; no torch."""
