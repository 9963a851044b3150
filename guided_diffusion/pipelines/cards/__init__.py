"""Cards of what the actions write: from a configuration, a checkpoint and a folder to the facts of its card."""
