"""What Prometheus and Grafana are told of a stack: targets, alert rules, a dashboard. Pure: facts in, texts out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model.timers import Timers
from model.topology import EXPORTER_PORT, HEALTH_PORT, METRICS_PORT
from operate.monitoring.dashboard import dashboard

INTERVAL = "15s"
"""Between two scrapes, and two looks at the rules: the hosts' own state is as old as that."""

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    variable_start_string="<<",  # {{ }} is Prometheus's own
    variable_end_string=">>",
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 - no HTML
)
# Jinja's own escapes what is special in HTML.
_environment.filters["tojson"] = json.dumps


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """A stack, as far as its monitoring depends on it."""

    stack: str
    vip: str
    load_balancers: Mapping[str, str]
    """By name, their addresses."""
    api_servers: tuple[str, ...]
    """By the names that HAProxy has for them."""
    timers: Timers


def monitoring_files(monitored: Monitored) -> dict[str, str]:
    """By name, the files for Prometheus (2.42 or newer) and Grafana."""
    jobs = {"scrape_configs": _scrape_configs(monitored)}
    rules = _environment.get_template("rules.yml.j2").render(
        stack=monitored.stack,
        on_stack=f"stack={json.dumps(monitored.stack)}",
        vip=monitored.vip,
        hosts=" and ".join(monitored.load_balancers),
        api_servers=monitored.api_servers,
        timers=monitored.timers,
        health_port=HEALTH_PORT,
        metrics_port=METRICS_PORT,
    )
    return {
        "prometheus.yml": _yaml(
            {
                "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
                "rule_files": ["rules.yml"],
                **jobs,
            }
        ),
        "scrape.yml": _yaml(jobs),
        "rules.yml": rules,
        "dashboard.json": json.dumps(dashboard(monitored.stack, len(monitored.api_servers), monitored.timers), indent=2)
        + "\n",
    }


def _scrape_configs(monitored: Monitored) -> list[dict[str, Any]]:
    def job(name: str, targets: Mapping[str, str], port: int) -> dict[str, Any]:
        return {
            # Jobs' names are unique in a Prometheus, which may watch several stacks; the label is the same for all.
            "job_name": f"{name}-{monitored.stack}",
            "scrape_interval": INTERVAL,
            "static_configs": [
                {"targets": [f"{address}:{port}"], "labels": {"job": name, "stack": monitored.stack, "host": host}}
                for host, address in targets.items()
            ],
        }

    # Whether the VIP answers is all that is asked of it: what its holder tells is told under the holder's own address.
    vip = job("ha-api-vip", {"the VIP": monitored.vip}, METRICS_PORT)
    vip["metric_relabel_configs"] = [{"source_labels": ["__name__"], "regex": ".*", "action": "drop"}]
    return [
        job("ha-api-haproxy", monitored.load_balancers, METRICS_PORT),
        job("ha-api-node", monitored.load_balancers, EXPORTER_PORT),
        vip,
    ]


def _yaml(content: object) -> str:
    return "# Made by `./ha monitoring`.\n" + yaml.safe_dump(content, sort_keys=False, width=120)
