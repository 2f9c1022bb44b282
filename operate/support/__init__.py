"""The support bundle: logs, state and configuration of a stack in one archive, without secrets.

`bundle.py` collects and writes it, `on_host.py` runs on each host, `redaction.py` removes secrets.
"""
