"""What all protocols share: the client's and the server's machine, and what a protocol brings to them."""
