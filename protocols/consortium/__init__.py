"""Sums under one homomorphic key that the clients hold together; CkksSum and PaillierSum bring the scheme."""
