"""What is built: pure Python that imports no Pulumi and does no I/O."""
