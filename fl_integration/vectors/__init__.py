"""A model's state as one flat vector, and back."""
