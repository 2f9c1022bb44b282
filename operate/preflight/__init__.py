"""Checks before the first `pulumi up`: what would make it fail, or its result less reliable, all reported at once.

`run.py` runs the checks of `account.py`, `instances.py`, `network.py`, `backend.py`, `floating.py`, `segment.py` and
`endpoint.py`; each yields findings (`finding.py`) about the facts (`facts.py`). Only `boot.py`, with `--boot`, creates
anything in the cloud: a temporary instance.
"""
