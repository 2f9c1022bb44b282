"""Kubernetes for hosts without Internet: a signed APT repository and a registry's storage, built from Go modules."""
