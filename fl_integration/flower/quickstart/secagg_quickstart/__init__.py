"""A quickstart: an ordinary Flower app, and the lines that make its sums secure."""
