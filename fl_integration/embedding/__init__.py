"""What every engine's adapter shares: both halves of a secure sum, for whoever can carry parcels to nodes."""
