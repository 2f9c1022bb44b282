"""A real Prometheus with the generated files watches a real pair: each fault raises its alerts, no others, and clears.

Prometheus scrapes every second here, and every rule's `for` is two seconds: the test rewrites both in its own copy of
the files. What the real ones let pass is judged in tests/golden/test_monitoring.py, where minutes cost nothing.
"""

import json
import re
import shlex
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.lab.progress import console
from dev.standin.certificate import self_signed
from dev.standin.hosts import FOLDER, UNIT
from model.topology import API_PORT, METRICS_PORT
from operate.hosts.on_host import DRAINED
from operate.hosts.pair import wait_for
from operate.stack.files import ROOT
from tests.e2e.harness import System

PROMETHEUS = ROOT / "build/prometheus/usr/bin/prometheus"
SERVER = "watched-cp-0"
FOR_SECONDS = 2
# Long enough for each rule: two scrapes, and its `for`.
EVERY_RULE_SECONDS = FOR_SECONDS + 4
# An alert, and the host or server that it is about; None where it is about the pair.
Alerts = set[tuple[str, str | None]]


class Prometheus:
    """The running Prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 our own, on loopback
            return json.load(answer)["data"]

    def answers(self) -> bool:
        try:
            self.ask("targets")
        except OSError:
            return False
        return True

    def firing(self) -> Alerts:
        alerts = [alert for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"]
        return {
            (labels["alertname"], labels.get("host") or labels.get("server"))
            for labels in (alert["labels"] for alert in alerts)
        }


class Monitored:
    """The pair under test, and the Prometheus that watches it."""

    def __init__(self, system: System, prometheus: Prometheus, files: Path) -> None:
        self.system, self.prometheus, self.files = system, prometheus, files
        self.outputs, self.pair, self.stand_ins = system.outputs, system.pair, system.stand_ins()
        self.run, self.write = system.do, system.write

    @property
    def hosts(self) -> list[str]:
        return [*self.outputs.load_balancers]

    def holder_and_standby(self) -> tuple[str, str]:
        holder = self.pair.holder()
        return holder, self.pair.peer_of(holder)

    def look(self, names: Iterable[str]) -> None:
        """Have load balancers look at themselves now, and not in up to 15 s."""
        self.run(names, "sudo systemctl start ha-api-metrics.service")

    def drop(self, name: str, rule: str) -> None:
        """Have a host's kernel drop packets. Debian's firewalld comes with nft's library, not with its command."""
        chains = (
            f"add chain inet fault {hook} {{ type filter hook {hook} priority -300; }}\n"
            f"add rule inet fault {hook} {rule} drop\n"
            for hook in ("input", "output")
        )
        self._nft(name, "add table inet fault\n" + "".join(chains))

    def pass_again(self, name: str) -> None:
        self._nft(name, "delete table inet fault")

    def _nft(self, name: str, ruleset: str) -> None:
        program = "import sys, nftables; sys.exit(nftables.Nftables().cmd(sys.argv[1])[0])"
        self.run([name], f"sudo python3 -c {shlex.quote(program)} {shlex.quote(ruleset)}")

    @contextmanager
    def raises(
        self, alerts: Alerts, *, looking: Iterable[str] | None = None, undo: Callable[[], object] | None = None
    ) -> Generator[None]:
        """What is done inside raises these alerts and no others. Undone, whatever becomes of it, it leaves none."""
        try:
            yield
            began = time.monotonic()
            self.look(self.hosts if looking is None else looking)
            wait_for(f"{alerts} fire, and nothing else", lambda: self.prometheus.firing() == alerts, 60)
            console.print(f"{sorted(name for name, _ in alerts)}: fired after {time.monotonic() - began:.0f} s")
        finally:
            if undo:
                undo()
                self.clears()

    def clears(self, seconds: float = 60) -> None:
        """Nothing fires any more."""
        began = time.monotonic()
        self.look(self.hosts)
        wait_for("no alert fires", lambda: not self.prometheus.firing(), seconds)
        console.print(f"cleared after {time.monotonic() - began:.0f} s")


@pytest.fixture(scope="module")
def monitored(watched: System, tmp_path_factory: pytest.TempPathFactory) -> Generator[Monitored]:
    files = tmp_path_factory.mktemp("monitoring")
    # So that Prometheus begins without having seen a certificate: hosts look again ten minutes after the last time.
    watched.do(watched.outputs.load_balancers, "sudo truncate --size 0 /run/ha-api/ha-api-certificates.prom")
    watched.ha("monitoring", "--output", files)
    for name, old, new in (
        ("prometheus.yml", "_interval: 15s", "_interval: 1s"),
        ("rules.yml", r"for: \d+m", f"for: {FOR_SECONDS}s"),
    ):
        text, count = re.subn(old, new, (files / name).read_text())
        assert count
        (files / name).write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (files / "prometheus.log").open("w") as log, subprocess.Popen(
        [
            PROMETHEUS, f"--config.file={files / 'prometheus.yml'}", f"--storage.tsdb.path={files / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        cwd=files, stdout=log, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            prometheus = Prometheus(port)
            wait_for("Prometheus answers", prometheus.answers, 30)
            yield Monitored(watched, prometheus, files)
        finally:
            process.terminate()
    assert watched.problems() == []


def test_no_host_has_seen_a_certificate(monitored: Monitored):
    with monitored.raises({("CertificateUnknown", SERVER)}):
        pass


def test_every_target_is_up_and_nothing_fires(monitored: Monitored):
    monitored.run(monitored.hosts, "sudo rm -f /run/ha-api/ha-api-certificates.prom")
    monitored.look(monitored.hosts)
    targets: list[Any] = []

    def scraped() -> bool:
        targets[:] = monitored.prometheus.ask("targets")["activeTargets"]
        return {target["health"] for target in targets} == {"up"}

    wait_for("every target is up", scraped, 30)
    assert sorted((target["labels"]["job"], target["labels"]["host"]) for target in targets) == [
        *(("ha-api-haproxy", host) for host in monitored.hosts),
        *(("ha-api-node", host) for host in monitored.hosts),
        ("ha-api-vip", "the VIP"),
    ]
    time.sleep(EVERY_RULE_SECONDS)
    assert monitored.prometheus.firing() == set()


def test_every_metric_in_a_query_exists(monitored: Monitored):
    rules = yaml.safe_load((monitored.files / "rules.yml").read_text())
    panels = json.loads((monitored.files / "dashboard.json").read_text())["panels"]
    queries = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    queries += [target["expr"] for panel in panels for target in panel["targets"]]
    named = {name for query in queries for name in re.findall(r"\b((?:haproxy|node|ha_api|up)\w*)\{", query)}
    assert len(named) > 20
    there = set(monitored.prometheus.ask("label/__name__/values"))
    assert named - there == set()


def test_each_host_checks_itself_every_15_seconds(monitored: Monitored):
    query = 'node_textfile_mtime_seconds{file=~".*ha-api[.]prom"}'

    def looks() -> dict[str, float]:
        results = monitored.prometheus.ask("query", query=query)["result"]
        return {result["metric"]["host"]: float(result["value"][1]) for result in results}

    before: dict[str, float] = {}

    def known() -> bool:
        before.update(looks())  # without a host whose last scrape was late
        return before.keys() == {*monitored.hosts}

    wait_for("both hosts have looked", known, 10)
    # By itself, and as late as the alerts allow for: three turns.
    wait_for("both hosts have looked again", lambda: all(looks().get(it, 0) > before[it] for it in before), 45)


def test_the_only_api_server_stops(monitored: Monitored):
    with monitored.raises({("AllApiServersDown", None)}, undo=monitored.stand_ins.start):
        monitored.stand_ins.stop()


@pytest.mark.extended
def test_one_load_balancer_does_not_reach_an_api_server(monitored: Monitored):
    _, standby = monitored.holder_and_standby()
    with monitored.raises({("ApiServerDown", SERVER)}, undo=lambda: monitored.pass_again(standby)):
        monitored.drop(standby, f"ip daddr {monitored.outputs.control_plane[SERVER]} tcp dport {API_PORT}")


def test_keepalived_is_stopped_on_both(monitored: Monitored):
    def start_one_after_the_other() -> None:
        for host in monitored.hosts:
            monitored.run([host], "sudo systemctl start keepalived")
            monitored.pair.holder()

    out = {("KeepalivedOut", host) for host in monitored.hosts}
    with monitored.raises({("NoHolder", None), *out}, undo=start_one_after_the_other):
        monitored.run(monitored.hosts, "sudo systemctl stop keepalived")


@pytest.mark.extended
def test_a_load_balancer_is_drained(monitored: Monitored):
    _, standby = monitored.holder_and_standby()
    with monitored.raises({("DrainedForLong", standby)}, undo=lambda: monitored.system.ha("resume", standby)):
        monitored.system.ha("drain", standby, "--reason", "a test", "--yes")
        monitored.look(monitored.hosts)
        time.sleep(EVERY_RULE_SECONDS)
        assert monitored.prometheus.firing() == set()
        monitored.run([standby], f"sudo touch --date '25 hours ago' {DRAINED}")


def test_the_load_balancers_do_not_hear_each_other(monitored: Monitored):
    _, standby = monitored.holder_and_standby()
    with monitored.raises({("TwoHolders", None)}, undo=lambda: monitored.pass_again(standby)):
        monitored.drop(standby, "ip protocol 112")
        time.sleep(2)


@pytest.mark.extended
def test_the_vip_drops_all_clients(monitored: Monitored):
    holder, _ = monitored.holder_and_standby()
    with monitored.raises({("VipUnreachable", None)}, undo=lambda: monitored.pass_again(holder)):
        monitored.drop(holder, f"ip daddr {monitored.outputs.vip} tcp dport {METRICS_PORT}")


@pytest.mark.extended
def test_haproxy_is_stopped_on_the_standby(monitored: Monitored):
    _, standby = monitored.holder_and_standby()

    def start() -> None:
        monitored.run([standby], "sudo systemctl start haproxy")
        time.sleep(2)

    with monitored.raises({("HaproxyDown", standby), ("KeepalivedOut", standby)}, undo=start):
        monitored.run([standby], "sudo systemctl stop haproxy")
        time.sleep(1)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("unit", "alert"),
    [("prometheus-node-exporter", "HostMetricsStale"), ("ha-api-held-connections", "ServiceDown")],
)
def test_a_service_is_stopped(monitored: Monitored, unit: str, alert: str):
    _, standby = monitored.holder_and_standby()
    start = partial(monitored.run, [standby], f"sudo systemctl start {unit}")
    with monitored.raises({(alert, standby)}, undo=start):
        monitored.run([standby], f"sudo systemctl stop {unit}")


@pytest.mark.extended
def test_a_file_is_edited(monitored: Monitored):
    holder, _ = monitored.holder_and_standby()
    file = "etc/sysctl.d/60-ha-api.conf"
    put_back = partial(monitored.run, [holder], f"sudo cp -a /var/lib/ha-api/proven/{file} /{file}")
    with monitored.raises({("ConfigurationDrift", holder)}, undo=put_back):
        monitored.run([holder], f"echo '# by hand' | sudo tee --append /{file}")


@pytest.mark.extended
def test_a_disk_is_nearly_full(monitored: Monitored):
    _, standby = monitored.holder_and_standby()
    fill = "sudo fallocate --length $(($(df --output=avail --block-size=1 / | tail -n 1) * 9 / 10)) /fill"
    free = partial(monitored.run, [standby], "sudo rm -f /fill")
    with monitored.raises({("DiskAlmostFull", standby)}, undo=free):
        monitored.run([standby], fill)


@pytest.mark.parametrize(
    ("days", "alert"),
    [
        (20, "CertificateExpiresSoon"),
        pytest.param(5, "CertificateExpires", marks=pytest.mark.extended),
    ],
)
def test_a_certificate_expires_soon(monitored: Monitored, days: int, alert: str):
    with monitored.raises({(alert, SERVER)}, undo=lambda: install_certificate(monitored, 365)):
        install_certificate(monitored, days)


def install_certificate(monitored: Monitored, days: int) -> None:
    address = monitored.outputs.control_plane[SERVER]
    pair = self_signed(SERVER, [address, monitored.outputs.vip], timedelta(days=days))
    monitored.write(SERVER, f"{FOLDER}/tls.crt", pair.certificate.decode())
    monitored.write(SERVER, f"{FOLDER}/tls.key", pair.key.decode())
    monitored.run([SERVER], f"sudo systemctl restart {UNIT}")
    # The one before it has ended by now.
    ask = shlex.quote(f"import ssl; ssl.get_server_certificate(('{address}', {API_PORT}))")
    monitored.run([SERVER], f"for _ in $(seq 100); do python3 -c {ask} 2>&1 && exit; sleep 0.1; done; exit 1")
    # Not in up to ten minutes, but now.
    monitored.run(monitored.hosts, "sudo rm /run/ha-api/ha-api-certificates.prom")


def test_an_instance_is_shut_down(monitored: Monitored):
    holder, standby = monitored.holder_and_standby()

    def start() -> None:
        monitored.pair.start(standby)
        monitored.pair.wait_until_whole()

    with monitored.raises({("LoadBalancerGone", standby)}, looking=[holder], undo=start):
        monitored.pair.stop(standby)


@pytest.mark.extended
def test_the_vip_flaps(monitored: Monitored):
    """Every move is counted, also between two looks. The last test, for it looks back a quarter of an hour."""
    with monitored.raises({("VipFlapping", None)}):
        for _ in range(4):
            holder, _ = monitored.holder_and_standby()
            monitored.run([holder], "sudo systemctl stop keepalived && sleep 1 && sudo systemctl start keepalived")
            time.sleep(2)
