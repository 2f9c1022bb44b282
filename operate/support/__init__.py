"""The support bundle: logs, state and configuration of a stack in one archive, without secrets.

`bundle.py` collects and writes it, `on_host.py` runs on each load balancer, `redaction.py` removes secrets.
"""
