"""What `reflora doctor` finds out about the machine and the installation."""
