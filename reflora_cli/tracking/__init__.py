"""What a run logs, given to the programs that draw it."""
