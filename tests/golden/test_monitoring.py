"""The generated alert rules, judged by promtool: which alerts fire in which case, and that a broken rule is noticed."""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml

from model.load_balancers import LoadBalancerHost, LoadBalancerPair
from model.rendering import configure_script, load_balancer_files
from operate.hosts.on_host import SERVICES
from operate.monitoring.files import monitoring_files
from operate.stack.files import ROOT
from tests.unit.operate.monitoring.example import STACK

PROMTOOL = ROOT / "build/prometheus/usr/bin/promtool"
RULES = monitoring_files(STACK)["rules.yml"]
# Scrapes every 15 s, for half an hour.
SCRAPES = 120
HOUR = 3600
DAY = 24 * HOUR

Series = Mapping[str, str]


def values(*parts: tuple[str, int] | str) -> str:
    """promtool's notation: each part (a value, or a first one and a step) for so many scrapes, the last to the end."""
    *before, last = parts
    counted = [(str(value), int(count)) for value, count in before]
    counted.append((str(last), SCRAPES - sum(count for _, count in counted)))
    return " ".join(f"{value}x{count - 1}" for value, count in counted)


def during(usual: float, trouble: float | str, scrapes: int) -> str:
    """Trouble from the fifth minute on, for so many scrapes."""
    return values((f"{usual}", 20), (f"{trouble}", scrapes), f"{usual}")


def haproxy(host: int, server: int) -> str:
    return f'{{job="ha-api-haproxy", stack="prod", host="k8s-lb-{host}", proxy="apiserver", server="k8s-cp-{server}"'


def node(metric: str, host: int, labels: str = "") -> str:
    return f'{metric}{{job="ha-api-node", stack="prod", host="k8s-lb-{host}"{labels}}}'


def up(job: str, host: int) -> str:
    return f'up{{job="ha-api-{job}", stack="prod", host="k8s-lb-{host}"}}'


def server_up(host: int, server: int) -> str:
    return f'haproxy_server_status{haproxy(host, server)}, state="UP"}}'


def of_frontend(metric: str, host: int, name: str, labels: str = "") -> str:
    return f'{metric}{{job="ha-api-haproxy", stack="prod", host="k8s-lb-{host}", proxy="{name}"{labels}}}'


def frontend_up(host: int, server: int, name: str = "ingress") -> str:
    return of_frontend("haproxy_server_status", host, name, f', server="k8s-worker-{server}", state="UP"')


def open_connections(host: int, name: str = "ingress") -> str:
    return of_frontend("haproxy_frontend_current_sessions", host, name)


def new_connections(host: int, name: str = "ingress") -> str:
    return of_frontend("haproxy_frontend_current_session_rate", host, name)


def check(host: int, server: int) -> str:
    return f"haproxy_server_check_duration_seconds{haproxy(host, server)}}}"


def started(host: int) -> str:
    return f'haproxy_process_start_time_seconds{{job="ha-api-haproxy", stack="prod", host="k8s-lb-{host}"}}'


def state(host: int, name: str) -> str:
    return node("ha_api_vrrp_state", host, f', state="{name}"')


def holds(host: int) -> str:
    return node("ha_api_holds_vip", host)


def became_master(host: int) -> str:
    return node("ha_api_vrrp_transitions_total", host, ', state="MASTER"')


def differing(host: int) -> str:
    return node("ha_api_configuration_files_differing", host)


def drained(host: int) -> str:
    return node("ha_api_drained_timestamp_seconds", host)


def certificate(host: int, server: int) -> str:
    return node("ha_api_certificate_expiry_timestamp_seconds", host, f', server="k8s-cp-{server}"')


def active(host: int, unit: str) -> str:
    return node("ha_api_unit_active", host, f', unit="{unit}"')


def restarts(host: int, unit: str) -> str:
    return node("ha_api_unit_restarts_total", host, f', unit="{unit}"')


def tracked(host: int) -> str:
    return node("node_nf_conntrack_entries", host)


def clock(host: int) -> str:
    return node("node_time_seconds", host)


def written(host: int) -> str:
    return node("node_textfile_mtime_seconds", host, ', file="/run/ha-api/ha-api.prom"')


def disk(host: int) -> str:
    return node("node_filesystem_avail_bytes", host, ', mountpoint="/"')


VIP = 'up{job="ha-api-vip", stack="prod", host="the VIP"}'
MINUTE = 4


def healthy() -> dict[str, tuple[float, int]]:
    """What is scraped of a pair that is well: the first value, and by how much it grows from scrape to scrape."""
    series: dict[str, tuple[float, int]] = {VIP: (1, 0)}
    for host in (0, 1):
        series |= {
            up("haproxy", host): (1, 0),
            up("node", host): (1, 0),
            started(host): (600, 0),
            holds(host): (1 - host, 0),
            state(host, "MASTER"): (1 - host, 0),
            state(host, "BACKUP"): (host, 0),
            state(host, "FAULT"): (0, 0),
            state(host, "STOP"): (0, 0),
            became_master(host): (1, 0),
            differing(host): (0, 0),
            drained(host): (0, 0),
            # An hour ahead of Prometheus, which must not matter.
            clock(host): (3610, 15),
            written(host): (3600, 15),
            disk(host): (5e9, 0),
            node("node_filesystem_size_bytes", host, ', mountpoint="/"'): (10e9, 0),
            tracked(host): (200_000, 0),
            node("node_nf_conntrack_entries_limit", host): (262_144, 0),
        }
        for unit in SERVICES:
            series |= {active(host, unit): (1, 0), restarts(host, unit): (1, 0)}
        for name in ("apiserver", *STACK.frontends):
            series[open_connections(host, name)] = (17000, 0)
            series[of_frontend("haproxy_frontend_limit_sessions", host, name)] = (20000, 0)
        for name in STACK.frontends:
            series |= {frontend_up(host, server, name): (1, 0) for server in (0, 1)}
            series[new_connections(host, name)] = (1700, 0)
        for server in (0, 1, 2):
            series |= {
                server_up(host, server): (1, 0),
                check(host, server): (0.004, 0),
                certificate(host, server): (365 * DAY, 0),
            }
    return series


def away(name: str, scrapes: int) -> str:
    """A series that is not there from the fifth minute on, for so many scrapes."""
    start, step = healthy()[name]
    return values(
        (f"{start}+{step}", 20), ("stale", 1), ("_", scrapes - 1), f"{start + step * (20 + scrapes)}+{step}"
    ).replace("stalex0", "stale")


def gone(host: int, scrapes: int, *jobs: str) -> dict[str, str]:
    """A host's targets cannot be scraped for so many scrapes: `up` is 0, and there is nothing else of them."""
    trouble = {up(job, host): during(1, 0, scrapes) for job in jobs}
    for name in healthy():
        if (
            f'host="k8s-lb-{host}"' in name
            and not name.startswith("up")
            and any(f"ha-api-{job}" in name for job in jobs)
        ):
            trouble[name] = away(name, scrapes)
    return trouble


def flapping(host: int) -> dict[str, str]:
    """A host's exporter answers every fifth scrape alone, from the fifth minute on, for fifteen."""

    def trouble(first: float, step: float, *, absent: str) -> str:
        rounds = [f"{first + step * scrape} {absent}" for scrape in range(20, 80, 5)]
        return f"{first}+{step}x19 {' '.join(rounds)} {first + step * 80}+{step}x39"

    return {
        name: trouble(*sample, absent="0x3" if name == up("node", host) else "stale _x3")
        for name, sample in healthy().items()
        if f'job="ha-api-node", stack="prod", host="k8s-lb-{host}"' in name
    }


def drain(host: int, since: int = 300) -> dict[str, str]:
    """The standby is out from the fifth minute on, for twenty, and says since when."""
    return {
        drained(host): during(0, since, 20 * MINUTE),
        state(host, "BACKUP"): during(1, 0, 20 * MINUTE),
        state(host, "STOP"): during(0, 1, 20 * MINUTE),
        active(host, "keepalived"): during(1, 0, 20 * MINUTE),
    }


@dataclass(frozen=True, kw_only=True)
class Case:
    """What differs from a healthy pair, and every alert that fires at any time of the half hour."""

    trouble: Series
    fires: Iterable[str] = ()
    clears: bool = True
    """Whether none fires any more at the end."""


PAGE, TICKET = 'severity="page", stack="prod"', 'severity="ticket", stack="prod"'
OUT = {server_up(host, 1): during(1, 0, 10 * MINUTE) for host in (0, 1)}
CASES = {
    "nothing is wrong": Case(trouble={}),
    "a failover that one scrape of the VIP and two of the hosts see": Case(
        trouble={
            VIP: during(1, 0, 1),
            holds(0): values(("1", 22), "0"),
            holds(1): values(("0", 20), "1"),
            became_master(1): values(("1", 20), "2"),
        }
    ),
    "a failover, and the new holder has not updated its metrics yet": Case(
        trouble={VIP: during(1, 0, 1), holds(0): values(("1", 20), "0"), holds(1): values(("0", 22), "1")}
    ),
    "keepalived is stopped on both": Case(
        trouble={
            VIP: during(1, 0, 20),
            holds(0): during(1, 0, 20),
            state(0, "MASTER"): during(1, 0, 20),
            state(1, "BACKUP"): during(1, 0, 20),
            state(0, "STOP"): during(0, 1, 20),
            state(1, "STOP"): during(0, 1, 20),
        },
        fires=[
            f'alertname="NoHolder", {PAGE}',
            f'alertname="KeepalivedOut", host="k8s-lb-0", {TICKET}',
            f'alertname="KeepalivedOut", host="k8s-lb-1", {TICKET}',
        ],
    ),
    "a load balancer is drained": Case(trouble=drain(1)),
    "a load balancer was left drained over night": Case(trouble=drain(1, -23 * HOUR)),
    "a load balancer has been drained since yesterday": Case(
        trouble=drain(1, -25 * HOUR),
        fires=[f'alertname="DrainedForLong", host="k8s-lb-1", {TICKET}'],
    ),
    "a load balancer is drained, and the other one loses the VIP": Case(
        trouble=drain(1) | {VIP: during(1, 0, 20), holds(0): during(1, 0, 20)},
        fires=[f'alertname="NoHolder", {PAGE}', f'alertname="KeepalivedOut", host="k8s-lb-1", {TICKET}'],
    ),
    "a load balancer is drained, and everything but the exporter dies on the other one": Case(
        trouble=drain(1)
        | {
            VIP: during(1, 0, 9 * MINUTE),
            written(0): values(("3600+15", 20), ("3900", 9 * MINUTE), f"{3600 + 15 * 57}+15"),
        },
        fires=[
            f'alertname="NoHolder", {PAGE}',
            f'alertname="HostMetricsStale", host="k8s-lb-0", {TICKET}',
            f'alertname="KeepalivedOut", host="k8s-lb-1", {TICKET}',
        ],
    ),
    "a load balancer is drained but keeps the VIP, because its keepalived was killed": Case(
        trouble=drain(1) | {holds(0): during(1, 0, 20), holds(1): during(0, 1, 20)},
        fires=[f'alertname="KeepalivedOut", host="k8s-lb-1", {TICKET}'],
    ),
    "a load balancer is drained, and the other one keeps the VIP although its keepalived is in FAULT": Case(
        trouble=drain(1) | {state(0, "MASTER"): during(1, 0, 20), state(0, "FAULT"): during(0, 1, 20)},
        fires=[f'alertname="KeepalivedOut", host="k8s-lb-0", {TICKET}'],
    ),
    "both are drained": Case(
        trouble=drain(1)
        | {
            VIP: during(1, 0, 20),
            holds(0): during(1, 0, 20),
            state(0, "MASTER"): during(1, 0, 20),
            drained(0): during(0, 300, 20),
        },
        fires=[
            f'alertname="NoHolder", {PAGE}',
            f'alertname="KeepalivedOut", host="k8s-lb-0", {TICKET}',
            f'alertname="KeepalivedOut", host="k8s-lb-1", {TICKET}',
        ],
    ),
    "the standby is gone": Case(
        trouble=gone(1, 8 * MINUTE, "haproxy", "node"),
        fires=[f'alertname="LoadBalancerGone", host="k8s-lb-1", {TICKET}'],
    ),
    "Prometheus does not reach the holder, but the VIP answers": Case(
        trouble=gone(0, 8 * MINUTE, "haproxy", "node"),
        fires=[f'alertname="LoadBalancerGone", host="k8s-lb-0", {TICKET}'],
    ),
    "both are gone": Case(
        trouble={VIP: during(1, 0, 8 * MINUTE)}
        | gone(0, 8 * MINUTE, "haproxy", "node")
        | gone(1, 8 * MINUTE, "haproxy", "node"),
        fires=[
            f'alertname="NoHolder", {PAGE}',
            f'alertname="LoadBalancerGone", host="k8s-lb-0", {TICKET}',
            f'alertname="LoadBalancerGone", host="k8s-lb-1", {TICKET}',
        ],
    ),
    "the standby is replaced: its exporter is back after four minutes, its HAProxy a minute later": Case(
        trouble=gone(1, 5 * MINUTE, "haproxy") | gone(1, 4 * MINUTE, "node")
    ),
    "the VIP is held and does not answer": Case(
        trouble={VIP: during(1, 0, 20)}, fires=[f'alertname="VipUnreachable", {PAGE}']
    ),
    "both hold the VIP for three minutes": Case(
        trouble={holds(1): during(0, 1, 3 * MINUTE)}, fires=[f'alertname="TwoHolders", {PAGE}']
    ),
    "the VIP moves three times in a quarter of an hour": Case(
        trouble={
            became_master(0): values(("1", 20), ("2", 30), "3"),
            became_master(1): values(("1", 35), "2"),
        }
    ),
    "the VIP moves four times in a quarter of an hour, once over a reboot": Case(
        trouble={
            became_master(0): values(("1", 20), ("2", 2), ("0", 1), "1"),
            became_master(1): values(("1", 21), ("2", 2), "3"),
        },
        fires=[f'alertname="VipFlapping", {PAGE}'],
    ),
    "an API server is down for four minutes": Case(
        trouble={server_up(host, 1): during(1, 0, 4 * MINUTE) for host in (0, 1)}
    ),
    "an API server is down": Case(trouble=OUT, fires=[f'alertname="ApiServerDown", server="k8s-cp-1", {TICKET}']),
    "an API server is down for one load balancer, whose checks of it are slow": Case(
        trouble={server_up(1, 1): during(1, 0, 10 * MINUTE), check(1, 1): during(0.004, 0.4, 10 * MINUTE)},
        fires=[f'alertname="ApiServerDown", server="k8s-cp-1", {TICKET}'],
    ),
    "one load balancer reaches no API server": Case(
        trouble={server_up(1, server): during(1, 0, 10 * MINUTE) for server in (0, 1, 2)},
        fires=[f'alertname="ApiServerDown", server="k8s-cp-{server}", {TICKET}' for server in (0, 1, 2)],
    ),
    "no API server is ready for three scrapes": Case(
        trouble={server_up(host, server): during(1, 0, 3) for host in (0, 1) for server in (0, 1, 2)}
    ),
    "no API server is ready": Case(
        trouble={server_up(host, server): during(1, 0, 10 * MINUTE) for host in (0, 1) for server in (0, 1, 2)},
        fires=[f'alertname="AllApiServersDown", {PAGE}'],
    ),
    "a frontend has no server for three scrapes": Case(
        trouble={frontend_up(host, server): during(1, 0, 3) for host in (0, 1) for server in (0, 1)}
    ),
    "a frontend has no server": Case(
        trouble={frontend_up(host, server): during(1, 0, 10 * MINUTE) for host in (0, 1) for server in (0, 1)},
        fires=[f'alertname="FrontendDown", proxy="ingress", {PAGE}'],
    ),
    "a frontend has no server on one load balancer": Case(
        trouble={frontend_up(1, server): during(1, 0, 10 * MINUTE) for server in (0, 1)},
        fires=[
            f'alertname="FrontendServerDown", proxy="ingress", server="k8s-worker-{server}", {TICKET}'
            for server in (0, 1)
        ],
    ),
    "a frontend's server is down for four minutes": Case(
        trouble={frontend_up(host, 1): during(1, 0, 4 * MINUTE) for host in (0, 1)}
    ),
    "a frontend is full for three scrapes": Case(trouble={open_connections(0): during(17000, 20000, 3)}),
    "a frontend is nearly full": Case(
        trouble={open_connections(0): during(17000, 19000, 10 * MINUTE)},
        fires=[f'alertname="FrontendFull", proxy="ingress", {PAGE}'],
    ),
    "a frontend has nearly as many new connections as it may have": Case(
        trouble={new_connections(1): during(1700, 1900, 10 * MINUTE)},
        fires=[f'alertname="FrontendFull", proxy="ingress", {PAGE}'],
    ),
    "the API's port is full for three scrapes": Case(
        trouble={open_connections(0, "apiserver"): during(17000, 20000, 3)}
    ),
    "the API's port is nearly full": Case(
        trouble={open_connections(0, "apiserver"): during(17000, 19000, 10 * MINUTE)},
        fires=[f'alertname="ApiFull", {PAGE}'],
    ),
    "an API server is slow": Case(
        trouble={check(1, 2): during(0.004, 0.25, 12 * MINUTE)},
        fires=[f'alertname="ApiServerCheckSlow", server="k8s-cp-2", {TICKET}'],
    ),
    "an API server is slow for three minutes, or not very slow": Case(
        trouble={check(1, 2): during(0.004, 0.3, 3 * MINUTE), check(0, 1): values("0.15")}
    ),
    "a certificate ends in four weeks": Case(
        trouble={certificate(0, 1): values(f"{28 * DAY}"), certificate(1, 1): values(f"{28 * DAY}")},
        fires=[f'alertname="CertificateExpiresSoon", server="k8s-cp-1", {TICKET}'],
        clears=False,
    ),
    "a certificate ends in four weeks, and its server has been down since it was read": Case(
        trouble={certificate(host, 1): values((f"{28 * DAY}", 2), "_") for host in (0, 1)},
        fires=[f'alertname="CertificateExpiresSoon", server="k8s-cp-1", {TICKET}'],
        clears=False,
    ),
    "a certificate ends in five weeks": Case(trouble={certificate(0, 1): values(f"{35 * DAY}")}),
    "a certificate ends in six days": Case(
        trouble={certificate(0, 1): values(f"{6 * DAY}")},
        fires=[f'alertname="CertificateExpires", server="k8s-cp-1", {PAGE}'],
        clears=False,
    ),
    "a certificate ended yesterday": Case(
        trouble={certificate(0, 1): values(f"-{DAY}")},
        fires=[f'alertname="CertificateExpires", server="k8s-cp-1", {PAGE}'],
        clears=False,
    ),
    "no load balancer has read an API server's certificate, and one does not reach the server": Case(
        trouble={certificate(host, 1): values("_") for host in (0, 1)} | {server_up(0, 1): values("0")},
        fires=[
            f'alertname="CertificateUnknown", server="k8s-cp-1", {TICKET}',
            f'alertname="ApiServerDown", server="k8s-cp-1", {TICKET}',
        ],
        clears=False,
    ),
    "one load balancer has not read an API server's certificate": Case(trouble={certificate(0, 1): values("_")}),
    "an API server came up, and its certificate is read ten minutes later": Case(
        trouble={certificate(host, 1): values(("_", 10 * MINUTE + 2), f"{365 * DAY}") for host in (0, 1)}
    ),
    "there is no API server yet": Case(
        trouble={certificate(host, server): values("_") for host in (0, 1) for server in (0, 1, 2)}
        | {server_up(host, server): values("0") for host in (0, 1) for server in (0, 1, 2)},
        fires=[f'alertname="AllApiServersDown", {PAGE}'],
        clears=False,
    ),
    "HAProxy is dead on the standby": Case(
        trouble=gone(1, 4 * MINUTE, "haproxy")
        | {state(1, "BACKUP"): during(1, 0, 4 * MINUTE), state(1, "FAULT"): during(0, 1, 4 * MINUTE)}
        | {active(1, "haproxy"): during(1, 0, 4 * MINUTE)},
        fires=[
            f'alertname="HaproxyDown", host="k8s-lb-1", {TICKET}',
            f'alertname="KeepalivedOut", host="k8s-lb-1", {TICKET}',
        ],
    ),
    "HAProxy was dead for a minute": Case(
        trouble=gone(1, MINUTE, "haproxy")
        | {state(1, "BACKUP"): during(1, 0, MINUTE), state(1, "FAULT"): during(0, 1, MINUTE)},
    ),
    "HAProxy crashes every minute on the standby, and each scrape finds it up": Case(
        trouble={
            started(1): values(("600", 20), *((f"{900 + 60 * turn}", MINUTE) for turn in range(10)), "1440"),
            restarts(1, "haproxy"): values(("1", 20), *((f"{2 + turn}", MINUTE) for turn in range(10)), "11"),
        },
        fires=[f'alertname="HaproxyCrashLooping", host="k8s-lb-1", {TICKET}'],
    ),
    "HAProxy was started five times, by `pulumi up` and a drill": Case(
        trouble={started(0): values(("600", 20), *((f"{900 + 15 * turn}", 1) for turn in range(4)), "960")},
    ),
    "the watchdog is stopped on one host": Case(
        trouble={active(1, "ha-api-watchdog"): during(1, 0, 5 * MINUTE)},
        fires=[f'alertname="ServiceDown", host="k8s-lb-1", unit="ha-api-watchdog", {TICKET}'],
    ),
    "a service was down for a minute, and others were restarted by `pulumi up` and a drill": Case(
        trouble={
            active(0, "ha-api-held-connections"): during(1, 0, MINUTE),
            restarts(0, "ha-api-held-connections"): values(("3", 20), "0"),
            restarts(0, "keepalived"): values(("1", 20), *((f"{2 + turn}", 1) for turn in range(4)), "6"),
        }
    ),
    "a service crashes as it starts, and scrapes find it up": Case(
        trouble={restarts(0, "ha-api-held-connections"): values(("1", 20), ("16+15", 6 * MINUTE), "391")},
        fires=[f'alertname="ServiceDown", host="k8s-lb-0", unit="ha-api-held-connections", {TICKET}'],
    ),
    "keepalived crashes every minute": Case(
        trouble={restarts(0, "keepalived"): values(("1", 20), *((f"{2 + turn}", MINUTE) for turn in range(10)), "11")},
        fires=[f'alertname="ServiceDown", host="k8s-lb-0", unit="keepalived", {TICKET}'],
    ),
    "connection tracking is nearly full": Case(
        trouble={tracked(0): during(200_000, 230_000, 5 * MINUTE)},
        fires=[f'alertname="ConnectionTrackingFull", host="k8s-lb-0", {PAGE}'],
    ),
    "connection tracking is nearly full for three scrapes": Case(trouble={tracked(0): during(200_000, 230_000, 3)}),
    "a file was edited": Case(
        trouble={differing(0): during(0, 1, 18 * MINUTE)},
        fires=[f'alertname="ConfigurationDrift", host="k8s-lb-0", {TICKET}'],
    ),
    "`pulumi up` has changed files and not proven them yet": Case(trouble={differing(0): during(0, 4, 12 * MINUTE)}),
    "a host has stopped writing its metrics": Case(
        trouble={written(0): values(("3600+15", 20), ("3900", 9 * MINUTE), f"{3600 + 15 * 57}+15")},
        fires=[f'alertname="HostMetricsStale", host="k8s-lb-0", {TICKET}'],
    ),
    "everything but the exporter dies on the holder, and the VIP moves": Case(
        trouble={
            written(0): values(("3600+15", 20), ("3900", 9 * MINUTE), f"{3600 + 15 * 57}+15"),
            holds(0): values(("1", 56), "0"),
            holds(1): values(("0", 20), "1"),
            became_master(1): values(("1", 20), "2"),
        },
        fires=[f'alertname="HostMetricsStale", host="k8s-lb-0", {TICKET}'],
    ),
    "everything but the exporter dies on the holder, and nobody takes the VIP": Case(
        trouble={
            VIP: during(1, 0, 9 * MINUTE),
            written(0): values(("3600+15", 20), ("3900", 9 * MINUTE), f"{3600 + 15 * 57}+15"),
        },
        fires=[f'alertname="NoHolder", {PAGE}', f'alertname="HostMetricsStale", host="k8s-lb-0", {TICKET}'],
    ),
    "a host was late to write its metrics": Case(
        trouble={written(0): values(("3600+15", 20), ("3900", 5 * MINUTE), f"{3600 + 15 * 41}+15")},
    ),
    "an exporter is dead": Case(
        trouble=gone(0, 8 * MINUTE, "node"),
        fires=[f'alertname="HostMetricsStale", host="k8s-lb-0", {TICKET}'],
    ),
    "an exporter keeps crashing, and one scrape in five succeeds": Case(
        trouble=flapping(0),
        fires=[f'alertname="HostMetricsStale", host="k8s-lb-0", {TICKET}'],
    ),
    "an exporter was restarted twice": Case(
        trouble={up("node", 0): values(("1", 20), ("0", 2), ("1", 6), ("0", 2), "1")}
    ),
    "a host has never written its metrics": Case(
        trouble={written(0): values("_")},
        fires=[f'alertname="HostMetricsStale", host="k8s-lb-0", {TICKET}'],
        clears=False,
    ),
    "a disk is nearly full": Case(
        trouble={disk(1): during(5e9, 9e8, 18 * MINUTE)},
        fires=[f'alertname="DiskAlmostFull", host="k8s-lb-1", {TICKET}'],
    ),
    "a disk was nearly full for ten minutes, and another is three quarters full": Case(
        trouble={disk(1): during(5e9, 9e8, 10 * MINUTE), disk(0): values("2.5e9")}
    ),
    "Prometheus was down for ten minutes": Case(
        trouble={name: away(name, 10 * MINUTE).replace("stale", "_") for name in healthy()}
    ),
    "another stack is in trouble": Case(
        trouble={
            name.replace('stack="prod"', 'stack="other"'): values("0")
            for name in healthy()
            if name.startswith("up") or "holds_vip" in name or "server_status" in name
        }
    ),
}


ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"]}


def judge(folder: Path, alert: str, cases: Mapping[str, Case], **changes: str) -> subprocess.CompletedProcess[str]:
    """Have promtool judge an alert's rule in those of the cases that differ in what the rule looks at."""
    firing = 'ALERTS{alertstate="firing"}'
    rule = ALERTS[alert]

    def looked_at(series: str) -> bool:
        return series.partition("{")[0] in rule["expr"]

    def judged(name: str, case: Case) -> dict[str, Any]:
        fires = [labels for labels in case.fires if f'alertname="{alert}"' in labels]
        samples = [{"labels": f'{{alertstate="firing", {labels}}}', "value": 1} for labels in fires]
        ever = {"expr": f"max_over_time({firing}[30m])", "exp_samples": samples}
        end = {"expr": f"max without () ({firing})", "exp_samples": [] if case.clears else samples}
        series = {key: values(f"{start}+{step}") for key, (start, step) in healthy().items()} | dict(case.trouble)
        return {
            "name": name,
            "interval": "15s",
            "input_series": [{"series": key, "values": value} for key, value in series.items() if looked_at(key)],
            "promql_expr_test": [{"eval_time": "29m30s", **expected} for expected in (ever, end)],
        }

    tests = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "15s",
        "tests": [
            judged(name, case) for name, case in cases.items() if not case.trouble or any(map(looked_at, case.trouble))
        ],
    }
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [rule | changes]}]}))
    (folder / "tests.yml").write_text(yaml.safe_dump(tests, sort_keys=False))
    return subprocess.run(
        [PROMTOOL, "test", "rules", "tests.yml"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_in_its_cases_and_in_no_other(tmp_path: Path, alert: str):
    judged = judge(tmp_path, alert, CASES)
    assert judged.returncode == 0, judged.stdout + judged.stderr


# For each alert that waits (`for`): a case in which it would fire without the wait.
SHORTER_THAN_THE_WAIT = {
    "NoHolder": "a failover, and the new holder has not updated its metrics yet",
    "VipUnreachable": "a failover that one scrape of the VIP and two of the hosts see",
    "TwoHolders": "a failover that one scrape of the VIP and two of the hosts see",
    "AllApiServersDown": "no API server is ready for three scrapes",
    "ApiServerDown": "an API server is down for four minutes",
    "ApiFull": "the API's port is full for three scrapes",
    "FrontendDown": "a frontend has no server for three scrapes",
    "FrontendServerDown": "a frontend's server is down for four minutes",
    "FrontendFull": "a frontend is full for three scrapes",
    "ApiServerCheckSlow": "an API server is down for one load balancer, whose checks of it are slow",
    "CertificateUnknown": "an API server came up, and its certificate is read ten minutes later",
    "LoadBalancerGone": "the standby is replaced: its exporter is back after four minutes, its HAProxy a minute later",
    "HaproxyDown": "the standby is replaced: its exporter is back after four minutes, its HAProxy a minute later",
    "KeepalivedOut": "HAProxy was dead for a minute",
    "ServiceDown": "a service was down for a minute, and others were restarted by `pulumi up` and a drill",
    "ConnectionTrackingFull": "connection tracking is nearly full for three scrapes",
    "ConfigurationDrift": "`pulumi up` has changed files and not proven them yet",
    "HostMetricsStale": "the standby is gone",
    "DiskAlmostFull": "a disk was nearly full for ten minutes, and another is three quarters full",
}
# By case: the alerts it guards against a part left out or another bound, with the pattern and its replacement.
BROKEN = {
    "nothing is wrong": [
        ("TwoHolders", "> 1", "> 0"),
        ("CertificateUnknown", "(?s)unless.*", ""),
        ("KeepalivedOut", "MASTER.BACKUP", "MASTER"),
        ("ApiFull", "0.9", "0.8"),
        ("FrontendFull", "0.9", "0.8"),
        ("ConnectionTrackingFull", "0.8", "0.7"),
    ],
    "keepalived is stopped on both": [
        ("VipUnreachable", "(?s)and.*", ""),
    ],
    "a load balancer is drained": [
        ("ServiceDown", "haproxy.keepalived", "haproxy"),
        ("KeepalivedOut", "(?s)unless.*", ""),
    ],
    "a load balancer was left drained over night": [
        ("DrainedForLong", "86400", "80000"),
    ],
    "a load balancer has been drained since yesterday": [
        ("DrainedForLong", "86400", "100000"),
    ],
    "a load balancer is drained, and the other one loses the VIP": [
        ("KeepalivedOut", r"(?s)and on \(stack\) \(.*", ")"),
    ],
    "a load balancer is drained, and everything but the exporter dies on the other one": [
        ("NoHolder", "(?s)^.*?unless", "sum by (stack) (ha_api_holds_vip) == 0 unless"),
        ("NoHolder", "45", "1200"),
        ("VipUnreachable", "45", "120"),
        ("KeepalivedOut", "45", "1200"),
        ("HostMetricsStale", "120", "1200"),
        ("HostMetricsStale", "node_time_seconds{.*}", "vector(time())"),
    ],
    "a load balancer is drained but keeps the VIP, because its keepalived was killed": [
        ("KeepalivedOut", r"unless on \(stack, host\) ha_api_drained.* != 0", ""),
    ],
    "the standby is gone": [
        ("HaproxyDown", "(?s)and.*", ""),
    ],
    "the VIP is held and does not answer": [
        ("NoHolder", "(?s)unless.*", ""),
    ],
    "the VIP moves three times in a quarter of an hour": [
        ("VipFlapping", "3.5", "2.5"),
    ],
    "the VIP moves four times in a quarter of an hour, once over a reboot": [
        ("VipFlapping", "3.5", "4.5"),
    ],
    "an API server is down for four minutes": [
        ("AllApiServersDown", "max", "min"),
    ],
    "an API server is down for one load balancer, whose checks of it are slow": [
        ("ApiServerDown", "min", "max"),
        ("ApiServerCheckSlow", "and on .* == 1", ""),
    ],
    "no API server is ready": [
        ("ApiServerDown", "(?s)unless.*", ""),
    ],
    "a frontend has no server": [
        ("FrontendServerDown", "(?s)unless.*", ""),
        ("FrontendDown", "ingress", "another"),
    ],
    "a frontend has no server on one load balancer": [
        ("FrontendDown", "max", "min"),
        ("FrontendServerDown", "min", "max"),
    ],
    "a frontend is nearly full": [
        ("FrontendFull", "0.9", "0.97"),
        ("FrontendFull", "max", "min"),
    ],
    "a frontend has nearly as many new connections as it may have": [
        ("FrontendFull", r"(?s)\bor\b.*", ""),
    ],
    "the API's port is nearly full": [
        ("ApiFull", "0.9", "0.97"),
        ("ApiFull", "max", "min"),
    ],
    "an API server is slow": [
        ("ApiServerCheckSlow", "0.2$", "0.3"),
        ("ApiServerCheckSlow", "max", "min"),
    ],
    "an API server is slow for three minutes, or not very slow": [
        ("ApiServerCheckSlow", "0.2$", "0.1"),
    ],
    "a certificate ends in four weeks": [
        ("CertificateExpiresSoon", "30", "20"),
        ("CertificateExpires", "7$", "29"),
    ],
    "a certificate ends in four weeks, and its server has been down since it was read": [
        ("CertificateExpiresSoon", "1h", "1m"),
    ],
    "a certificate ends in five weeks": [
        ("CertificateExpiresSoon", "30", "40"),
    ],
    "a certificate ends in six days": [
        ("CertificateExpiresSoon", "7 <= ", ""),
        ("CertificateExpires", "7$", "5"),
    ],
    "no load balancer has read an API server's certificate, and one does not reach the server": [
        ("CertificateUnknown", "max", "min"),
    ],
    "HAProxy crashes every minute on the standby, and each scrape finds it up": [
        ("HaproxyCrashLooping", "> 5", "> 10"),
        ("ServiceDown", 'unit!="haproxy", ', ""),
    ],
    "HAProxy was started five times, by `pulumi up` and a drill": [
        ("HaproxyCrashLooping", "> 5", "> 4"),
    ],
    "HAProxy is dead on the standby": [
        ("ServiceDown", "haproxy.keepalived", "keepalived"),
    ],
    "a service was down for a minute, and others were restarted by `pulumi up` and a drill": [
        ("ServiceDown", "5.5", "4.5"),
    ],
    "a service crashes as it starts, and scrapes find it up": [
        ("ServiceDown", r"(?s)\bor\b.*", ""),
    ],
    "the watchdog is stopped on one host": [
        ("ServiceDown", r"(?s).*\bor\b", ""),
    ],
    "keepalived crashes every minute": [
        ("ServiceDown", "5.5", "10.5"),
        ("ServiceDown", 'unit!="haproxy"', 'unit!~"haproxy|keepalived"'),
    ],
    "connection tracking is nearly full": [
        ("ConnectionTrackingFull", "0.8", "0.9"),
    ],
    "a file was edited": [
        ("ConfigurationDrift", "> 0", "> 1"),
    ],
    "everything but the exporter dies on the holder, and the VIP moves": [
        ("TwoHolders", "45", "120"),
    ],
    "an exporter is dead": [
        ("LoadBalancerGone", "max", "min"),
        ("HostMetricsStale", r"(?s)\bor\b.*", ""),
    ],
    "an exporter keeps crashing, and one scrape in five succeeds": [
        ("HostMetricsStale", r"and on \(stack, host\) avg_over_time.*", ""),
    ],
    "an exporter was restarted twice": [
        ("HostMetricsStale", "0.5", "0.97"),
    ],
    "a disk is nearly full": [
        ("DiskAlmostFull", "0.1", "0.05"),
    ],
    "a disk was nearly full for ten minutes, and another is three quarters full": [
        ("DiskAlmostFull", "0.1", "0.3"),
    ],
}


def broken_rules() -> Iterator[Any]:
    """As the parameters of a test: a case, an alert, and what is changed in its rule."""

    def broken(name: str, alert: str, key: str, old: str, new: str) -> Any:
        whole = ALERTS[alert][key].strip()
        changed = re.sub(old, new, whole, count=1)
        assert changed != whole
        return pytest.param(name, alert, {key: changed}, id=f"{alert}-{key}-{old}-{new}")

    for alert, rule in ALERTS.items():
        fires = next(name for name, case in CASES.items() if f'alertname="{alert}"' in "".join(case.fires))
        yield broken(fires, alert, "expr", "(?s).*", "vector(0) > 1")
        if "for" in rule:
            yield broken(SHORTER_THAN_THE_WAIT[alert], alert, "for", ".*", "0s")
    for name, guarded in BROKEN.items():
        for alert, old, new in guarded:
            yield broken(name, alert, "expr", old, new)


@pytest.mark.parametrize(("name", "alert", "changed"), list(broken_rules()))
def test_a_broken_rule_fails_in_the_case_that_guards_it(
    tmp_path: Path, name: str, alert: str, changed: Mapping[str, str]
):
    judged = judge(tmp_path, alert, {name: CASES[name]}, **changed)
    printed = judged.stdout + judged.stderr
    assert judged.returncode != 0
    assert "FAILED" in printed
    assert "parse error" not in printed


@pytest.mark.parametrize("stack", ["prod", """org/"it's" {{ $x }} `a` #: \\ é"""])
def test_prometheus_accepts_the_generated_files(tmp_path: Path, stack: str):
    for name, text in monitoring_files(replace(STACK, stack=stack)).items():
        (tmp_path / name).write_text(text)
    checked = subprocess.run(
        [PROMTOOL, "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout


def test_prometheus_accepts_every_query_of_the_dashboard(tmp_path: Path):
    """As recording rules, which promtool reads; Grafana fills in the interval."""
    panels = json.loads(monitoring_files(STACK)["dashboard.json"])["panels"]
    queries = [target["expr"].replace("$__rate_interval", "1m") for panel in panels for target in panel["targets"]]
    assert len(queries) > 20
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    subprocess.run([PROMTOOL, "check", "rules", "rules.yml"], cwd=tmp_path, check=True)


HOST = LoadBalancerHost(
    name="k8s-lb-0",
    address=IPv4Address("198.51.100.11"),
    peer_address=IPv4Address("198.51.100.12"),
    interface="ens3",
    pair=LoadBalancerPair(
        vip=IPv4Address("198.51.100.200"),
        api_servers=(("k8s-cp-0", IPv4Address("198.51.100.21")),),
        vrrp_router_id=51,
        timers=STACK.timers,
    ),
)
# A service manager that knows no units of monitoring, or starts none, and does all else.
SYSTEMCTL = 'systemctl() {{ echo "systemctl $*"; case "$*" in {refused}) return 1 ;; esac; }}'


@pytest.mark.parametrize("refused", ["*enable*exporter*", "*start*exporter*"])
def test_monitoring_that_does_not_start_is_reported_and_rolls_nothing_back(refused: str):
    lines = configure_script(HOST, load_balancer_files(HOST)).splitlines()
    assert lines.pop() == "main </dev/null"
    changed = " ".join(file.path for file in load_balancer_files(HOST))
    others = "sysctl() { :; }; firewall-cmd() { :; }"
    script = [
        *lines,
        SYSTEMCTL.format(refused=refused),
        others,
        f'todo=" $(consequences {changed} | xargs) "; activate && echo activated',
    ]
    result = subprocess.run(["bash", "-s"], input="\n".join(script), capture_output=True, text=True, check=False)
    *earlier, report, activated = result.stdout.splitlines()
    assert (result.returncode, result.stderr, activated) == (0, "", "activated")
    assert "metrics" in report
    assert "systemctl status prometheus-node-exporter" in report
    # Last, and waited for by nobody.
    assert not any("exporter" in line for line in earlier[: earlier.index("systemctl restart ha-api-watchdog")])
    assert [line for line in earlier if "restart" in line and "--no-block" not in line] == [
        "systemctl restart ha-api-watchdog",
        "systemctl restart ha-api-held-connections",
    ]
