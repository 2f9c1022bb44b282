"""What operators' tools are made of: a stack as it was applied, its hosts over SSH, and how the two differ."""
