"""What faults cost clients, measured with real keepalived and HAProxy in network namespaces.

What is measured: `faults` lists the faults, `configurations` our profiles and those of other projects (`peers/`).
How: `world` builds the hosts, on which `standin_systemd` is PID 1; `clients` sends the requests, `holders` follows
the VIP, `run` injects one fault, and `storm` opens thousands of connections. What comes out: `results` is the JSON
file, `summary` the numbers in it, `figures` the pictures, `report` and `curves` the tables in docs/failover.md.
"""
