"""A stack's Prometheus configuration (`files.py`), alerts (`rules.yml.j2`) and Grafana dashboard (`dashboard.py`)."""
