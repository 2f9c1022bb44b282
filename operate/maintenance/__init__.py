"""Work on one load balancer while its peer serves.

`moves.py` has move, drain, resume and rebuild; `checks.py` has what is checked before a rebuild deletes anything.
"""
