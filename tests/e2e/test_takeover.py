"""A pair that was built by hand, as the blog builds it, hands its VIP over to a stack.

The tests are one story and run in the order of the file.
"""

import asyncio
import os
import signal
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import openstack
import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dev.lab.progress import console
from dev.lab.settings import LabSettings
from dev.lab_stack import CLOUD, USER, Stack, ssh_key
from dev.standin.hosts import UNIT, StandIns
from model.rendering import user_data
from model.topology import API_PORT
from operate.hosts.pair import wait_for
from operate.hosts.ssh import Access, on_all, output
from operate.probe import Probe
from operate.stack.engine import PULUMI
from operate.stack.files import ROOT
from program.holder import answering_load_balancer
from tests.e2e.harness import Ended, ha, run, start
from tests.e2e.instances import host_key

CLUSTER = "takeover"
BY_HAND = "blog"
SEED = ROOT / "dev" / "bench" / "peers" / "seed"
# An address of the subnet outside of Neutron's pool, as "one of the unused IP addresses of the network prefix" is.
VIP = str(LabSettings.from_environ().instance_network[230])
OTHER = str(LabSettings.from_environ().instance_network[231])
LOAD_BALANCERS = [f"{BY_HAND}-lb-1", f"{BY_HAND}-lb-2"]
API_SERVER = f"{BY_HAND}-api-1"
# A planned move costs the requests that are under way; the bound is generous, for a busy machine.
LONGEST_GAP_SECONDS = 1.0
# garp_master_refresh of the old pair on the way back.
ANNOUNCEMENT_SECONDS = 1.0


class ByHand:
    """Two load balancers and an API server, made with the cloud's API and a shell; `hosts` are addresses by name."""

    def __init__(self) -> None:
        self.cloud: Any = openstack.connect(cloud=CLOUD)
        self.hosts: dict[str, str] = {}
        self.access: Access

    def make(self) -> None:
        """Launch and set up everything; the VIP answers afterwards."""
        cloud = self.cloud
        network, host = cloud.network.find_network("provider"), f"{LabSettings.from_environ().instance_gateway}/32"
        cloud.compute.create_keypair(name=BY_HAND, public_key=ssh_key().public)
        groups = {role: cloud.network.create_security_group(name=f"{BY_HAND}-{role}") for role in ("lb", "api")}
        for role, group in groups.items():
            for source in ({"remote_ip_prefix": host}, {"remote_group_id": groups["lb"].id}):
                self.allow(group.id, port=API_PORT, **source)
            self.allow(group.id, port=22, remote_ip_prefix=host)
            if role == "lb":
                self.allow(group.id, protocol="112", remote_group_id=group.id)
        keys = {name: host_key() for name in (*LOAD_BALANCERS, API_SERVER)}
        building = [
            cloud.create_server(
                name,
                image="debian-12",
                flavor="lab.small",
                network=network.id,
                key_name=BY_HAND,
                security_groups=[f"{BY_HAND}-api" if name == API_SERVER else f"{BY_HAND}-lb"],
                userdata=user_data(*key),
            )
            for name, key in keys.items()
        ]
        known_hosts: list[str] = []
        for server in [cloud.wait_for_server(it, timeout=300) for it in building]:
            _, public = keys[server.name]
            (port,) = cloud.network.ports(device_id=server.id)
            address = port.fixed_ips[0]["ip_address"]
            self.hosts[server.name] = address
            known_hosts.append(f"{address} {public}\n")
            if server.name in LOAD_BALANCERS:
                # With the prefix, as the blog enters it.
                cloud.network.update_port(port, allowed_address_pairs=[{"ip_address": f"{VIP}/24"}])
        self.access = Access(user=USER, private_key=ssh_key().private, known_hosts="".join(known_hosts), patience=120)
        StandIns(self.access, {API_SERVER: self.hosts[API_SERVER]}, VIP).install()
        on_all([self.hosts[name] for name in LOAD_BALANCERS], self._set_up)

    def allow(self, group: str, *, protocol: str = "tcp", port: int | None = None, **source: str) -> None:
        """A rule of a security group."""
        self.cloud.network.create_security_group_rule(
            security_group_id=group,
            direction="ingress",
            ether_type="IPv4",
            protocol=protocol,
            port_range_min=port,
            port_range_max=port,
            **source,
        )

    async def _set_up(self, address: str) -> None:
        async with self.access.connect(address) as host:
            await output(host, "cloud-init status --wait >/dev/null || true")
            packages = "curl firewalld haproxy keepalived netbase netcat-openbsd"
            environment = "sudo DEBIAN_FRONTEND=noninteractive apt-get -q -y"
            command = f"{environment} update && {environment} install --no-install-recommends {packages}"
            await asyncio.wait_for(host.run(command, check=True), 300)
            rich_rule = 'rule family="ipv4" destination address="224.0.0.18" protocol value="112" accept'
            await output(host, f"sudo firewall-cmd --permanent --zone=public --add-rich-rule='{rich_rule}'")
            await output(host, f"sudo firewall-cmd --permanent --zone=public --add-port={API_PORT}/tcp")
            await output(host, "sudo firewall-cmd --reload")
            for path, text in self._files(first=address == self.hosts[LOAD_BALANCERS[0]]).items():
                mode = "0755" if path.endswith(".sh") else "0644"
                await output(host, f"sudo install -D -m {mode} /dev/stdin /{path}", text.encode())
            await output(host, "sudo sysctl --quiet --load=/etc/sysctl.d/99-sysctl.conf")
            await output(host, "sudo systemctl enable --quiet haproxy keepalived")
            await output(host, "sudo systemctl restart haproxy keepalived")

    def _files(self, *, first: bool) -> dict[str, str]:
        templates = Environment(loader=FileSystemLoader(SEED), undefined=StrictUndefined, autoescape=False)  # noqa: S701
        host = SimpleNamespace(interface="eth0")
        pair = SimpleNamespace(vip=VIP, api_servers=[("api-server1", self.hosts[API_SERVER])])
        paths = [path.relative_to(SEED) for path in SEED.rglob("*") if path.is_file()]
        return {
            str(path).removesuffix(".j2"): templates.get_template(str(path)).render(
                host=host, pair=pair, first=first, api_port=API_PORT
            )
            for path in paths
        }

    def run(self, name: str, command: str) -> str:
        """What a command prints on a host."""
        return asyncio.run(self.access.run(self.hosts[name], command))

    def pairs(self) -> dict[str, list[str]]:
        """The addresses that each load balancer's port may answer for besides its own."""
        found: dict[str, list[str]] = {}
        for name in LOAD_BALANCERS:
            (port,) = self.cloud.network.ports(fixed_ips=f"ip_address={self.hosts[name]}")
            found[name] = [pair["ip_address"] for pair in port.allowed_address_pairs]
        return found

    def reserve(self) -> Any:
        """A port that reserves the VIP; in the blog nothing does.

        OVN itself answers for the address of an unbound port, unless ports have that exact address as their pair.
        """
        for name in LOAD_BALANCERS:
            (port,) = self.cloud.network.ports(fixed_ips=f"ip_address={self.hosts[name]}")
            self.cloud.network.update_port(port, allowed_address_pairs=[{"ip_address": VIP}])
        subnet = self.cloud.network.find_subnet("provider-v4")
        place = {"subnet_id": subnet.id, "ip_address": VIP}
        return self.cloud.network.create_port(name=f"{BY_HAND}-vip", network_id=subnet.network_id, fixed_ips=[place])

    def delete(self) -> None:
        """Delete all of it, in part or in whole."""
        cloud = self.cloud
        for server in [*cloud.compute.servers(name=f"^{BY_HAND}-")]:
            cloud.delete_server(server.id, wait=True)
        for port in [*cloud.network.ports(name=f"{BY_HAND}-vip")]:
            cloud.network.delete_port(port)
        for role in ("lb", "api"):
            for group in [*cloud.network.security_groups(name=f"{BY_HAND}-{role}")]:
                for rule in cloud.network.security_group_rules(remote_group_id=group.id):
                    cloud.network.delete_security_group_rule(rule)
        for role in ("lb", "api"):
            for group in [*cloud.network.security_groups(name=f"{BY_HAND}-{role}")]:
                cloud.network.delete_security_group(group)
        cloud.delete_keypair(BY_HAND)


class Takeover:
    """The pair that was built by hand, and the stack that takes over from it."""

    def __init__(self) -> None:
        self.by_hand = ByHand()
        self.config: dict[str, object] = {"clusterName": CLUSTER, "controlPlaneCount": 0, "workerCount": 0}
        self.stack = Stack("lab-takeover", self.config)

    def ha(self, *arguments: str, stdin: str = "") -> Ended:
        """`./ha` on the stack."""
        return ha(*arguments, stack=self.stack.name, stdin=stdin)

    def set_vip(self, vip: str) -> None:
        """`pulumi config set vip`."""
        self.config["vip"] = vip
        done = run(PULUMI, "config", "set", "--stack", self.stack.name, "vip", vip)
        assert done.returncode == 0, done.stderr

    def control_plane(self) -> tuple[str, str]:
        """Which instance the API server is, and which of its boots and processes runs."""
        (server,) = self.by_hand.cloud.compute.servers(name=f"^{API_SERVER}$")
        show = f"systemctl show --property=MainPID,ActiveEnterTimestamp {UNIT}; cat /proc/sys/kernel/random/boot_id"
        return server.id, self.by_hand.run(API_SERVER, show)


@pytest.fixture(scope="module")
def takeover() -> Generator[Takeover]:
    takeover = Takeover()
    takeover.stack.destroy(refresh=True)
    takeover.by_hand.delete()
    takeover.by_hand.make()
    api_server = takeover.by_hand.hosts[API_SERVER]
    takeover.config["apiServers"] = [api_server]
    takeover.stack.up(takeover.config)
    yield takeover
    takeover.stack.destroy()
    takeover.by_hand.delete()


def refused(takeover: Takeover, *names: str, because: str) -> None:
    """It ends with status 2 and the reason, and nobody lost anything."""
    pairs = takeover.by_hand.pairs()
    ended = takeover.ha("takeover", *names, "--yes")
    assert ended.returncode == 2
    assert because in ended.words
    assert takeover.by_hand.pairs() == pairs


def test_without_a_configured_vip_nothing_is_taken_over(takeover: Takeover):
    refused(takeover, *LOAD_BALANCERS, because="vip is not set")


def test_a_pair_without_an_api_server_is_refused(takeover: Takeover):
    takeover.set_vip(VIP)
    group = takeover.stack.outputs().security_group_ids["loadBalancers"]
    refused(takeover, *LOAD_BALANCERS, because=f"has no API server. Admit the group {group}")
    (theirs,) = takeover.by_hand.cloud.network.security_groups(name=f"{BY_HAND}-api")
    takeover.by_hand.allow(theirs.id, port=API_PORT, remote_group_id=group)
    wait_for("the stack's pair is whole", lambda: takeover.ha("status").returncode == 0, 60)


@pytest.mark.extended  # tests/unit/operate/takeover has all refusals, with a simulated Neutron
@pytest.mark.parametrize(
    ("names", "because"),
    [
        ([LOAD_BALANCERS[0], "blog-lb-3"], "blog-lb-3: the cloud has no such instance"),
        ([API_SERVER, *LOAD_BALANCERS], f"none of its ports on this network may hold {VIP}"),
        ([f"{CLUSTER}-lb-0"], "is one of the stack's own load balancers"),
        ([LOAD_BALANCERS[0]], f"may hold {VIP} too"),
    ],
)
def test_wrong_names_are_refused(takeover: Takeover, names: list[str], because: str):
    refused(takeover, *names, because=because)


def test_a_wrong_vip_is_refused(takeover: Takeover):
    takeover.set_vip(OTHER)
    refused(takeover, *LOAD_BALANCERS, because="no host answers for it")
    takeover.set_vip(VIP)


@pytest.fixture(scope="module")
def reserving(takeover: Takeover) -> Any:
    """The port that reserves the VIP from here on."""
    return takeover.by_hand.reserve()


def addresses(takeover: Takeover, port: Any) -> list[str]:
    """A port's addresses, as they are now."""
    return [it["ip_address"] for it in takeover.by_hand.cloud.network.get_port(port.id).fixed_ips]


@pytest.mark.extended
def test_other_pending_changes_are_refused(takeover: Takeover):
    done = run(PULUMI, "config", "set", "--stack", takeover.stack.name, "failoverProfile", "fast")
    assert done.returncode == 0, done.stderr
    refused(takeover, *LOAD_BALANCERS, because="has changes besides the VIP to apply")
    run(PULUMI, "config", "rm", "--stack", takeover.stack.name, "failoverProfile")


@pytest.mark.extended
def test_refusing_the_prompt_changes_nothing(takeover: Takeover, reserving: Any):
    pairs, vip = takeover.by_hand.pairs(), takeover.stack.outputs().vip
    ended = takeover.ha("takeover", *LOAD_BALANCERS, stdin="n\n")
    assert ended.returncode != 0
    assert VIP in ended.stdout
    assert "openstack port set --allowed-address" in ended.stdout
    assert takeover.by_hand.pairs() == pairs
    assert addresses(takeover, reserving) == [VIP]
    (own,) = takeover.by_hand.cloud.network.ports(name=f"{CLUSTER}-vip")
    assert addresses(takeover, own) == [vip]


@pytest.mark.extended
def test_an_interrupted_run_is_undone(takeover: Takeover, reserving: Any):
    pairs, vip = takeover.by_hand.pairs(), takeover.stack.outputs().vip
    command = (ROOT / "ha", "takeover", "--stack", takeover.stack.name, *LOAD_BALANCERS, "--yes")
    with start(*command) as first:
        wait_for(
            "the stack's pair answers on the VIP",
            lambda: answering_load_balancer(VIP) is not None or first.poll() is not None,
            300,
        )
        assert first.poll() is None, first.communicate()
        os.killpg(first.pid, signal.SIGINT)
        output, _ = first.communicate()
    assert first.returncode != 0
    assert "undone: the stack's VIP" in output
    assert "run these commands in this order" not in output, output
    assert takeover.by_hand.pairs() == pairs
    assert addresses(takeover, reserving) == [VIP]
    assert takeover.stack.outputs().vip == vip
    assert answering_load_balancer(vip) in takeover.stack.outputs().load_balancers
    # As the output says: without it, clients may send to the stack's pair until their ARP entries expire.
    show = f"ip -oneline -4 address show to {VIP}/32"
    (holder,) = (name for name in LOAD_BALANCERS if takeover.by_hand.run(name, show))
    takeover.by_hand.run(holder, "sudo systemctl restart keepalived")
    with Probe(f"https://{VIP}:{API_PORT}", timeout=2, limit=60) as probe:
        wait_for("the pair that was built by hand serves", lambda: probe.steady >= 2, 30)


@pytest.mark.measures
def test_the_vip_is_taken_over_without_an_outage(takeover: Takeover, reserving: Any):
    control_plane = takeover.control_plane()
    with Probe(f"https://{VIP}:{API_PORT}", timeout=2, limit=600) as probe:
        wait_for("the pair that was built by hand serves", lambda: probe.steady >= 2, 30)
        ended = takeover.ha("takeover", *LOAD_BALANCERS, "--yes")
        probe.mark("done")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        wait_for("all is answered", lambda: probe.steady >= 2, 30)
    console.print(probe.report().render())
    report = probe.report()
    assert report.longest_gap <= LONGEST_GAP_SECONDS + report.longest_stall
    assert takeover.by_hand.pairs() == {name: [] for name in LOAD_BALANCERS}
    assert addresses(takeover, reserving) == []
    assert takeover.stack.outputs().vip == VIP
    assert answering_load_balancer(VIP) in takeover.stack.outputs().load_balancers
    assert takeover.control_plane() == control_plane


def test_the_stack_is_whole_and_has_no_changes(takeover: Takeover):
    status = takeover.ha("status")
    assert status.returncode == 0, status.stdout + status.stderr
    assert takeover.stack.preview(takeover.config, expect_no_changes=True) == []


@pytest.mark.extended
@pytest.mark.measures
def test_the_old_pair_can_take_the_vip_back(takeover: Takeover):
    network, ours = takeover.by_hand.cloud.network, takeover.stack.outputs().load_balancers
    with Probe(f"https://{VIP}:{API_PORT}", timeout=2, limit=300) as probe:
        for name in LOAD_BALANCERS:
            (port,) = network.ports(fixed_ips=f"ip_address={takeover.by_hand.hosts[name]}")
            network.update_port(port, allowed_address_pairs=[{"ip_address": f"{VIP}/24"}])
        show = f"ip -oneline -4 address show to {VIP}/32"
        (holder,) = (name for name in LOAD_BALANCERS if takeover.by_hand.run(name, show))
        announce = "sed -i '/^vrrp_instance/a garp_master_refresh 1' /etc/keepalived/keepalived.conf"
        for name in (*(name for name in LOAD_BALANCERS if name != holder), holder):
            takeover.by_hand.run(name, f"sudo {announce} && sudo systemctl restart keepalived")
        probe.mark("the old pair announces the VIP again")
        takeover.set_vip(OTHER)
        takeover.stack.up(takeover.config)
        probe.mark("the stack has another one")
        wait_for("all is answered", lambda: probe.steady >= 2, 30)
    console.print(probe.report().render())
    report = probe.report()
    # Between the end of the new pair's permission and the old one's next announcement nobody is heard.
    assert report.longest_gap <= ANNOUNCEMENT_SECONDS + LONGEST_GAP_SECONDS + report.longest_stall
    assert answering_load_balancer(VIP) is None
    assert answering_load_balancer(OTHER) in ours


@pytest.mark.extended
@pytest.mark.measures
def test_the_vip_is_taken_over_again_where_no_port_reserves_it(takeover: Takeover):
    # What the way back added: one that announces itself every second is heard until it is kept from it.
    for name in LOAD_BALANCERS:
        quiet = "sed -i '/garp_master_refresh 1$/d' /etc/keepalived/keepalived.conf"
        takeover.by_hand.run(name, f"sudo {quiet} && sudo systemctl reload keepalived")
    takeover.set_vip(VIP)
    with Probe(f"https://{VIP}:{API_PORT}", timeout=2, limit=300) as probe:
        ended = takeover.ha("takeover", *LOAD_BALANCERS, "--yes")
        probe.mark("done")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        wait_for("all is answered", lambda: probe.steady >= 2, 30)
    console.print(probe.report().render())
    report = probe.report()
    assert report.longest_gap <= LONGEST_GAP_SECONDS + report.longest_stall
    assert answering_load_balancer(VIP) in takeover.stack.outputs().load_balancers


def test_deleting_the_old_pair_interrupts_nothing(takeover: Takeover):
    with Probe(f"https://{VIP}:{API_PORT}", timeout=2, limit=300) as probe:
        for name in LOAD_BALANCERS:
            (server,) = takeover.by_hand.cloud.compute.servers(name=f"^{name}$")
            takeover.by_hand.cloud.delete_server(server.id, wait=True)
    report = probe.report()
    # A busy machine answers one late now and then.
    assert report.failures == report.reasons.get("TimeoutError", 0) <= report.requests / 100
