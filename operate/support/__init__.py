"""The support bundle: logs, states and configuration of a stack in one archive, without secrets."""
