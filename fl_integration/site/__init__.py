"""What happens at one site, and what it keeps on disk: its training, its keys, the log of what it has released."""
