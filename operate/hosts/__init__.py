"""The load balancers of a stack.

`ssh.py` connects, `lock.py` keeps other operators off, `pair.py` and `instance.py` work with their instances in the
cloud. `state.py` collects the state of each with `on_host.py`, which runs there; `report.py` compares it with what was
applied; `look.py` does both. `netfilter.py` adds packet filter rules of our own.
"""
