"""What `doctor` finds out about a machine."""
