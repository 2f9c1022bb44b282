"""A stack's dashboard for Grafana (9 or newer), as data. Panels appear in the order of `_panels`."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.timers import Timers

WIDTH = 24
"""Columns of Grafana's grid."""
GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel: its queries (PromQL, by the legend of their series), and its size."""

    title: str
    kind: str
    """Grafana's panel type: stat, timeseries, state-timeline."""
    queries: dict[str, str]
    width: int
    height: int = 7
    unit: str = "short"
    steps: Sequence[tuple[float | None, str]] = ((None, GREEN),)
    """Colours from a value on; the first is for all values below."""
    words: dict[int, tuple[str, str]] = field(default_factory=dict[int, tuple[str, str]])
    """The text shown for a value, and its colour."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    custom: dict[str, Any] = field(default_factory=dict[str, Any])


def dashboard(stack: str, api_servers: int, timers: Timers, frontends: Sequence[str]) -> dict[str, Any]:
    """The dashboard of a stack with `api_servers` API servers and frontends of these names."""
    on_stack = f"stack={json.dumps(stack)}"
    panels = [*_panels(on_stack, api_servers, timers)]
    for frontend in frontends:
        panels += _frontend_panels(on_stack, frontend)
    return {
        # Stable, so that a new version replaces the old one.
        "uid": "ha-api-" + hashlib.sha256(stack.encode()).hexdigest()[:12],
        "title": f"Kubernetes API: {stack}",
        "tags": ["kubernetes", "ha-api"],
        "schemaVersion": 37,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                    "hide": 0,
                }
            ]
        },
        "annotations": {"list": []},
        "panels": [*_placed(panels)],
    }


def _panels(stack: str, api_servers: int, timers: Timers) -> Iterable[Panel]:
    clients = f'proxy="apiserver", {stack}'
    up_servers = f'haproxy_server_status{{state="UP", {clients}}}'
    host = "{{host}}"
    server = "{{server}}"
    yield Panel(
        title="VIP",
        kind="stat",
        queries={"": f'max(up{{job="ha-api-vip", {stack}}})'},
        width=4,
        height=4,
        words={0: ("does not answer", RED), 1: ("answers", GREEN)},
    )
    yield Panel(
        title="Held by",
        kind="stat",
        queries={host: f"ha_api_holds_vip{{{stack}}} == 1"},
        width=4,
        height=4,
        steps=((None, BLUE),),
        options={"textMode": "name"},
    )
    yield Panel(
        title=f"API servers up, of {api_servers}",
        kind="stat",
        queries={"": f"min(sum by (host) ({up_servers}))"},
        width=4,
        height=4,
        # With fewer than a majority etcd serves nothing.
        steps=((None, RED), (api_servers // 2 + 1, ORANGE), (api_servers, GREEN)),
    )
    yield Panel(
        title="Days until a certificate expires",
        kind="stat",
        queries={
            "": f"(min(last_over_time(ha_api_certificate_expiry_timestamp_seconds{{{stack}}}[1h])) - time()) / 86400"
        },
        width=4,
        height=4,
        steps=((None, RED), (7, ORANGE), (30, GREEN)),
    )
    yield Panel(
        title="Files that differ",
        kind="stat",
        queries={"": f"sum(ha_api_configuration_files_differing{{{stack}}})"},
        width=4,
        height=4,
        steps=((None, GREEN), (1, ORANGE)),
    )
    yield Panel(
        title="Alerts",
        kind="stat",
        queries={"": f'count(ALERTS{{alertstate="firing", {stack}}}) or vector(0)'},
        width=4,
        height=4,
        steps=((None, GREEN), (1, RED)),
    )
    yield Panel(
        title="Holder of the VIP",
        kind="state-timeline",
        queries={host: f"max by (host) (ha_api_holds_vip{{{stack}}})"},
        width=12,
        words={0: ("-", "text"), 1: ("holds it", BLUE)},
    )
    yield Panel(
        title="keepalived",
        kind="state-timeline",
        queries={
            host: " + ".join(
                f'{number} * sum by (host) (ha_api_vrrp_state{{state="{state}", {stack}}})'
                for number, state in ((3, "MASTER"), (2, "BACKUP"), (1, "FAULT"))
            )
        },
        width=12,
        words={0: ("not running", RED), 1: ("FAULT", RED), 2: ("BACKUP", GREEN), 3: ("MASTER", BLUE)},
    )
    yield Panel(
        title="API servers, as the load balancer with the worst view sees them",
        kind="state-timeline",
        queries={server: f"min by (server) ({up_servers})"},
        width=12,
        words={0: ("down", RED), 1: ("up", GREEN)},
    )
    yield Panel(
        title="Times a load balancer became MASTER, in 15 minutes",
        kind="timeseries",
        queries={host: f'sum by (host) (increase(ha_api_vrrp_transitions_total{{state="MASTER", {stack}}}[15m]))'},
        width=12,
        steps=((None, GREEN), (3.5, RED)),
        custom={"thresholdsStyle": {"mode": "line"}},
    )
    yield Panel(
        title="Duration of API server health checks",
        kind="timeseries",
        queries={f"{server} from {host}": f"haproxy_server_check_duration_seconds{{{clients}}}"},
        width=12,
        unit="s",
        steps=((None, GREEN), (timers.api_check_timeout / 2000, ORANGE), (timers.api_check_timeout / 1000, RED)),
        custom={"thresholdsStyle": {"mode": "line"}},
    )
    yield Panel(
        title="New connections",
        kind="timeseries",
        queries={host: f"rate(haproxy_frontend_connections_total{{{clients}}}[$__rate_interval])"},
        width=6,
        unit="cps",
    )
    yield Panel(
        title="Open connections",
        kind="timeseries",
        queries={host: f"haproxy_frontend_current_sessions{{{clients}}}"},
        width=6,
    )
    yield Panel(
        title="Connections that failed, were redispatched, or found no server",
        kind="timeseries",
        queries={
            f"{name}, {host}": f"sum by (host) (rate({metric}{{{where}{stack}}}[$__rate_interval]))"
            for name, metric, where in (
                (
                    "no server accepted it",
                    "haproxy_backend_connection_errors_total",
                    'proxy=~"apiserver|last-resort", ',
                ),
                ("aborted by the server", "haproxy_backend_server_aborts_total", 'proxy=~"apiserver|last-resort", '),
                ("redispatched", "haproxy_backend_redispatch_warnings_total", 'proxy=~"apiserver|last-resort", '),
                ("no server was ready", "haproxy_backend_sessions_total", 'proxy="last-resort", '),
            )
        },
        width=12,
        unit="cps",
    )
    yield Panel(
        title="Traffic through HAProxy",
        kind="timeseries",
        queries={
            f"to servers, {host}": f"rate(haproxy_frontend_bytes_in_total{{{clients}}}[$__rate_interval])",
            f"to clients, {host}": f"rate(haproxy_frontend_bytes_out_total{{{clients}}}[$__rate_interval])",
        },
        width=12,
        unit="Bps",
    )
    yield Panel(
        title="CPU",
        kind="timeseries",
        queries={
            host: f'1 - avg by (host) (rate(node_cpu_seconds_total{{mode="idle", {stack}}}[$__rate_interval]))',
            f"stolen, {host}": "avg by (host) "
            f'(rate(node_cpu_seconds_total{{mode="steal", {stack}}}[$__rate_interval]))',
        },
        width=6,
        unit="percentunit",
    )
    yield Panel(
        title="Memory used",
        kind="timeseries",
        queries={
            host: f"1 - node_memory_MemAvailable_bytes{{{stack}}} / node_memory_MemTotal_bytes{{{stack}}}",
        },
        width=6,
        unit="percentunit",
    )
    yield Panel(
        title="Disk used",
        kind="timeseries",
        queries={
            host: f'1 - node_filesystem_avail_bytes{{mountpoint="/", {stack}}}'
            f' / node_filesystem_size_bytes{{mountpoint="/", {stack}}}',
        },
        width=6,
        unit="percentunit",
        steps=((None, GREEN), (0.9, RED)),
        custom={"thresholdsStyle": {"mode": "line"}},
    )
    yield Panel(
        title="Connection tracking table used",
        kind="timeseries",
        queries={host: f"node_nf_conntrack_entries{{{stack}}} / node_nf_conntrack_entries_limit{{{stack}}}"},
        width=6,
        unit="percentunit",
        steps=((None, GREEN), (0.8, RED)),
        custom={"thresholdsStyle": {"mode": "line"}},
    )
    yield Panel(
        title="Reboot required",
        kind="state-timeline",
        queries={host: f"max by (host) (ha_api_reboot_required{{{stack}}})"},
        width=12,
        height=5,
        words={0: ("no", GREEN), 1: ("required", ORANGE)},
    )
    yield Panel(
        title="HAProxy and the default route, according to the watchdog",
        kind="state-timeline",
        queries={
            host: f"100 * max by (host) (ha_api_watchdog_haproxy_dead{{{stack}}})"
            f" - max by (host) (ha_api_watchdog_priority_change{{{stack}}})",
        },
        width=12,
        height=5,
        words={
            0: ("serves", GREEN),
            25: ("no default route", ORANGE),
            50: ("reaches no API server", ORANGE),
            75: ("reaches no API server", ORANGE),
            **{100 + change: ("dead or hangs", RED) for change in (0, 25, 50, 75)},
        },
    )
    yield Panel(
        title="Services",
        kind="state-timeline",
        queries={f"{{{{unit}}}} on {host}": f"max by (host, unit) (ha_api_unit_active{{{stack}}})"},
        width=12,
        words={0: ("down", RED), 1: ("active", GREEN)},
    )


def _frontend_panels(stack: str, frontend: str) -> Iterable[Panel]:
    clients = f'proxy="{frontend}", {stack}'
    host = "{{host}}"
    yield Panel(
        title=f"Servers of {frontend}, as the load balancer with the worst view sees them",
        kind="state-timeline",
        queries={"{{server}}": f'min by (server) (haproxy_server_status{{state="UP", {clients}}})'},
        width=12,
        words={0: ("down", RED), 1: ("up", GREEN)},
    )
    yield Panel(
        title=f"New connections of {frontend}",
        kind="timeseries",
        queries={host: f"rate(haproxy_frontend_connections_total{{{clients}}}[$__rate_interval])"},
        width=6,
        unit="cps",
    )
    yield Panel(
        title=f"Open connections of {frontend}, of those that it may have",
        kind="timeseries",
        queries={
            host: f"haproxy_frontend_current_sessions{{{clients}}} / haproxy_frontend_limit_sessions{{{clients}}}"
        },
        width=6,
        unit="percentunit",
        steps=((None, GREEN), (0.9, RED)),
        custom={"thresholdsStyle": {"mode": "line"}},
    )


def _placed(panels: Iterable[Panel]) -> Iterable[dict[str, Any]]:
    x = y = height = 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > WIDTH:
            x, y, height = 0, y + height, 0
        yield _panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": panel.height})
        x, height = x + panel.width, max(height, panel.height)


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    words = {str(value): {"text": text, "color": color} for value, (text, color) in panel.words.items()}
    return {
        "id": number,
        "title": panel.title,
        "type": panel.kind,
        "gridPos": place,
        "datasource": source,
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {
                    "mode": "absolute",
                    "steps": [{"value": value, "color": color} for value, color in panel.steps],
                },
                "mappings": [{"type": "value", "options": words}] if words else [],
                "custom": panel.custom,
            },
            "overrides": [],
        },
        "options": panel.options,
    }
