"""The load balancers of a stack: SSH, the operators' lock, their state and what is wrong with it, their instances."""
