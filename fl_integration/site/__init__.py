"""What happens at one site: its local training, and the log of what it has released."""
