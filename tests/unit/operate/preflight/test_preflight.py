"""What preflight finds, of a cloud that a test spoils one thing at a time; no network is asked."""

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncssh
import pytest
from keystoneauth1.exceptions import ConnectFailure, MissingRequiredOptions, NotFound, ServiceUnavailable, Unauthorized
from openstack.exceptions import (
    ConfigException,
    ConflictException,
    ForbiddenException,
    HttpException,
    NotFoundException,
)

from model.settings import Settings
from model.topology import Role, security_rules
from operate.hosts.ssh import Access
from operate.preflight import account, backend, boot, endpoint, floating, instances, network, segment
from operate.preflight import facts as facts_module
from operate.preflight.backend import MANY_MEMBERS, Backend, find_backend
from operate.preflight.boot import LEFT_AFTER, is_left, leftovers, remove, temporary_name, try_boot
from operate.preflight.facts import Facts
from operate.preflight.finding import CannotCheckError, Finding, Outcome
from operate.preflight.run import Preflight, run_checks
from operate.preflight.segment import Route, parse_route, parse_vrrp
from operate.stack.applied import StackConfiguration
from tests.unit.example import example_values, key_pair
from tests.unit.operate.hosts.test_ssh import HOST_KEY, OTHER_KEY, Server, forbid, known_hosts

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
PROJECT, OTHER_PROJECT = "own-project", "other-project"
VIP = "198.51.100.5"
GIB = 2**30


def plain(**attributes: Any) -> Any:
    return SimpleNamespace(**attributes)


def alter(thing: object, **attributes: Any) -> None:
    for name, value in attributes.items():
        setattr(thing, name, value)


def port(name: str = "", address: str = "198.51.100.50", **changes: Any) -> Any:
    values = {
        "id": f"id-of-{name}",
        "name": name,
        "project_id": PROJECT,
        "fixed_ips": [{"ip_address": address}],
        "allowed_address_pairs": [],
        "device_owner": "",
        "device_id": "",
        "mac_address": "fa:16:3e:00:00:01",
        "binding_vif_details": None,
    }
    return plain(**(values | changes))


def interface(router: str, address: str = "198.51.100.1", suffix: str = "router_interface") -> Any:
    return port(f"of {router}", address, device_owner=f"network:{suffix}", device_id=router)


def subnet(subnet_id: str, name: str, network_id: str, cidr: str = "198.51.100.0/24", **changes: Any) -> Any:
    values: dict[str, Any] = {
        "id": subnet_id,
        "name": name,
        "network_id": network_id,
        "cidr": cidr,
        "ip_version": 4,
        "gateway_ip": cidr.replace(".0/24", ".1"),
        "is_dhcp_enabled": True,
        "allocation_pools": changes.pop("pools", []),
        "service_types": [],
    }
    return plain(**(values | changes))


def server(name: str, flavor: str = "small", **changes: Any) -> Any:
    values = {
        "id": f"id-of-{name}",
        "name": name,
        "status": "ACTIVE",
        "flavor": plain(name=flavor),
        "image": plain(id="i1"),
        "key_name": "k8s",
        "user_id": "u1",
    }
    return plain(**(values | changes))


def saying(get: Callable[[], Any]) -> Callable[..., Any]:
    """A function that accepts anything and returns what `get` returns by then."""

    def say(*_: object, **__: object) -> Any:
        return get()

    return say


def refusal(error: Exception) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> Any:
        raise error

    return refuse


class Cloud:
    """A fake openstacksdk connection to a project in which everything is as it should be."""

    def __init__(self) -> None:
        self.vip_ports: list[Any] = []
        self.flavors = [
            plain(id="f1", name="small", vcpus=1, ram=1024, disk=5),
            plain(id="f2", name="medium", vcpus=2, ram=2048, disk=10),
            plain(id="f3", name="large", vcpus=4, ram=4096, disk=20),
        ]
        self.image_of_all = plain(
            id="i1",
            name="debian-12",
            status="active",
            visibility="public",
            created_at="2030",
            min_disk=2,
            min_ram=0,
            size=GIB,
            virtual_size=None,
            os_distro="debian",
            os_version="12",
            architecture="x86_64",
            hw_vif_model=None,
            owner=PROJECT,
        )
        self.images = [self.image_of_all]
        self.the_network = plain(
            id="n1",
            name="provider",
            project_id=PROJECT,
            status="ACTIVE",
            is_admin_state_up=True,
            is_shared=False,
            is_router_external=False,
            mtu=1500,
            provider_network_type=None,
            is_port_security_enabled=True,
            subnet_ids=["s1"],
        )
        self.networks = [self.the_network]
        self.the_subnet = subnet(
            "s1", "provider-v4", "n1", pools=[{"start": "198.51.100.100", "end": "198.51.100.199"}]
        )
        self.subnets = [self.the_subnet]
        self.ports: list[Any] = []
        self.routers: list[Any] = []
        self.floating_ips: list[Any] = []
        self.aliases = {*account.EXTENSIONS, "router", "l3_agent_scheduler"}
        self.servers: list[Any] = []
        self.key_pairs: list[Any] = []
        self.security_groups: list[Any] = []
        self.limits = plain(
            instances=20,
            instances_used=0,
            total_cores=40,
            total_cores_used=0,
            total_ram=99999,
            total_ram_used=0,
            server_groups=10,
            server_groups_used=0,
            server_group_members=10,
            keypairs=10,
        )
        self.quota = {
            name: {"limit": 100, "used": 0, "reserved": 0}
            for name in ("ports", "security_groups", "security_group_rules", "floating_ips")
        }
        self.deleted: list[str] = []
        self.compute = plain(
            get_endpoint=lambda: "http://nova",
            get_endpoint_data=lambda: plain(url="http://nova", max_microversion=(2, 93)),
            get_limits=lambda: plain(absolute=self.limits),
            flavors=saying(lambda: self.flavors),
            servers=saying(lambda: self.servers),
            keypairs=saying(lambda: self.key_pairs),
            server_groups=saying(list[Any]),
            availability_zones=lambda: [
                plain(name="east", state={"available": True}),
                plain(name="west", state={"available": False}),
            ],
            hypervisors=refusal(ForbiddenException("no")),
        )
        self.identity: Any = None
        self.image = plain(get_endpoint=lambda: "http://glance", images=self._images, get_image=self._image)
        self.volume_types: list[Any] = [plain(id="v1", name="ssd")]
        self.storage_limits = plain(
            max_total_volumes=10, total_volumes_used=0, max_total_volume_gigabytes=1000, total_gigabytes_used=0
        )
        self.block_storage = plain(
            get_endpoint=lambda: "http://cinder",
            types=lambda: self.volume_types,
            get_limits=lambda: plain(absolute=self.storage_limits),
        )
        self.zones: list[Any] = [plain(name="example.com.")]
        self.records: list[Any] = []
        self.dns = plain(
            get_endpoint=lambda: "http://designate",
            zones=self._zones,
            recordsets=saying(lambda: self.records),
        )
        self.network = plain(
            get_endpoint=lambda: "http://neutron",
            extensions=lambda: [plain(alias=alias) for alias in self.aliases],
            networks=self._networks,
            subnets=self._subnets,
            ports=saying(lambda: self.ports),
            routers=lambda: self.routers,
            ips=saying(lambda: self.floating_ips),
            agents=saying(list[Any]),
            get_quota=saying(lambda: plain(**self.quota)),
            security_groups=self._security_groups,
            get_network_ip_availability=refusal(NotFoundException("only administrators")),
        )
        self.access = plain(
            project_name="k8s",
            project_id=PROJECT,
            username="me",
            user_id="u1",
            expires=NOW + timedelta(hours=24),
            application_credential_id=None,
            role_names=["member"],
        )
        self.session = plain(auth=plain(get_access=saying(lambda: self.access)))
        self.config = plain(config={"auth_type": "password"})

    def _images(self, name: str | None = None, visibility: str | None = None, **_: object) -> Iterable[Any]:
        """Glance lists community images only on request, and the project's own besides."""
        return (
            image
            for image in self.images
            if name in (None, image.name) and (visibility or "") in (image.visibility, "")
            if visibility or image.visibility != "community" or image.owner == PROJECT
        )

    def _image(self, image_id: str) -> Any:
        for image in self.images:
            if image.id == image_id:
                return image
        raise NotFoundException("no such image")

    def _security_groups(self, name: str, **_: object) -> list[Any]:
        return [it for it in self.security_groups if it.name == name]

    def _zones(self, name: str | None = None) -> list[Any]:
        return [it for it in self.zones if name in (None, it.name)]

    def _networks(self, name: str | None = None, is_router_external: bool | None = None) -> list[Any]:
        return [
            it
            for it in self.networks
            if name in (None, it.name) and is_router_external in (None, it.is_router_external)
        ]

    def _subnets(self, network_id: str, ip_version: int | None = None) -> list[Any]:
        return [it for it in self.subnets if it.network_id == network_id and ip_version in (None, it.ip_version)]

    def add_external(self, **changes: Any) -> Any:
        """An external network, and a router that connects it to the subnet."""
        values = {"id": "n2", "name": "outside", "is_router_external": True, "subnet_ids": ["s2"]}
        external = plain(**(vars(self.the_network) | values | changes))
        self.networks.append(external)
        self.subnets.append(subnet("s2", "outside-v4", external.id, "203.0.113.0/24"))
        self.routers = [
            plain(id="r1", name="edge", external_gateway_info={"network_id": external.id}, is_admin_state_up=True)
        ]
        self.ports.append(interface("r1"))
        return external

    def facts(self, *, is_admin: bool = False, **values: Any) -> Facts:
        settings = Settings.parse(example_values(**values))
        return Facts("dev", settings, self, user_id="u1", project_id=PROJECT, is_admin=is_admin)


def state_with(*resources: dict[str, Any]) -> Callable[..., str]:
    """Pulumi's answer to `stack export`."""
    return saying(lambda: json.dumps({"version": 3, "deployment": {"resources": [*resources]}}))


@pytest.fixture(autouse=True)
def empty_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "query", state_with())


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def configuration(**values: Any) -> StackConfiguration:
    raw = example_values(**values)
    return StackConfiguration(
        stack="dev",
        settings=Settings.parse(raw),
        private_key=raw["sshPrivateKey"],
        secrets=frozenset(),
        provider={},
    )


def only(findings: Iterable[Finding], result: Outcome = Outcome.PROBLEM) -> Finding:
    (finding,) = [finding for finding in findings if finding.result is result]
    assert finding.to_do or result is not Outcome.PROBLEM
    return finding


def all_ok(findings: Iterable[Finding]) -> bool:
    return all(finding.result is Outcome.OK for finding in findings)


# ---- credentials


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigException("Cloud x was not found."), "clouds.yaml does not have"),
        (MissingRequiredOptions([]), "set OS_CLOUD"),
        (Unauthorized(message="The request requires authentication"), "password, project or a domain is wrong"),
        (NotFound(message="Failed to validate token"), "get a new token"),
        (ServiceUnavailable(message="Service Unavailable"), "Keystone fails"),
        (ConnectFailure("refused"), "reachable"),
        (TypeError("unexpected keyword argument 'username'"), "clouds.yaml"),
    ],
)
def test_a_failed_login_is_reported_with_its_reason(error: Exception, expected: str) -> None:
    login = account.log_in(configuration(), refusal(error), NOW)
    assert login.facts is None
    finding = only(login.findings)
    assert expected in finding.found + finding.to_do


def test_a_token_that_expires_during_an_up_is_noted_if_it_cannot_be_renewed(cloud: Cloud) -> None:
    cloud.access.expires = NOW + timedelta(minutes=20)
    assert all_ok(account.log_in(configuration(), lambda: cloud, NOW).findings)
    cloud.config.config["auth_type"] = "token"
    assert "20 min" in only(account.log_in(configuration(), lambda: cloud, NOW).findings, Outcome.NOTE).found


def test_a_token_without_a_project_is_a_problem(cloud: Cloud) -> None:
    cloud.access.project_id = None
    login = account.log_in(configuration(), lambda: cloud, NOW)
    assert login.facts is None
    assert "project" in only(login.findings).found


@pytest.mark.parametrize(
    ("expires", "result"),
    [("2030-01-11T00:00:00", Outcome.NOTE), ("2031-01-01T00:00:00", Outcome.OK), (None, Outcome.OK)],
)
def test_an_application_credential_that_expires_soon_is_noted(
    cloud: Cloud, expires: str | None, result: Outcome
) -> None:
    cloud.access.application_credential_id = "a1"
    answer = plain(name="ci", expires_at=expires)
    cloud.identity = plain(get_application_credential=saying(lambda: answer))
    assert account.log_in(configuration(), lambda: cloud, NOW).findings[1].result is result


def test_an_unreadable_application_credential_is_not_a_problem(cloud: Cloud) -> None:
    cloud.access.application_credential_id = "a1"
    cloud.identity = plain(get_application_credential=refusal(ForbiddenException("policy")))
    login = account.log_in(configuration(), lambda: cloud, NOW)
    assert login.facts
    assert login.findings[1].result is Outcome.NOT_CHECKED


# ---- services


def test_a_healthy_cloud_has_no_problem(cloud: Cloud) -> None:
    facts = cloud.facts(vip=VIP)
    for check in (
        account.nova,
        account.neutron,
        account.glance,
        account.nova_quota,
        account.neutron_quota,
        account.cinder,
        instances.flavors,
        instances.images,
        instances.zones,
        instances.key_pair,
        instances.existing,
        network.network,
        network.subnet,
        network.free_addresses,
        network.vip,
        network.address_pairs,
    ):
        assert all_ok(check(facts)), check
    assert all_ok(network.owner(facts, tried=False))


def test_a_service_missing_from_the_catalog_is_a_problem(cloud: Cloud) -> None:
    checks = ((cloud.compute, account.nova), (cloud.network, account.neutron), (cloud.image, account.glance))
    for proxy, check in checks:
        proxy.get_endpoint = lambda: None
        assert "catalog has no endpoint" in only(check(cloud.facts())).found


def test_an_old_nova_does_not_support_soft_policies(cloud: Cloud) -> None:
    cloud.compute.get_endpoint_data = lambda: plain(url="http://nova", max_microversion=(2, 14))
    assert "2.14" in only(account.nova(cloud.facts())).found
    policies = ("loadBalancer", "controlPlane", "worker")
    hard: dict[str, Any] = {f"{key}ServerGroupPolicy": "anti-affinity" for key in policies}
    assert all_ok(account.nova(cloud.facts(**hard)))


def test_missing_extensions_are_a_problem(cloud: Cloud) -> None:
    cloud.aliases -= {"allowed-address-pairs", "router"}
    assert only(account.neutron(cloud.facts())).found == "missing: allowed-address-pairs"
    assert "router" in only(account.neutron(cloud.facts(floatingNetwork="outside"))).found


# ---- quota


@pytest.mark.parametrize(
    ("name", "limit", "looked_at"),
    [
        ("instances", 5, "quota: instances"),
        ("total_cores", 11, "quota: cores"),
        ("total_ram", 12287, "quota: memory (MiB)"),
        ("server_groups", 2, "quota: server groups"),
        ("server_group_members", 2, "quota: members of a server group"),
        ("keypairs", 0, "quota: key pairs"),
    ],
)
def test_each_nova_quota_is_checked(cloud: Cloud, name: str, limit: int, looked_at: str) -> None:
    setattr(cloud.limits, name, limit)  # one less than 2 small, 3 medium and 1 large take
    assert only(account.nova_quota(cloud.facts())).looked_at == looked_at
    setattr(cloud.limits, name, limit + 1)
    assert all_ok(account.nova_quota(cloud.facts()))
    setattr(cloud.limits, name, -1)
    assert all_ok(account.nova_quota(cloud.facts()))


@pytest.mark.parametrize(("name", "needed"), [("ports", 7), ("security_groups", 3), ("floating_ips", 1)])
def test_each_neutron_quota_is_checked_with_used_and_reserved(cloud: Cloud, name: str, needed: int) -> None:
    cloud.quota[name] = {"limit": needed + 4, "used": 3, "reserved": 2}
    facts = cloud.facts(floatingNetwork="outside")
    assert only(account.neutron_quota(facts)).found == f"needs {needed} more; {needed - 1} of {needed + 4} are free"
    cloud.quota[name]["limit"] += 1
    assert all_ok(account.neutron_quota(facts))


def test_security_group_rules_are_counted_from_the_table(cloud: Cloud) -> None:
    rules = len(security_rules(cloud.facts().settings))
    cloud.quota["security_group_rules"]["limit"] = rules
    assert all_ok(account.neutron_quota(cloud.facts()))
    cloud.quota["security_group_rules"]["limit"] -= 1
    assert only(account.neutron_quota(cloud.facts())).looked_at == "quota: security group rules"


def test_existing_resources_need_no_quota(cloud: Cloud) -> None:
    facts = cloud.facts()
    names = ["k8s-lb-0", "k8s-lb-1", "k8s-cp-0", "k8s-cp-1", "k8s-cp-2", "k8s-worker-0"]
    cloud.servers = [server(name) for name in names]
    cloud.ports = [port(name, f"198.51.100.{100 + index}") for index, name in enumerate([*names, "k8s-vip"])]
    cloud.key_pairs = [plain(name="k8s", public_key=key_pair()[1])]
    cloud.compute.server_groups = lambda: [plain(name=f"k8s-{role}") for role in Role]
    cloud.security_groups = [
        plain(
            name=f"k8s-{role}",
            security_group_rules=[
                {"description": rule.purpose} for rule in security_rules(facts.settings) if rule.role is role
            ],
        )
        for role in Role
    ]
    alter(cloud.limits, instances=0, total_cores=0, total_ram=0, server_groups=0, keypairs=1)
    for quota in cloud.quota.values():
        quota["limit"] = 0
    assert all_ok(account.nova_quota(facts))
    assert all_ok(account.neutron_quota(facts))
    assert all_ok(network.free_addresses(facts))


def test_another_projects_port_of_the_same_name_is_not_counted(cloud: Cloud) -> None:
    cloud.ports = [port("k8s-lb-0", project_id=OTHER_PROJECT)]
    assert "needs 7 more" in [*account.neutron_quota(cloud.facts())][-1].found


# ---- flavors, images, zones, keys, hypervisors


def test_a_missing_flavor_is_reported_with_the_existing_ones(cloud: Cloud) -> None:
    facts = cloud.facts(workerFlavor="huge")
    finding = only(instances.flavors(facts))
    assert "workerFlavor" in finding.found
    assert "large, medium, small" in finding.to_do
    with pytest.raises(CannotCheckError, match="huge"):
        list(account.nova_quota(facts))


def test_two_flavors_of_one_name_are_a_problem(cloud: Cloud) -> None:
    cloud.flavors.append(plain(id="f9", name="small", vcpus=1, ram=1024, disk=5))
    assert "2 flavors" in only(instances.flavors(cloud.facts())).found


def test_little_memory_is_noted_for_load_balancers_only(cloud: Cloud) -> None:
    cloud.flavors[2].ram = 511
    assert all_ok(instances.flavors(cloud.facts()))
    cloud.flavors[0].ram = 511
    assert only(instances.flavors(cloud.facts()), Outcome.NOTE).looked_at == "flavor small"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"status": "queued"}, "queued"),
        ({"min_disk": 6}, "needs 6 GiB of disk; small has 5"),
        ({"virtual_size": 5 * GIB + 1}, "needs 6 GiB of disk; small has 5"),
        ({"min_ram": 1025}, "needs 1025 MiB of memory; small has 1024"),
        ({"os_distro": "centos"}, "is centos"),
        ({"os_version": "11"}, "is debian 11"),
        ({"os_distro": "ubuntu", "os_version": "20.04"}, "is ubuntu 20.04"),
    ],
)
def test_an_unsuitable_image_is_a_problem(cloud: Cloud, change: dict[str, Any], expected: str) -> None:
    alter(cloud.image_of_all, **change)
    assert expected in only(instances.images(cloud.facts())).found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"visibility": "community"}, "community"),
        ({"architecture": "aarch64"}, "aarch64"),
        ({"hw_vif_model": "e1000"}, "e1000"),
    ],
)
def test_unusual_properties_of_an_image_are_noted(cloud: Cloud, change: dict[str, Any], expected: str) -> None:
    alter(cloud.image_of_all, **change)
    assert expected in only(instances.images(cloud.facts()), Outcome.NOTE).found


def test_an_image_without_properties_is_ok(cloud: Cloud) -> None:
    alter(cloud.image_of_all, os_distro=None, os_version=None, architecture=None)
    assert all_ok(instances.images(cloud.facts()))


def test_of_several_images_the_newest_is_used(cloud: Cloud) -> None:
    newer = plain(**(vars(cloud.image_of_all) | {"id": "i2", "created_at": "2031"}))
    cloud.images.append(newer)
    assert "i2" in only(instances.images(cloud.facts()), Outcome.NOTE).found


def test_a_missing_image_is_a_problem(cloud: Cloud) -> None:
    finding = only(instances.images(cloud.facts(controlPlaneImage="none")))
    assert finding.looked_at == "image none"
    assert "debian-12" in finding.to_do


def test_other_roles_may_use_another_distribution(cloud: Cloud) -> None:
    cloud.images.append(plain(**(vars(cloud.image_of_all) | {"name": "flatcar", "os_distro": "flatcar"})))
    assert all_ok(instances.images(cloud.facts(controlPlaneImage="flatcar")))


def test_availability_zones_must_exist_and_be_available(cloud: Cloud) -> None:
    findings = [*instances.zones(cloud.facts(workerAvailabilityZones='["east", "west", "north"]'))]
    assert [finding.result for finding in findings] == [Outcome.OK, Outcome.PROBLEM, Outcome.PROBLEM]


def test_a_zone_may_name_one_of_its_hypervisors(cloud: Cloud) -> None:
    """As Nova lets administrators write it."""
    assert all_ok(instances.zones(cloud.facts(workerAvailabilityZones='["east:host1", "east:host1:node1"]')))
    assert "west:host1" in only(instances.zones(cloud.facts(workerAvailabilityZones='["west:host1"]'))).looked_at


def test_the_key_pair_must_exist_and_match_the_private_key(cloud: Cloud) -> None:
    named: dict[str, Any] = {"keyPair": "mine", "publicKey": ""}
    assert "does not exist" in only(instances.key_pair(cloud.facts(**named))).found
    cloud.key_pairs = [plain(name="mine", public_key=OTHER_PUBLIC_KEY)]
    assert "does not belong" in only(instances.key_pair(cloud.facts(**named))).found
    cloud.key_pairs = [plain(name="mine", public_key=key_pair()[1])]
    assert all_ok(instances.key_pair(cloud.facts(**named)))


def test_a_key_pair_of_the_clusters_name_is_a_problem_unless_the_stack_made_it(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.key_pairs = [plain(name="k8s", public_key="ssh-ed25519 AAAA")]
    assert "publicKey" in only(instances.key_pair(cloud.facts())).found
    cloud.key_pairs = [plain(name="k8s", public_key=key_pair()[1])]
    finding = only(instances.key_pair(cloud.facts()))
    assert "409" in finding.found
    assert "keyPair to k8s" in finding.to_do
    monkeypatch.setattr(facts_module, "query", state_with({"type": facts_module.KEY_PAIR, "outputs": {}}))
    assert all_ok(instances.key_pair(cloud.facts()))


def test_another_users_key_pair_is_reported_with_its_owner(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nova refuses to build an instance with a key pair that this user does not have."""
    made = {"type": facts_module.KEY_PAIR, "outputs": {"userId": "ada"}}
    monkeypatch.setattr(facts_module, "query", state_with(made))
    finding = only(instances.key_pair(cloud.facts()))
    assert "user ada" in finding.found
    assert "openstack keypair create --public-key" in finding.to_do
    cloud.servers = [server("k8s-lb-0", key_name="theirs", user_id="bob")]
    assert "user bob" in only(instances.key_pair(cloud.facts(keyPair="theirs", publicKey=""))).found


OTHER_PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJr0TIGoQyHn2RoxXTtnh5m3DpZsaXbTSxc9dXMOuLr2"


@pytest.mark.parametrize("values", [{}, {"keyPair": "k8s", "publicKey": ""}], ids=["publicKey", "keyPair"])
def test_an_unrelated_key_pair_of_the_same_name_is_not_the_stacks(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    made = {"type": facts_module.KEY_PAIR, "outputs": {"userId": "ada"}}
    monkeypatch.setattr(facts_module, "query", state_with(*([] if values else [made])))
    cloud.servers = [server("k8s-lb-0", user_id="ada")]
    cloud.key_pairs = [plain(name="k8s", public_key=OTHER_PUBLIC_KEY)]
    finding = only(instances.key_pair(cloud.facts(**values)))
    assert "a public key other than" in finding.found
    assert "the user ada" in finding.to_do
    assert "delete" not in finding.to_do
    # A copy of the stack's will do.
    cloud.key_pairs = [plain(name="k8s", public_key=key_pair()[1])]
    assert all_ok(instances.key_pair(cloud.facts(**values)))


def test_a_new_public_key_that_waits_for_an_up_is_no_problem_for_the_user_who_has_the_key_pair(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"type": facts_module.KEY_PAIR, "outputs": {"userId": "u1"}}
    monkeypatch.setattr(facts_module, "query", state_with(made))
    cloud.key_pairs = [plain(name="k8s", public_key=OTHER_PUBLIC_KEY)]
    assert all_ok(instances.key_pair(cloud.facts()))
    cloud.key_pairs = []
    assert "is gone" in only(instances.key_pair(cloud.facts())).found


def test_why_nova_could_not_build_an_instance_is_reported(cloud: Cloud) -> None:
    cloud.servers = [server("k8s-lb-0"), server("k8s-cp-0", status="ERROR"), server("k8s-other", status="ERROR")]
    cloud.compute.get_server = saying(lambda: plain(fault={"message": "No valid host was found."}))
    finding = only(instances.existing(cloud.facts()))
    assert finding.looked_at == "instance k8s-cp-0"
    assert "No valid host was found." in finding.found


# ---- what is gone, and what has an id for a name


IMAGE = "6f7e1c0a-5b5c-4d3e-9a54-0d9b3f9d2c11"


def test_a_name_wins_over_an_id(cloud: Cloud) -> None:
    cloud.flavors += [plain(id="small", name="tiny", vcpus=1, ram=1024, disk=5)]
    facts = cloud.facts(workerFlavor="f3", controlPlaneFlavor="small")
    assert all_ok(instances.flavors(facts))
    assert (facts.flavor(Role.WORKER).name, facts.flavor(Role.CONTROL_PLANE).id) == ("large", "f1")
    assert cloud.facts(network="n1").network.name == "provider"
    assert cloud.facts(subnet="s1").subnet.name == "provider-v4"
    cloud.image_of_all.id = IMAGE
    assert all_ok(instances.images(cloud.facts(workerImage=IMAGE)))


def test_a_flavor_that_is_gone_is_needed_only_for_new_hosts(cloud: Cloud) -> None:
    cloud.servers = [server("k8s-worker-0", "retired")]
    facts = cloud.facts(workerFlavor="retired")
    assert "workerFlavor" in only(instances.flavors(facts), Outcome.NOTE).found
    assert all_ok(account.nova_quota(facts))
    assert only(instances.flavors(cloud.facts(workerFlavor="retired", workerCount="2")))
    # Its own flavor is there, so another one is meant.
    cloud.servers = [server("k8s-worker-0", "large")]
    assert only(instances.flavors(cloud.facts(workerFlavor="retired")))


def test_an_image_that_is_gone_is_needed_only_for_new_hosts(cloud: Cloud) -> None:
    other = IMAGE.replace("6", "7")
    cloud.servers = [server("k8s-worker-0", image=plain(id=IMAGE))]
    for image in ("retired", IMAGE):
        assert "workerImage" in only(instances.images(cloud.facts(workerImage=image)), Outcome.NOTE).found
        assert only(instances.images(cloud.facts(workerImage=image, workerCount="2")))
    assert only(instances.images(cloud.facts(workerImage=other)))


def test_a_community_image_is_used_by_its_id_only(cloud: Cloud) -> None:
    """Anyone in the cloud can publish one under any name."""
    cloud.images += [plain(**(vars(cloud.image_of_all) | {"id": IMAGE, "visibility": "community", "owner": "bob"}))]
    assert all_ok(instances.images(cloud.facts()))
    cloud.images[-1].name = "theirs"
    finding = only(instances.images(cloud.facts(workerImage="theirs")))
    assert "bob" in finding.to_do
    assert IMAGE in finding.to_do
    assert "community" in only(instances.images(cloud.facts(workerImage=IMAGE)), Outcome.NOTE).found


def test_only_active_images_count_if_there_are_any(cloud: Cloud) -> None:
    cloud.images += [plain(**(vars(cloud.image_of_all) | {"created_at": "2031", "status": "queued"}))]
    assert all_ok(instances.images(cloud.facts()))


# ---- root volumes


def test_a_control_plane_host_of_a_cluster_needs_what_kubeadm_needs(cloud: Cloud) -> None:
    assert all_ok(instances.flavors(cloud.facts(kubernetesVersion="1.37")))
    alter(cloud.flavors[1], vcpus=1)
    assert "fewer than 2 vCPU" in only(instances.flavors(cloud.facts(kubernetesVersion="1.37"))).found
    alter(cloud.flavors[1], vcpus=2, ram=1700)
    assert "controlPlaneFlavor" in only(instances.flavors(cloud.facts(kubernetesVersion="1.37"))).to_do
    assert all_ok(instances.flavors(cloud.facts()))


def test_a_cluster_s_networks_must_not_overlap_the_subnet(cloud: Cloud) -> None:
    assert all_ok(network.cluster_networks(cloud.facts(kubernetesVersion="1.37")))
    cloud.the_subnet.cidr = "10.96.7.0/24"
    found = only(network.cluster_networks(cloud.facts(kubernetesVersion="1.37")))
    assert found.looked_at == "serviceNetwork = 10.96.0.0/16"
    assert "overlaps the hosts' subnet 10.96.7.0/24" in found.found
    assert [*network.cluster_networks(cloud.facts())] == []


def test_a_flavor_without_a_disk_needs_a_root_volume(cloud: Cloud) -> None:
    cloud.flavors[2].disk = 0
    assert "workerRootVolumeSize" in only(instances.flavors(cloud.facts())).to_do
    assert all_ok(instances.flavors(cloud.facts(workerRootVolumeSize="20")))
    assert all_ok(instances.flavors(cloud.facts(is_admin=True)))
    # It boots from a volume, and would be replaced without one.
    cloud.servers = [server("k8s-worker-0", "large", image=None)]
    assert "workerRootVolumeSize" in only(instances.flavors(cloud.facts())).to_do


def test_an_image_must_fit_the_root_volume(cloud: Cloud) -> None:
    cloud.image_of_all.min_disk = 21
    volumes: dict[str, Any] = {f"{role.configuration_prefix}RootVolumeSize": "21" for role in Role}
    assert all_ok(instances.images(cloud.facts(**volumes)))
    volumes["workerRootVolumeSize"] = "20"
    finding = only(instances.images(cloud.facts(**volumes)))
    assert "workerRootVolumeSize is 20" in finding.found
    assert any("RootVolumeSize to 21" in it.to_do for it in instances.images(cloud.facts()))


def test_cinder_must_have_the_volumes_type_and_room_for_them(cloud: Cloud) -> None:
    assert [*account.cinder(cloud.facts())] == []
    wanted: dict[str, Any] = {"controlPlaneRootVolumeSize": "30", "controlPlaneRootVolumeType": "ssd"}
    by_id: dict[str, Any] = wanted | {"controlPlaneRootVolumeType": "v1"}
    assert all_ok(account.cinder(cloud.facts(**by_id)))
    facts = cloud.facts(**wanted)
    assert all_ok(account.cinder(facts))
    cloud.storage_limits.max_total_volumes = 2
    assert only(account.cinder(facts)).looked_at == "quota: volumes"
    alter(cloud.storage_limits, max_total_volumes=3, max_total_volume_gigabytes=89)
    assert only(account.cinder(facts)).looked_at == "quota: volumes (GiB)"
    # An instance that exists needs one if it has none.
    cloud.servers = [server("k8s-cp-0"), server("k8s-cp-1", image=None)]
    assert all_ok(account.cinder(cloud.facts(**wanted)))
    cloud.storage_limits.max_total_volume_gigabytes = 59
    assert "needs 60 more" in only(account.cinder(cloud.facts(**wanted))).found
    cloud.storage_limits.max_total_volume_gigabytes = 90
    cloud.volume_types.clear()
    assert "controlPlaneRootVolumeType" in only(account.cinder(facts)).found
    cloud.block_storage.get_endpoint = lambda: None
    assert only(account.cinder(facts)).looked_at == "Cinder"


# ---- dual stack


def test_a_port_s_ipv6_address_is_not_taken_for_its_own(cloud: Cloud) -> None:
    """Neutron adds one for each subnet with SLAAC on the network, and sorts a port's addresses as text."""
    addresses = [{"ip_address": "2001:db8::5"}, {"ip_address": VIP}]
    cloud.ports = [port("k8s-vip", fixed_ips=addresses)]
    facts = cloud.facts()
    assert facts.vip == IPv4Address(VIP)
    assert all_ok(network.vip(facts))
    # Without an address in the subnet nothing is reserved.
    cloud.ports = [port("k8s-vip", "2001:db8::5")]
    assert cloud.facts().vip is None


# ---- what the provider and openstacksdk read


def test_a_floating_network_s_name_must_be_unique_because_the_provider_looks_for_the_name(cloud: Cloud) -> None:
    external = cloud.add_external(name="public")
    for configured in ("public", "n2"):
        assert all_ok(floating.network(cloud.facts(floatingNetwork=configured)))
    cloud.networks += [plain(**(vars(external) | {"id": "n3", "is_router_external": False}))]
    for configured in ("public", "n2"):
        finding = only(floating.network(cloud.facts(floatingNetwork=configured)))
        assert "2 networks" in finding.found


def test_an_endpoint_that_only_openstacksdk_overrides_is_a_problem(cloud: Cloud) -> None:
    cloud.config.config["network_endpoint_override"] = "http://neutron/v2.0/"
    finding = only(account.endpoints(cloud.facts(), configuration()))
    assert "openstack:endpointOverrides.network" in finding.to_do
    both = replace(configuration(), provider={"endpointOverrides": '{"network": "http://neutron/v2.0/"}'})
    assert all_ok(account.endpoints(cloud.facts(), both))


@pytest.mark.parametrize(
    "said",
    [
        "Cloud-init v. 22.4.2 finished. Datasource DataSourceNone. Up 122.85 seconds",
        # Where the image's datasource_list has no None, as the lab's. SSH then has no host key, and does not start.
        "cloud-init[115]: Can not apply stage final, no datasource found! Likely bad things to come!",
    ],
)
@pytest.mark.parametrize(("drive", "remedy"), [("false", "set configDrive"), ("true", "operator")])
def test_a_cloud_without_metadata_is_recognized_by_the_console(
    cloud: Cloud, drive: str, remedy: str, said: str
) -> None:
    console = {"output": said}
    cloud.compute.get_server_console_output = saying(lambda: console)
    facts = cloud.facts(configDrive=drive)
    assert remedy in only(boot._metadata(facts, server("k8s-preflight"))).to_do  # pyright: ignore[reportPrivateUsage]
    console["output"] = "Datasource DataSourceOpenStackLocal"
    assert [*boot._metadata(facts, server("k8s-preflight"))] == []  # pyright: ignore[reportPrivateUsage]


def test_an_instance_with_another_host_key_leads_to_its_metadata(cloud: Cloud) -> None:
    access: Any = plain(user="debian", connect=refusal(asyncssh.HostKeyNotVerifiable("Host key is not trusted")))
    untyped: Any = boot
    (finding,) = asyncio.run(untyped._log_in(cloud.facts(), access, "198.51.100.9", 0))
    assert "did not get that, or ignored it" in finding.found
    assert "DataSourceNone" in finding.to_do


def test_a_connection_that_is_lost_later_is_not_blamed_on_the_login(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(*_: object, **__: object) -> str:
        raise asyncssh.ConnectionLost("gone")

    monkeypatch.setattr(boot, "output", lose)
    access: Any = plain(user="debian", patience=0, connect=saying(nullcontext[None]))
    untyped: Any = boot
    in_, lost = asyncio.run(untyped._log_in(cloud.facts(), access, "198.51.100.9", 0))
    assert (in_.result, lost.result) == (Outcome.OK, Outcome.PROBLEM)
    assert lost.found == "ConnectionLost: gone"
    assert "adminCidrs" not in lost.to_do


def test_hypervisors_are_counted_if_the_user_may_see_them(cloud: Cloud) -> None:
    soft, hard = cloud.facts(), cloud.facts(controlPlaneServerGroupPolicy="anti-affinity")
    assert [it.result for it in instances.spreading(soft)] == [Outcome.NOT_CHECKED]
    assert "3" in only(instances.spreading(hard), Outcome.NOTE).found
    one = plain(state="up", status="enabled")
    cloud.compute.hypervisors = lambda: [one, one, plain(state="down", status="enabled")]
    assert "anti-affinity needs 3" in only(instances.spreading(hard)).found
    assert all_ok(instances.spreading(soft))
    cloud.compute.hypervisors = lambda: [one]
    assert "both load balancers" in only(instances.spreading(soft), Outcome.NOTE).found


# ---- network and VIP


def test_a_missing_network_is_reported_once(cloud: Cloud) -> None:
    facts = cloud.facts(network="none")
    assert "provider" in only(network.network(facts)).to_do
    with pytest.raises(CannotCheckError, match="network is unknown"):
        list(network.subnet(facts))


def test_two_networks_of_one_name_are_a_problem(cloud: Cloud) -> None:
    cloud.networks *= 2
    assert "2 networks" in only(network.network(cloud.facts())).found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"status": "DOWN"}, "DOWN"),
        ({"is_admin_state_up": False}, "down"),
        ({"is_port_security_enabled": False}, "security groups"),
    ],
)
def test_an_unsuitable_network_is_a_problem(cloud: Cloud, change: dict[str, Any], expected: str) -> None:
    alter(cloud.the_network, **change)
    assert expected in only(network.network(cloud.facts())).found


def test_a_tunnel_s_mtu_is_explained_and_a_small_one_noted(cloud: Cloud) -> None:
    alter(cloud.the_network, mtu=1442, provider_network_type="geneve")
    assert all_ok(network.network(cloud.facts()))
    (mtu,) = (it.found for it in network.network(cloud.facts()) if it.looked_at == "MTU")
    assert "1442 (geneve): less than Ethernet's" in mtu
    cloud.the_network.mtu = 8942
    assert not any("tunnel" in it.found for it in network.network(cloud.facts()))
    cloud.the_network.mtu = 1200
    assert only(network.network(cloud.facts()), Outcome.NOTE).looked_at == "MTU"


def test_another_projects_network_is_a_problem_for_address_pairs(cloud: Cloud) -> None:
    cloud.the_network.project_id = OTHER_PROJECT
    assert "403" in only(network.owner(cloud.facts(), tried=False)).found
    assert only(network.owner(cloud.facts(), tried=True), Outcome.NOTE)
    assert all_ok(network.owner(cloud.facts(is_admin=True), tried=False))


def test_an_unsuitable_subnet_is_a_problem(cloud: Cloud) -> None:
    assert "provider-v4 (198.51.100.0/24)" in only(network.subnet(cloud.facts(subnet="none"))).to_do
    cloud.the_subnet.is_dhcp_enabled = False
    assert "DHCP is off" in only(network.subnet(cloud.facts())).found
    cloud.the_subnet.gateway_ip = None
    assert "archive" in only(network.subnet(cloud.facts()), Outcome.NOTE).found
    six = subnet("s6", "provider-v6", "n1", "2001:db8::/64", ip_version=6)
    cloud.subnets.append(six)
    finding = only(network.subnet(cloud.facts(subnet="provider-v6")))
    assert "IPv6" in finding.found
    assert "2001:db8" not in finding.to_do
    cloud.subnets *= 2
    assert "2 IPv4 subnets" in only(network.subnet(cloud.facts(subnet=""))).found


def test_free_addresses_are_counted_from_ports_and_pools(cloud: Cloud) -> None:
    cloud.ports = [port(str(index), f"198.51.100.{100 + index}") for index in range(93)]
    cloud.ports += [port("outside the pool", "198.51.100.9"), port("IPv6", "2001:db8::1")]
    assert "needs 7 more; 7 are free" in next(network.free_addresses(cloud.facts())).found
    cloud.ports.append(port("one more", "198.51.100.199"))
    assert only(network.free_addresses(cloud.facts()))


def test_a_vip_outside_of_the_pools_takes_none_of_their_addresses(cloud: Cloud) -> None:
    cloud.ports = [port(str(index), f"198.51.100.{100 + index}") for index in range(94)]
    outside = cloud.facts(vip="198.51.100.9")
    assert "needs 6 more; 6 are free" in next(network.free_addresses(outside)).found
    assert only(network.free_addresses(cloud.facts(vip="198.51.100.199")))
    # Nor does it once it is reserved.
    cloud.ports += [port("k8s-vip", "198.51.100.9"), port("one more", "198.51.100.199")]
    assert only(network.free_addresses(cloud.facts(vip="198.51.100.9")))


def test_administrators_see_how_many_addresses_are_free(cloud: Cloud) -> None:
    expected = [{"subnet_id": "s1", "total_ips": 100, "used_ips": 94}]
    cloud.network.get_network_ip_availability = saying(lambda: plain(subnet_ip_availability=expected))
    assert "6 are free" in only(network.free_addresses(cloud.facts())).found


@pytest.mark.parametrize(
    ("vip", "expected"),
    [
        ("100.64.0.5", "not in the subnet"),
        ("198.51.100.1", "gateway"),
        ("198.51.100.255", "broadcast"),
        ("198.51.100.0", "network"),
        ("198.51.100.50", "in use by port id-of-web (web)"),
    ],
)
def test_an_unusable_vip_is_a_problem(cloud: Cloud, vip: str, expected: str) -> None:
    cloud.ports = [port("web")]
    assert expected in only(network.vip(cloud.facts(vip=vip))).found


def test_an_api_server_at_an_address_of_our_own_or_of_no_host_is_a_problem(cloud: Cloud) -> None:
    cloud.ports = [port("k8s-vip", "198.51.100.10"), port("k8s-lb-1", "198.51.100.12"), port("web")]
    usable = '["198.51.100.50", "10.0.0.1"]'
    assert all_ok(network.api_servers(cloud.facts(apiServers=usable)))
    for address, expected in (
        ("198.51.100.10", "k8s-vip"),
        ("198.51.100.12", "k8s-lb-1"),
        ("198.51.100.255", "broadcast"),
    ):
        finding = only(network.api_servers(cloud.facts(apiServers=f'["198.51.100.50", "{address}"]')))
        assert address in finding.looked_at
        assert expected in finding.found
    assert [*network.api_servers(cloud.facts())] == []


def test_a_vip_in_an_allocation_pool_is_noted_until_it_is_reserved(cloud: Cloud) -> None:
    vip = "198.51.100.150"
    assert "allocation pool" in only(network.vip(cloud.facts(vip=vip)), Outcome.NOTE).found
    cloud.ports = [port("k8s-vip", vip)]
    assert all_ok(network.vip(cloud.facts(vip=vip)))


def test_another_port_with_an_address_pair_for_the_vip_is_a_problem(cloud: Cloud) -> None:
    pair = [{"ip_address": VIP, "mac_address": "fa:16:3e:00:00:02"}]
    cloud.ports = [port("k8s-lb-0", allowed_address_pairs=pair)]
    assert all_ok(network.address_pairs(cloud.facts(vip=VIP)))
    cloud.ports.append(port("other-lb-0", allowed_address_pairs=pair))
    assert "other-lb-0" in only(network.address_pairs(cloud.facts(vip=VIP))).found
    # A network of addresses is one too, and so is the VIP with the subnet's prefix.
    for network_of_it in ("198.51.100.0/29", f"{VIP}/24"):
        cloud.ports[1].allowed_address_pairs = [{"ip_address": network_of_it}]
        assert "other-lb-0" in only(network.address_pairs(cloud.facts(vip=VIP))).found
    cloud.ports[1].allowed_address_pairs = [{"ip_address": "198.51.100.8/29"}, {"ip_address": "2001:db8::/64"}]
    assert all_ok(network.address_pairs(cloud.facts(vip=VIP)))


def test_a_port_that_may_have_every_address_of_the_subnet_is_noted(cloud: Cloud) -> None:
    """As a router or firewall on an instance has: it says nothing of the VIP."""
    cloud.ports = [port("gateway", allowed_address_pairs=[{"ip_address": "0.0.0.0/0"}])]
    assert "gateway" in only(network.address_pairs(cloud.facts(vip=VIP)), Outcome.NOTE).found
    cloud.ports.append(port("other-lb-0", allowed_address_pairs=[{"ip_address": VIP}]))
    findings = [*network.address_pairs(cloud.facts(vip=VIP))]
    assert [it.result for it in findings] == [Outcome.PROBLEM, Outcome.NOTE]
    assert "other-lb-0" in only(findings).found


OUTSIDE: dict[str, Any] = {"floatingNetwork": "outside"}


def test_without_a_floating_network_nothing_of_it_is_checked(cloud: Cloud) -> None:
    facts = cloud.facts()
    assert [*floating.network(facts), *floating.router(facts), *floating.subnet(facts)] == []


def test_a_floating_network_must_exist(cloud: Cloud) -> None:
    facts = cloud.facts(**OUTSIDE)
    assert "0 external networks" in only(floating.network(facts)).found
    for check in (floating.router, floating.subnet):
        with pytest.raises(CannotCheckError, match="floating network is unknown"):
            list(check(facts))


@pytest.mark.parametrize("kind", ["router_interface", "router_interface_distributed", "ha_router_replicated_interface"])
def test_a_router_that_leads_outside_is_found_by_its_interface(cloud: Cloud, kind: str) -> None:
    """Highly available and distributed routers' interfaces on ML2/OVS have device owners of their own."""
    cloud.add_external()
    cloud.routers.append(plain(id="r2", name="inner", external_gateway_info=None, is_admin_state_up=True))
    cloud.ports = [interface("r2", "198.51.100.2"), interface("r1", suffix=kind)]
    (finding,) = floating.router(cloud.facts(**OUTSIDE))
    assert finding.result is Outcome.OK
    assert finding.looked_at == "router edge"


def test_a_floating_ip_needs_a_router_with_a_gateway_to_its_network(cloud: Cloud) -> None:
    cloud.add_external()
    (edge,) = cloud.routers
    edge.external_gateway_info = {"network_id": "n9"}
    assert "gateway is another network" in only(floating.router(cloud.facts(**OUTSIDE))).found
    edge.external_gateway_info = None
    finding = only(floating.router(cloud.facts(**OUTSIDE)))
    assert "no external gateway" in finding.found
    assert "--external-gateway outside r1" in finding.to_do
    cloud.ports = [interface("r1", "192.0.2.1")]  # on another subnet of the network
    assert "none is on the subnet" in only(floating.router(cloud.facts(**OUTSIDE))).found


def test_a_router_that_is_down_or_beside_the_gateway_does_not_lead_outside(cloud: Cloud) -> None:
    cloud.add_external()
    cloud.ports = [interface("r1", "198.51.100.254")]
    assert "the subnet's gateway 198.51.100.1" in only(floating.router(cloud.facts(**OUTSIDE)), Outcome.NOTE).found
    cloud.routers[0].is_admin_state_up = False
    assert "down" in only(floating.router(cloud.facts(**OUTSIDE))).found


def test_another_projects_router_cannot_be_seen(cloud: Cloud) -> None:
    cloud.add_external()
    cloud.routers = []
    assert only(floating.router(cloud.facts(**OUTSIDE)), Outcome.NOTE)  # its interface is on the project's network
    cloud.ports, cloud.the_network.project_id = [], OTHER_PROJECT
    assert only(floating.router(cloud.facts(**OUTSIDE)), Outcome.NOTE)


def test_a_longer_mtu_inside_than_outside_is_noted(cloud: Cloud) -> None:
    cloud.add_external(mtu=1500)
    assert all_ok(floating.network(cloud.facts(**OUTSIDE)))
    cloud.the_network.mtu = 8942
    finding = only(floating.network(cloud.facts(**OUTSIDE)), Outcome.NOTE)
    assert "8942" in finding.found
    assert "--mtu 1500" in finding.to_do


def test_a_choice_of_external_subnets_is_noted(cloud: Cloud) -> None:
    external = cloud.add_external()
    external.subnet_ids = ["s2", "s3", "s4"]
    cloud.subnets += [
        subnet("s3", "outside-v6", "n2", "2001:db8::/64", ip_version=6),
        subnet("s4", "for-routers", "n2", service_types=["network:router_gateway"]),
    ]
    assert [*floating.subnet(cloud.facts(**OUTSIDE))] == []
    cloud.subnets[-1].service_types = ["network:router_gateway", "network:floatingip"]
    finding = only(floating.subnet(cloud.facts(**OUTSIDE)), Outcome.NOTE)
    assert "outside-v4 (203.0.113.0/24), for-routers (198.51.100.0/24)" in finding.found
    assert "floatingSubnet" in finding.to_do
    # Users who see no subnet of the network see their ids.
    cloud.subnets = [cloud.the_subnet]
    assert "s2, s3, s4" in only(floating.subnet(cloud.facts(**OUTSIDE)), Outcome.NOTE).found
    # The choice is made once.
    cloud.ports.append(port("k8s-vip", VIP))
    cloud.floating_ips = [plain(floating_ip_address="203.0.113.9")]
    assert [*floating.subnet(cloud.facts(**OUTSIDE))] == []


@pytest.mark.parametrize("configured", ["outside-v4", "s2"])
def test_a_floating_subnet_must_be_the_external_network_s(cloud: Cloud, configured: str) -> None:
    external = cloud.add_external()
    facts = cloud.facts(**OUTSIDE, floatingSubnet=configured)
    assert "203.0.113.0/24" in next(floating.subnet(facts)).found
    assert all_ok(floating.subnet(facts))
    cloud.subnets[-1].ip_version = 6
    assert "IPv6" in only(floating.subnet(facts)).found
    cloud.subnets.pop()
    if configured == "s2":  # the network lists it, and this user may not see it
        assert all_ok(floating.subnet(facts))
    external.subnet_ids = ["s7"]
    finding = only(floating.subnet(facts))
    assert "no such subnet" in finding.found
    assert "s7" in finding.to_do
    of_another = cloud.facts(**OUTSIDE, floatingSubnet="provider-v4")
    assert "no such subnet" in only(floating.subnet(of_another)).found


def test_a_floating_ip_of_another_subnet_is_noted(cloud: Cloud) -> None:
    cloud.add_external()
    cloud.ports.append(port("k8s-vip", VIP))
    cloud.floating_ips = [plain(floating_ip_address="203.0.113.9")]
    configured: dict[str, Any] = OUTSIDE | {"floatingSubnet": "outside-v4"}
    assert all_ok(floating.subnet(cloud.facts(**configured)))
    cloud.floating_ips = [plain(floating_ip_address="192.0.2.9")]
    assert "192.0.2.9 exists" in only(floating.subnet(cloud.facts(**configured)), Outcome.NOTE).found
    # Without routers Neutron refuses the question.
    cloud.aliases -= {"router"}
    assert all_ok(floating.subnet(cloud.facts(**configured)))


@pytest.mark.parametrize(
    ("ports", "agents", "aliases", "expected"),
    [
        ([port(device_owner="network:distributed", device_id="ovnmeta-n1")], [], set[str](), Backend.OVN),
        ([port(device_owner="network:dhcp", device_id="ovnmeta-n1")], [], set[str](), Backend.OVN),
        ([port(binding_vif_details={"bound_drivers": {"0": "ovn"}})], [], set[str](), Backend.OVN),
        ([port(device_owner="network:router_interface_distributed")], [], set[str](), Backend.DVR),
        ([port(device_owner="network:dhcp", device_id="dhcp1")], ["Open vSwitch agent"], set[str](), Backend.OVS),
        (
            [port(device_owner="network:dhcp", device_id="dhcp1")],
            ["Linux bridge agent"],
            set[str](),
            Backend.LINUXBRIDGE,
        ),
        ([port(device_owner="network:dhcp", device_id="dhcp1")], [], set[str](), Backend.AGENTS),
        ([], [], {"router"}, Backend.OVN),
        ([], [], {"router", "l3_agent_scheduler"}, Backend.UNKNOWN),
        ([], [], set[str](), Backend.UNKNOWN),
    ],
)
def test_the_backend_is_recognized_by_its_traces(
    cloud: Cloud, ports: list[Any], agents: list[str], aliases: set[str], expected: Backend
) -> None:
    cloud.ports, cloud.aliases = ports, aliases
    cloud.network.agents = lambda: [plain(agent_type=agent) for agent in agents]
    facts = cloud.facts(is_admin=bool(agents))
    assert find_backend(facts)[0] is expected
    quiet = expected not in (Backend.DVR, Backend.UNKNOWN)
    assert [it.result for it in backend.backend(facts)] == [Outcome.OK if quiet else Outcome.NOTE, Outcome.OK]


DHCP, METADATA = {"device_id": "dhcp1"}, {"device_id": "ovnmeta-n1"}


@pytest.mark.parametrize(
    ("trace", "agent", "expected"),
    [
        (DHCP, "Open vSwitch agent", "its openvswitch firewall"),
        (DHCP, "", "if this is ML2/OVS"),
        (DHCP, "Linux bridge agent", ""),
        (METADATA, "", ""),
    ],
)
def test_large_groups_in_rules_are_noted_where_they_are_slow(
    cloud: Cloud, trace: dict[str, Any], agent: str, expected: str
) -> None:
    cloud.ports = [port(device_owner="network:dhcp", **trace)]
    cloud.network.agents = lambda: [plain(agent_type=agent)]
    few, many = (
        next(
            it
            for it in backend.backend(cloud.facts(is_admin=bool(agent), workerCount=count))
            if "group" in it.looked_at
        )
        for count in (str(MANY_MEMBERS - 1), str(MANY_MEMBERS))
    )
    assert few.result is Outcome.OK
    assert f"k8s-worker, has {MANY_MEMBERS} members" in many.found
    assert many.result is (Outcome.NOTE if expected else Outcome.OK)
    assert expected in many.found


def test_what_a_floating_ip_waits_for_on_ovn_is_named(cloud: Cloud) -> None:
    cloud.add_external()
    cloud.ports.append(port(device_owner="network:distributed", **METADATA))
    assert "southbound" not in next(backend.backend(cloud.facts())).found
    assert "southbound" in next(backend.backend(cloud.facts(**OUTSIDE))).found


# ---- this machine


def on_the_segment(address: IPv4Address) -> Route:
    return Route(interface="eth0", source=IPv4Address("198.51.100.9"), direct=address in SEGMENT)


def beyond_a_router(_: IPv4Address) -> Route:
    return Route(interface="eth0", source=IPv4Address("100.64.0.9"), direct=False)


SEGMENT = [IPv4Address(f"198.51.100.{last}") for last in range(256)]


def test_routes_are_parsed() -> None:
    direct = '[{"dst":"198.51.100.5","dev":"eth0","prefsrc":"198.51.100.9","flags":[]}]'
    assert parse_route(direct) == Route(interface="eth0", source=IPv4Address("198.51.100.9"), direct=True)
    beyond = '[{"dst":"198.51.100.5","gateway":"100.64.0.1","dev":"eth1","prefsrc":"100.64.0.9","flags":[]}]'
    assert parse_route(beyond) == Route(interface="eth1", source=IPv4Address("100.64.0.9"), direct=False)


def test_a_stranger_that_answers_arp_for_the_vip_is_a_problem(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str | None] = [None, "fa:16:3e:00:00:02", "fa:16:3e:00:00:01"]
    monkeypatch.setattr(segment, "route_to", on_the_segment)
    monkeypatch.setattr(segment, "answering_load_balancer", saying(lambda: "k8s-lb-0"))
    monkeypatch.setattr(segment, "arp_answer", saying(lambda: answers.pop(0)))
    assert all_ok(segment.vip_on_the_wire(cloud.facts(vip=VIP)))
    assert "fa:16:3e:00:00:02 answers" in only(segment.vip_on_the_wire(cloud.facts(vip=VIP))).found
    cloud.ports = [port("k8s-lb-0"), port("k8s-vip", VIP)]
    assert "k8s-lb-0 answers" in next(segment.vip_on_the_wire(cloud.facts(vip=VIP))).found


def test_the_vip_must_not_be_an_address_of_this_machine(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "route_to", on_the_segment)
    assert "this machine" in only(segment.vip_on_the_wire(cloud.facts(vip="198.51.100.9"))).found


def test_beyond_a_router_the_vip_is_checked_with_connections(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = "no answer"
    monkeypatch.setattr(segment, "route_to", beyond_a_router)
    monkeypatch.setattr(segment, "_attempt", saying(lambda: seen))
    facts = cloud.facts(vip=VIP)
    assert next(segment.vip_on_the_wire(facts)).result is Outcome.NOT_CHECKED
    seen = "refused"
    assert "refused" in only(segment.vip_on_the_wire(facts)).found
    cloud.ports = [port("k8s-vip", VIP)]
    assert all_ok(segment.vip_on_the_wire(cloud.facts(vip=VIP)))


def test_beyond_a_router_a_vip_with_a_floating_ip_is_checked_there(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the VIP itself TCP connects, and no data ever comes."""
    asked: list[IPv4Address] = []

    def attempt(address: IPv4Address, _: int) -> str:
        asked.append(address)
        return "open"

    monkeypatch.setattr(segment, "route_to", beyond_a_router)
    monkeypatch.setattr(segment, "_attempt", attempt)
    cloud.ports = [port("k8s-vip", VIP)]
    cloud.floating_ips = [plain(floating_ip_address="203.0.113.9")]
    (finding,) = segment.vip_on_the_wire(cloud.facts(vip=VIP))
    assert finding.result is Outcome.OK
    assert finding.looked_at == "floating IP 203.0.113.9 from here"
    assert {*asked} == {IPv4Address("203.0.113.9")}


def test_a_vip_outside_the_subnet_is_not_probed(cloud: Cloud) -> None:
    with pytest.raises(CannotCheckError, match="not in the subnet"):
        list(segment.vip_on_the_wire(cloud.facts(vip="100.64.0.5")))


def test_advertisements_are_parsed() -> None:
    header = bytes([0x46, 0, 0, 0, 0, 0, 0, 0, 255, 112, 0, 0, 198, 51, 100, 7, 224, 0, 0, 18, 0x94, 4, 0, 0])
    assert parse_vrrp(header + bytes([0x31, 52, 100, 1])) == (IPv4Address("198.51.100.7"), 3, 52)


def test_another_user_of_our_router_id_is_noted(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: set[tuple[IPv4Address, int, int]] = {(IPv4Address("198.51.100.7"), 2, 52)}
    monkeypatch.setattr(segment, "route_to", on_the_segment)
    monkeypatch.setattr(segment, "heard_vrrp", saying(lambda: heard))
    assert "id 52 (VRRPv2) from 198.51.100.7" in next(segment.vrrp_on_the_segment(cloud.facts())).found
    assert all_ok(segment.vrrp_on_the_segment(cloud.facts()))
    assert only(segment.vrrp_on_the_segment(cloud.facts(vrrpRouterId="52")), Outcome.NOTE)
    monkeypatch.setattr(segment, "heard_vrrp", refusal(PermissionError()))
    assert "root" in next(segment.vrrp_on_the_segment(cloud.facts())).found
    monkeypatch.setattr(segment, "route_to", beyond_a_router)
    assert next(segment.vrrp_on_the_segment(cloud.facts())).result is Outcome.NOT_CHECKED


def test_ssh_from_this_machine_must_be_admitted(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "route_to", on_the_segment)
    assert all_ok(segment.admission(cloud.facts(), configuration()))
    outside = '["198.51.100.128/25"]'
    assert "198.51.100.9/32" in only(segment.admission(cloud.facts(adminCidrs=outside), configuration())).to_do
    monkeypatch.setattr(segment, "route_to", beyond_a_router)
    assert "NAT" in only(segment.admission(cloud.facts(), configuration()), Outcome.NOTE).found


def at(server: Server, host_key: bytes) -> dict[str, Any]:
    """A configuration whose bastion is a server on loopback."""
    key = known_hosts(host_key, 22).partition(" ")[2].strip()
    port = str(server.access.port)
    return {"bastionHost": "127.0.0.1", "bastionPort": port, "bastionUser": "debian", "bastionHostKey": key}


@pytest.fixture
def bastion() -> Iterator[Server]:
    server = Server(Access(user="debian", private_key=key_pair()[0], known_hosts="", patience=0))
    yield server
    server.end()


def test_a_bastion_must_accept_the_login_and_have_the_pinned_host_key(bastion: Server) -> None:
    assert "does not answer" in only(segment.bastion(configuration(**at(bastion, HOST_KEY)))).found
    bastion.start()
    assert all_ok(segment.bastion(configuration(**at(bastion, HOST_KEY))))
    assert "host key" in only(segment.bastion(configuration(**at(bastion, OTHER_KEY)))).found
    stranger = replace(configuration(**at(bastion, HOST_KEY)), private_key=OTHER_KEY.decode())
    assert "refuses debian" in only(segment.bastion(stranger)).found
    assert [*segment.bastion(configuration())] == []


def test_a_bastion_must_forward_connections(cloud: Cloud, bastion: Server) -> None:
    settings = at(bastion, HOST_KEY)

    def forwarding() -> Iterable[Finding]:
        return segment.forwarding(cloud.facts(**settings), configuration(**settings))

    with pytest.raises(CannotCheckError, match="no connection to the bastion"):
        list(forwarding())
    bastion.start(forbid)
    found = only(forwarding())
    assert "does not forward connections for debian" in found.found
    assert "AllowTcpForwarding" in found.to_do
    assert [*segment.forwarding(cloud.facts(), configuration())] == []


def test_a_bastion_may_forward_to_a_host_that_is_not_there(cloud: Cloud, bastion: Server) -> None:
    settings = at(bastion, HOST_KEY)
    bastion.start()
    assert all_ok(segment.forwarding(cloud.facts(**settings), configuration(**settings)))


@pytest.mark.parametrize("printed", ["Only forwarding here.", "", "42", '[{"dev": "eth0"}]'])
def test_a_bastion_that_runs_a_command_of_its_own_has_an_unknown_route(
    cloud: Cloud, bastion: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str
) -> None:
    """As with a forced command (sshd_config(5): ForceCommand), whatever is asked for."""
    forced = tmp_path / "ip"
    forced.write_text(f"#!/bin/sh\necho '{printed}'\n")
    forced.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    bastion.start()
    settings = at(bastion, HOST_KEY)
    with pytest.raises(CannotCheckError, match="did not run `ip`"):
        list(segment.admission(cloud.facts(**settings), configuration(**settings)))


def test_an_open_or_refused_port_shows_that_a_host_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        assert segment._attempt(IPv4Address("127.0.0.1"), port) == "open"  # pyright: ignore[reportPrivateUsage]
    assert segment._attempt(IPv4Address("127.0.0.1"), port) == "refused"  # pyright: ignore[reportPrivateUsage]


# ---- the endpoint's name


NAME = "api.example.com"


def answering(monkeypatch: pytest.MonkeyPatch, *addresses: str, error: int = socket.EAI_NONAME) -> None:
    """What this machine's resolver answers for any name."""

    found = [(socket.AF_INET, kind, 0, "", (it, 0)) for it in addresses for kind in (1, 2, 3)]
    unknown = refusal(socket.gaierror(error, "no"))
    monkeypatch.setattr(socket, "getaddrinfo", saying(lambda: found) if found else unknown)


def test_the_endpoint_s_name_must_lead_to_the_vip(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = cloud.facts(endpointName=NAME, vip=VIP)
    assert [*endpoint.name(cloud.facts(vip=VIP))] == []
    answering(monkeypatch, VIP)
    assert all_ok(endpoint.name(facts))
    for wrong in (["198.51.100.7"], [VIP, "198.51.100.7"], []):
        answering(monkeypatch, *wrong)
        finding = only(endpoint.name(facts))
        assert f"the endpoint is {VIP}" in finding.found
        assert f"{NAME} A {VIP}" in finding.to_do
    answering(monkeypatch, error=socket.EAI_AGAIN)
    with pytest.raises(CannotCheckError, match="do not answer"):
        list(endpoint.name(facts))


def test_the_endpoint_s_name_must_lead_to_the_floating_ip_if_there_is_one(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: dict[str, Any] = {"endpointName": NAME, "floatingNetwork": "outside", "vip": VIP}
    answering(monkeypatch, VIP)
    assert "not known before" in only(endpoint.name(cloud.facts(**named)), Outcome.NOTE).found
    cloud.ports = [port("k8s-vip", VIP)]
    cloud.floating_ips = [plain(floating_ip_address="203.0.113.9")]
    assert "203.0.113.9" in only(endpoint.name(cloud.facts(**named))).to_do
    answering(monkeypatch, "203.0.113.9")
    assert all_ok(endpoint.name(cloud.facts(**named)))


def test_the_endpoint_s_name_cannot_lead_to_an_address_that_neutron_has_yet_to_choose(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch)
    assert only(endpoint.name(cloud.facts(endpointName=NAME, vip="")), Outcome.NOTE).to_do


ZONE: dict[str, Any] = {"endpointName": NAME, "endpointZone": "example.com", "vip": VIP}


def test_designate_must_have_the_zone(cloud: Cloud) -> None:
    assert [*account.designate(cloud.facts())] == []
    assert all_ok(account.designate(cloud.facts(**ZONE)))
    cloud.zones = [plain(name="example.org.")]
    assert "use one of example.org" in only(account.designate(cloud.facts(**ZONE))).to_do
    cloud.dns.get_endpoint = lambda: None
    assert only(account.designate(cloud.facts(**ZONE))).looked_at == "Designate"


def test_a_record_that_pulumi_up_creates_must_not_be_there(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch)
    facts = cloud.facts(**ZONE)
    assert all_ok(endpoint.name(facts))
    cloud.records = [plain(type="TXT")]
    assert all_ok(endpoint.name(facts))
    cloud.records = [plain(type="A")]
    assert "409" in only(endpoint.name(facts)).found
    cloud.zones = []
    with pytest.raises(CannotCheckError, match="zone"):
        list(endpoint.name(cloud.facts(**ZONE)))


def test_a_record_that_the_stack_has_created_must_be_resolved(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"type": facts_module.RECORD, "outputs": {"name": f"{NAME}."}}
    monkeypatch.setattr(facts_module, "query", state_with(made))
    cloud.records = [plain(type="A")]
    answering(monkeypatch, VIP)
    assert all_ok(endpoint.name(cloud.facts(**ZONE)))
    answering(monkeypatch)
    assert "delegated" in only(endpoint.name(cloud.facts(**ZONE))).to_do
    # Another name's record has yet to be created.
    made["outputs"] = {"name": "old.example.com."}
    assert "409" in only(endpoint.name(cloud.facts(**ZONE))).found


# ---- all of it


def run(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, **values: Any) -> Preflight:
    monkeypatch.setattr(segment, "route_to", on_the_segment)
    monkeypatch.setattr(segment, "arp_answer", saying(lambda: None))
    monkeypatch.setattr(segment, "heard_vrrp", saying(set[Any]))
    return run_checks(configuration(**values), lambda: cloud, with_instance=False, progress=lambda _: None)


def by_name(preflight: Preflight) -> dict[str, Finding]:
    return {finding.looked_at: finding for group in preflight.groups for finding in group.findings}


def test_a_valid_configuration_has_no_problem(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.access.expires = datetime.now(UTC) + timedelta(hours=24)
    assert run(cloud, monkeypatch, vip=VIP).count(Outcome.PROBLEM) == 0


def test_without_a_token_only_the_bastion_is_checked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = str(listener.getsockname()[1])
    key = known_hosts(HOST_KEY, 22).partition(" ")[2].strip()
    there = configuration(bastionHost="127.0.0.1", bastionPort=closed, bastionHostKey=key)
    refused = refusal(Unauthorized(message="no"))
    preflight = run_checks(there, refused, with_instance=True, progress=lambda _: None)
    found = by_name(preflight)
    problems = {name for name, finding in found.items() if finding.result is Outcome.PROBLEM}
    assert problems == {"token", "bastion 127.0.0.1"}
    assert {it.result for name, it in found.items() if name not in problems} == {Outcome.NOT_CHECKED}


def test_all_problems_are_reported_together_with_the_checks_that_depend_on_them(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = by_name(run(cloud, monkeypatch, workerFlavor="huge", workerImage="none", subnet="nowhere", vip=VIP))
    problems = {name for name, finding in found.items() if finding.result is Outcome.PROBLEM}
    assert problems == {"flavor huge", "image none", "subnet nowhere"}
    assert found["Nova's quota"].found == "not checked: the flavor 'huge' is unknown"
    assert found["quota: instances"].result is Outcome.OK
    assert found["VIP"].found == "not checked: the subnet is unknown"


def test_an_error_of_the_cloud_is_a_finding(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.compute.availability_zones = refusal(HttpException("500: Unexpected API Error", http_status=500))
    cloud.network.get_quota = refusal(ForbiddenException("403: policy"))
    found = by_name(run(cloud, monkeypatch, workerAvailabilityZones='["east"]'))
    assert found["availability zones"].result is Outcome.PROBLEM
    assert "500" in found["availability zones"].found
    assert found["Neutron's quota"].result is Outcome.NOTE
    assert found["quota: instances"].result is Outcome.OK


def test_the_temporary_resources_are_deleted_and_nothing_else() -> None:
    deleted: list[str] = []

    def delete(thing: Any, **_: object) -> None:
        deleted.append(thing if isinstance(thing, str) else thing.id)

    def of_project(kind: str) -> Any:
        """An administrator's list: all projects' resources, unless one project is named."""
        every = {"ours": plain(id=kind), "theirs": plain(id=f"their {kind}")}

        def listed(project_id: str | None = None, **_: object) -> list[Any]:
            return [it for project, it in every.items() if project_id in (None, project)]

        return listed

    servers = [plain(id="server", name="k8s-preflight"), plain(id="other", name="k8s-preflight-2")]
    cloud = plain(
        compute=plain(
            servers=saying(lambda: servers),
            delete_server=delete,
            wait_for_delete=saying(lambda: deleted.append("waited")),
            delete_keypair=delete,
        ),
        network=plain(
            ports=of_project("port"),
            delete_port=delete,
            security_groups=of_project("group"),
            delete_security_group=delete,
        ),
    )
    remove(cloud, "ours", "k8s-preflight")
    assert deleted == ["server", "waited", "port", "group", "k8s-preflight"]


def test_a_vip_that_another_preflight_tries_at_the_same_time_is_no_problem() -> None:
    refused = refusal(ConflictException("409: IpAddressAlreadyAllocated"))
    network = plain(create_port=refused, delete_port=refused)
    settings = Settings.parse(example_values(vip=VIP))
    untyped: Any = boot
    found = untyped._reserve(
        plain(settings=settings, cloud=plain(network=network), subnet=plain(id="s"), network=plain(id="n")), "name"
    )
    assert found.result is Outcome.NOT_CHECKED
    assert "409" in found.found


@pytest.mark.parametrize("what", ["create_security_group", "create_port", "create_server"])
def test_a_user_who_may_not_create_what_an_up_creates_has_a_problem(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    removed: list[str] = []
    monkeypatch.setattr(boot, "remove", lambda _cloud, _project, name: removed.append(name))  # pyright: ignore
    for service in (cloud.network, cloud.compute):
        for creation in ("create_security_group", "create_security_group_rule", "create_port", "create_keypair"):
            setattr(service, creation, saying(lambda: plain(id="new")))
    service = cloud.compute if what == "create_server" else cloud.network
    setattr(service, what, refusal(ForbiddenException(f"403: policy forbids {what}")))
    cloud.network.security_groups = saying(list[Any])
    last = [*try_boot(cloud.facts(), configuration())][-1]
    assert last.result is Outcome.PROBLEM
    assert f"policy forbids {what}" in last.found
    assert "role member" in last.to_do
    assert len(removed) == 1


def ended_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_two_runs_at_once_leave_each_other_s_resources_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.parse(example_values())
    mine = temporary_name(settings, NOW)
    assert not is_left(mine, settings, NOW)
    monkeypatch.setattr(os, "getpid", os.getppid)
    on_this_machine = temporary_name(settings, NOW)
    monkeypatch.setattr(os, "getpid", ended_process)
    killed_here = temporary_name(settings, NOW)
    monkeypatch.setattr(boot, "_machine", lambda: "0123abcd")
    elsewhere, old = temporary_name(settings, NOW), temporary_name(settings, NOW - LEFT_AFTER * 1.1)
    monkeypatch.undo()
    assert len({mine, on_this_machine, killed_here, elsewhere, old}) == 5
    assert not is_left(on_this_machine, settings, NOW)
    assert not is_left(elsewhere, settings, NOW)
    assert is_left(killed_here, settings, NOW)
    assert is_left(old, settings, NOW)
    for other in (killed_here.replace("k8s-", "k8s-2-"), f"{killed_here}-0", "k8s-preflight", "k8s-lb-0"):
        assert not is_left(other, settings, NOW), other


def test_a_run_in_another_container_of_this_host_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may share the host's name and network. Its process ids mean nothing here."""
    settings = Settings.parse(example_values())
    with monkeypatch.context() as container:
        container.setattr(boot, "PID_NAMESPACE", tmp_path)
        container.setattr(os, "getpid", ended_process)
        in_container = temporary_name(settings, NOW)
        assert is_left(in_container, settings, NOW)
        container.setattr(boot, "PID_NAMESPACE", tmp_path / "missing")  # not on Linux
        assert is_left(temporary_name(settings, NOW), settings, NOW)
    assert not is_left(in_container, settings, NOW)
    assert is_left(in_container, settings, NOW + 2 * LEFT_AFTER)


def test_leftovers_of_every_kind_are_found_and_only_in_the_project() -> None:
    settings = Settings.parse(example_values())
    names = [temporary_name(settings, NOW - days * LEFT_AFTER) for days in range(2, 6)]

    def of_project(name: str) -> Any:
        def listed(project_id: str) -> list[Any]:
            assert project_id == "ours"
            return [plain(name=name), plain(name="k8s-lb-0")]

        return listed

    cloud = plain(
        compute=plain(
            servers=saying(lambda: [plain(name=names[0]), plain(name=temporary_name(settings, NOW))]),
            keypairs=saying(lambda: [plain(name=names[1]), plain(name="k8s")]),
        ),
        network=plain(ports=of_project(names[2]), security_groups=of_project(names[3])),
    )
    assert leftovers(cloud, "ours", settings, NOW) == sorted(names)


def test_where_kubernetes_comes_from_is_tried_from_an_instance() -> None:
    settings = Settings.parse(example_values(kubernetesVersion="1.37", registryMirror="http://registry.example:5000"))
    tried: list[str] = []

    async def step(script: str) -> str:
        tried.append(script)
        if "madison" in script:
            return "version=1.37.2"
        raise asyncssh.ProcessError(None, "sudo -n bash -s", None, 7, None, 7, "", "curl: (7) refused")

    packages, registry = asyncio.run(boot._sources_of_the_cluster(settings, step))  # pyright: ignore[reportPrivateUsage]
    assert (packages.result, packages.found) == (Outcome.OK, f"{settings.kubernetes_repository_url} has 1.37.2")
    assert "http://registry.example:5000/v2/" in tried[1]
    assert registry.result is Outcome.PROBLEM
    assert "curl: (7) refused" in registry.found


def test_a_kernel_that_firewalld_does_not_start_on_is_a_problem() -> None:
    settings = Settings.parse(example_values())
    said = "k8s-preflight: firewalld does not start, because the kernel 6.8.0 lacks nft_fib_inet: ERROR: ..."
    script = ""

    async def step(tried: str) -> str:
        nonlocal script
        script = tried
        raise asyncssh.ProcessError(None, "sudo -n bash -s", None, 1, None, 1, "", said)

    finding = asyncio.run(boot._firewalld(settings, step))  # pyright: ignore[reportPrivateUsage]
    assert finding.result is Outcome.PROBLEM
    assert said in finding.found
    assert "linux-modules-extra" in finding.to_do
    assert "nft_limit" not in script  # without frontends


def test_an_instance_on_which_firewalld_starts_is_ok() -> None:
    settings = Settings.parse(
        example_values(frontends=[{"name": "ingress", "port": 443, "targetPort": 30443, "allowedCidrs": ["0.0.0.0/0"]}])
    )
    script = ""

    async def step(tried: str) -> str:
        nonlocal script
        script = tried
        return "firewalld runs"

    finding = asyncio.run(boot._firewalld(settings, step))  # pyright: ignore[reportPrivateUsage]
    assert finding.result is Outcome.OK
    assert "nft_limit" in script
