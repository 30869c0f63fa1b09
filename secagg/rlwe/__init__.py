"""A long vector under a short key: `scheme`, its `parameters`, and the ring arithmetic beneath."""
