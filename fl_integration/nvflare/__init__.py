"""NVFlare: secure sums over its Collab API."""
