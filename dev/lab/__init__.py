"""A real OpenStack on this machine, in one container, for development and tests (docs/lab.md)."""
