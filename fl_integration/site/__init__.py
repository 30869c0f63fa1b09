"""What happens at one site, and what it keeps on disk: training, keys, the log of what it has released."""
