"""Which conversations exist, and what a message needs to know of them."""
