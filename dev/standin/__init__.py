"""The stand-in API server of the demo, the bench and the tests, and its installation on instances. No Kubernetes."""
