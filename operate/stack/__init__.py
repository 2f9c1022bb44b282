"""A stack: the engine that runs it, its configuration and outputs, its files, and the cloud it is on."""
