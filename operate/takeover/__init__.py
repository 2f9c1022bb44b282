"""Moves the VIP of load balancers that were built manually to a stack."""
