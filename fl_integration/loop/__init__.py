"""The federated loop over any protocol, and the parties that it moves."""
