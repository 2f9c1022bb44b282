"""What `__main__.py` needs besides components: configuration, look-ups, the VIP's holder, outputs. Creates nothing."""
