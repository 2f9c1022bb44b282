"""A stack.

`engine.py` runs Pulumi's command line, `applied.py` reads the stack's configuration and outputs through it, `files.py`
reads Pulumi.yaml and the stack's file without it, and `cloud.py` connects to the stack's cloud.
"""
