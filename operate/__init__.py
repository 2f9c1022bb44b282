"""The operators' tool, `./ha`.

`commands` has one module for each command: its options, its questions, and how its result is shown. The work is done in

- `stack`: Pulumi's command line, a stack's configuration and outputs, its cloud
- `hosts`: the load balancers over SSH: the operators' lock, their state, and how it differs from what was applied
- `preflight`: checks before the first `pulumi up`
- `guard_rails.py`: checks of a `pulumi preview`
- `monitoring`: Prometheus configuration, alert rules, Grafana dashboard
- `maintenance`: move, drain, resume, rebuild
- `drill`: faults on purpose, measured and undone
- `takeover`: the VIP of load balancers that were built manually
- `support`: the support bundle

`probe.py` measures what clients notice. `signals.py` handles Ctrl-C.
"""
