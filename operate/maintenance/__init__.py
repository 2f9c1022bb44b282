"""Work on one load balancer while the other one serves: move, drain, resume, rebuild."""
