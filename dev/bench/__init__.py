"""What faults cost clients, measured with real keepalived and HAProxy in network namespaces.

What is measured: `faults` lists the faults, `configurations` our profiles and those of other projects (`peers/`).
How: `world` builds the hosts, on which `standin_systemd` is PID 1; `clients` sends the requests, `held` holds
connections, `holders` follows the VIP, `run` injects one fault, and `storm` opens thousands of connections. What comes
out: `results` is the JSON file of a bench, `heard` and `summary` the numbers in it, and `figures` the pictures.
`report` and `curves` put the numbers into docs/failover/measured.json, and `tables` writes them in Markdown for
dev/documents.py.
"""
