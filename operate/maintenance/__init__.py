"""Work on one load balancer while its peer serves, and on one node of the cluster.

`moves.py` has move, drain, resume and rebuild of a load balancer; `checks.py` has what is checked before a rebuild
deletes anything; `nodes.py` has drain and resume of a node.
"""
