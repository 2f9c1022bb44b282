"""How it is built: Pulumi components, one a file. Decisions and arithmetic are in `model/`."""
