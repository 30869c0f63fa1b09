"""Adapters of one's own, which EMBEDDING.md prints as they stand: queues between threads, HTTPS."""
