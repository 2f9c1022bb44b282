"""A game day on a live stack: faults on purpose, what clients feel of them, and everything put back."""
