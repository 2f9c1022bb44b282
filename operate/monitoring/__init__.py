"""Prometheus scrape configuration, alert rules and the Grafana dashboard of a stack."""
