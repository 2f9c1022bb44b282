"""What would stop the first `pulumi up`, or make its result worth less: looked for before it, and told all at once.

Nothing is changed in the cloud, but with the throw-away instance (boot.py), which is asked for by name.
"""
