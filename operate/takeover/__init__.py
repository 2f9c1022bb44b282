"""Moves the VIP of load balancers that were built manually to a stack.

`takeover.py` has the plan and each step, `undo.py` what happens if one of them fails.
"""
