"""Work on one load balancer while its peer serves: `moves.py` has move, drain, resume and rebuild."""
