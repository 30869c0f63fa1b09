"""From what a deployment asks for to degree, threshold, ring and the chances of failure."""
