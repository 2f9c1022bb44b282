"""A stack.

`engine.py` runs Pulumi's command line. Through it, `applied.py` reads the stack's configuration and outputs, and
`resources.py` the ids in its state; `preview.py` parses a preview. `files.py` reads Pulumi.yaml and the stack's file
without Pulumi, and `cloud.py` connects to the stack's cloud.
"""
