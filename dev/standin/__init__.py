"""The stand-in API server of the demo, the bench and the tests, and what installs it. No Kubernetes."""
