"""The whole program against mocks, in preview and in update: what would be made, in which order, and what is secret."""

import asyncio
import json
import re
import shlex
from collections import Counter
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from uuid import NAMESPACE_DNS, uuid5

import pulumi
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from dev.review.recording_cloud import RecordingCloud, key_pair
from model.settings import SECRET_KEYS, HostKeyType
from tests.unit.example import example_values

VIP = "198.51.100.100"
UUID = "6f7e1c0a-5b5c-4d3e-9a54-0d9b3f9d2c11"
EXTERNAL = "198.51.100.9"

FRONTENDS = {
    "frontends": json.dumps(
        [
            {"name": "ingress", "port": 443, "targetPort": 30443, "allowedCidrs": ["203.0.113.0/24"]},
            {"name": "rke2", "port": 9345, "target": "controlPlane"},
        ]
    )
}

# A run of the whole program takes most of a test's time, so tests share runs: of the default configuration, of one with
# every option in use, and so on. EVERY_OPTION checks too that the options work together.
EVERY_OPTION = {
    "apiServers": f'["{EXTERNAL}"]',
    "bastionHost": "2001:db8::1",
    "bastionHostKey": key_pair()[1],
    "bastionPort": "2222",
    "bastionUser": "first.last",
    "configDrive": "true",
    "controlPlaneAvailabilityZones": '["a", "b"]',
    "controlPlaneRootVolumeSize": "30",
    "controlPlaneServerGroupPolicy": "anti-affinity",
    "floatingNetwork": "public",
    "floatingSubnet": "public-v4",
    **FRONTENDS,
    "hostKeyType": "ecdsa",
    "loadBalancerImage": UUID,
    "loadBalancerServerGroupPolicy": "anti-affinity",
    "vrrpPassword": "P@ssw0rd",
    "workerCount": "3",
    "workerFlavor": "42",
    "workerRootVolumeSize": "20",
    "workerRootVolumeType": "ssd",
}
LITTLE = {
    "apiServers": f'["{EXTERNAL}"]',
    "controlPlaneCount": "0",
    "controlPlaneFlavor": "",
    "controlPlaneImage": "",
    "vip": "",
}
MORE_WORKERS = {"workerCount": "3"}
WITHOUT_GROUPS = MORE_WORKERS | {"controlPlaneServerGroupPolicy": "none", "loadBalancerServerGroupPolicy": "none"}


@cache
def shared_run(preview: bool, changes: frozenset[tuple[str, str]]) -> RecordingCloud:
    return RecordingCloud(preview=preview).run(example_values(vip=VIP) | dict(changes))


def run(preview: bool = False, /, **changes: str) -> RecordingCloud:
    # `cache` by itself would run again for `run(False)` after `run()`.
    return shared_run(preview, frozenset(changes.items()))


def test_every_resource_is_unique_by_type_and_name_and_has_a_parent(preview: bool):
    cloud = run(preview)
    counted = Counter((resource.type, resource.name) for resource in cloud.resources)
    assert [key for key, count in counted.items() if count > 1] == []
    orphans = {
        resource.name for resource in cloud.resources if resource.type.count(":") and not resource.registration.parent
    }
    assert orphans == set()


def test_the_instances_are_those_of_the_configuration(preview: bool):
    assert sorted(run(preview).of_type("compute/instance:Instance")) == [
        "k8s-cp-0", "k8s-cp-1", "k8s-cp-2", "k8s-lb-0", "k8s-lb-1", "k8s-worker-0",
    ]  # fmt: skip


def test_growing_a_role_leaves_the_other_instances_unchanged():
    small, large = run(), run(**MORE_WORKERS)
    added = {(r.type, r.name) for r in large.resources} - {(r.type, r.name) for r in small.resources}
    assert {name for _, name in added} == {
        f"k8s-worker-{i}{suffix}" for i in (1, 2) for suffix in ("", "-host-key", "-prepare")
    }
    for instance in small.of_type("compute/instance:Instance").values():
        assert large.of_type("compute/instance:Instance")[instance.name].inputs == instance.inputs


def test_the_vip_port_is_bound_to_no_instance(preview: bool):
    port = run(preview).of_type("networking/port:Port")["k8s-vip"]
    assert port.inputs["adminStateUp"] is False
    assert port.inputs["noSecurityGroups"] is True
    assert port.inputs["fixedIps"] == [{"subnetId": "id-of-provider-v4", "ipAddress": VIP}]


def test_only_the_vip_port_and_its_floating_ip_are_protected(preview: bool):
    cloud = run(preview, **EVERY_OPTION)
    protected = {(it.type.rpartition(":")[2], it.name) for it in cloud.resources if it.registration.protect}
    assert protected == {("Port", "k8s-vip"), ("FloatingIp", "k8s-vip-floating")}


def test_neutron_picks_the_vip_when_none_is_given():
    port = run(**LITTLE).of_type("networking/port:Port")["k8s-vip"]
    assert port.inputs["fixedIps"] == [{"subnetId": "id-of-provider-v4"}]


def test_only_load_balancers_have_an_address_pair_and_only_for_the_vip():
    ports = run().of_type("networking/port:Port")
    pairs = {name: port.inputs.get("allowedAddressPairs") for name, port in ports.items()}
    assert {name for name, pair in pairs.items() if pair} == {"k8s-lb-0", "k8s-lb-1"}
    assert pairs["k8s-lb-0"] == pairs["k8s-lb-1"] == [{"ipAddress": VIP}]


def test_another_policy_of_a_server_group_deletes_no_instance_before_its_successor_s_group_is_there():
    """Otherwise the engine deletes the group first, and with it all instances of the role at once."""
    groups = run().of_type("compute/serverGroup:ServerGroup")
    assert groups
    for group in groups.values():
        assert group.registration.deleteBeforeReplaceDefined
        assert not group.registration.deleteBeforeReplace


def test_the_second_load_balancer_is_created_replaced_and_upgraded_after_the_first_serves(preview: bool):
    instances = run(preview).of_type("compute/instance:Instance")
    commands = run(preview).of_type("remote:Command")
    assert "k8s-lb-0-configure" in instances["k8s-lb-1"].depends_on
    assert "k8s-lb-0-configure" in commands["k8s-lb-1-install"].depends_on


INSTANCE = "openstack:compute/instance:Instance"


def instances_before(cloud: RecordingCloud, name: str) -> set[str]:
    urns = cloud.of_type("compute/instance:Instance")[name].registration.dependencies
    return {urn.rpartition("::")[2] for urn in urns if f"{INSTANCE}::" in urn}


@pytest.mark.parametrize(
    "changes",
    [MORE_WORKERS, EVERY_OPTION, WITHOUT_GROUPS],
    ids=["soft-anti-affinity", "anti-affinity", "none"],
)
def test_control_plane_hosts_are_created_and_replaced_one_after_another(preview: bool, changes: dict[str, str]):
    """Nova does not consider instances that it schedules at the same moment; and each joins after the one before."""
    cloud = run(preview, **changes)
    assert instances_before(cloud, "k8s-cp-2") == {"k8s-cp-1"}
    assert instances_before(cloud, "k8s-cp-0") == set()
    assert instances_before(cloud, "k8s-worker-2") == set()
    # What runs on the hosts does not wait, and a replacement of one does not touch the next: no input depends on it.
    assert "k8s-cp-1-prepare" not in cloud.of_type("remote:Command")["k8s-cp-2-prepare"].depends_on
    inputs = cloud.of_type("compute/instance:Instance")["k8s-cp-2"].registration.propertyDependencies
    assert not [urn for it in inputs.values() for urn in it.urns if urn.endswith("k8s-cp-1")]


@pytest.mark.parametrize(
    ("holder", "first", "second"),
    [
        ("k8s-lb-0", 1, 0),
        ("k8s-lb-1", 0, 1),
        (None, 0, 1),
        ("a stranger", 0, 1),
    ],
)
def test_the_standby_is_changed_first_where_it_is_known(
    monkeypatch: pytest.MonkeyPatch, holder: str | None, first: int, second: int
):
    asked: list[str] = []
    monkeypatch.setattr("program.holder.answering_load_balancer", lambda vip: asked.append(vip) or holder)  # pyright: ignore
    cloud = RecordingCloud(ports_in_use={VIP: "k8s-vip"}).run(example_values(vip=VIP))
    assert asked == [VIP]
    commands, instances = cloud.of_type("remote:Command"), cloud.of_type("compute/instance:Instance")
    for later in (instances[f"k8s-lb-{second}"], commands[f"k8s-lb-{second}-configure"]):
        assert f"k8s-lb-{first}-configure" in later.depends_on
    assert not {name for name in instances[f"k8s-lb-{first}"].depends_on if f"lb-{second}" in name}
    # Another holder alone is no change: names, scripts and what triggers the proof stay.
    known = run()
    for resource in known.resources:
        if resource.type.endswith(("remote:Command", "compute/instance:Instance")):
            (same,) = (it for it in cloud.resources if (it.type, it.name) == (resource.type, resource.name))
            assert same.inputs == resource.inputs, resource.name
    assert cloud.outputs == known.outputs


def test_the_holder_is_not_queried_before_the_vip_exists(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("program.holder.answering_load_balancer", lambda vip: pytest.fail(f"asked {vip}"))  # pyright: ignore
    RecordingCloud().run(example_values(vip=VIP))


@pytest.mark.parametrize(
    ("changes", "served"),
    [(EVERY_OPTION, ["k8s-cp-0", "k8s-cp-1", "k8s-cp-2", EXTERNAL]), (LITTLE, [EXTERNAL])],
    ids=["with", "without"],
)
def test_existing_api_servers_are_served_with_or_without_the_program_s_own(changes: dict[str, str], served: list[str]):
    cloud = run(**changes)
    text = cloud.of_type("remote:Command")["k8s-lb-0-configure"].inputs["stdin"]
    in_both_backends = [*served, *served]
    assert re.findall(r"^    server (\S+) \S+:6443$", text, re.MULTILINE) == in_both_backends
    control_plane = {name for name in cloud.of_type("compute/instance:Instance") if "-cp-" in name}
    assert control_plane == {*served} - {EXTERNAL}


def servers_of(cloud: RecordingCloud, port: int) -> list[str]:
    text = cloud.of_type("remote:Command")["k8s-lb-0-configure"].inputs["stdin"]
    return re.findall(rf"^    server (\S+) \S+:{port}$", text, re.MULTILINE)


def test_a_frontend_leads_to_all_hosts_of_its_role():
    cloud = run(**EVERY_OPTION)
    assert servers_of(cloud, 30443) == ["k8s-worker-0", "k8s-worker-1", "k8s-worker-2"]
    assert servers_of(cloud, 9345) == ["k8s-cp-0", "k8s-cp-1", "k8s-cp-2"]


def changed(before: RecordingCloud, after: RecordingCloud) -> set[str]:
    """Names of the resources whose inputs differ; what is new is no change."""
    new = {(it.type, it.name): it.inputs for it in after.resources}
    return {it.name for it in before.resources if new.get((it.type, it.name)) != it.inputs}


def test_adding_a_frontend_configures_the_load_balancers_and_adds_rules():
    before, after = run(), run(**FRONTENDS)
    steps = {f"k8s-lb-{index}-{step}" for index in (0, 1) for step in ("configure", "prove")}
    assert changed(before, after) == steps
    added = {(it.type, it.name) for it in after.resources} - {(it.type, it.name) for it in before.resources}
    assert {kind.rpartition(":")[2] for kind, _ in added} == {"SecGroupRule"}
    assert len(added) == 3 + 1 + 2 + 1


def test_flannel_s_rule_is_the_one_that_older_stacks_have():
    rules = run(kubernetesVersion="1.37").of_type("secGroupRule:SecGroupRule")
    (alias,) = rules["k8s-cp-plugin-udp-8472-from-worker"].registration.aliases
    assert alias.spec.name == "k8s-cp-flannel-from-worker"
    assert all(list(rule.registration.ignoreChanges) == ["description"] for rule in rules.values())


def test_a_new_worker_configures_the_load_balancers_only_if_a_frontend_leads_there():
    configured = {"k8s-lb-0-configure", "k8s-lb-1-configure"}
    assert not changed(run(), run(**MORE_WORKERS)) & configured
    assert changed(run(**FRONTENDS), run(**FRONTENDS, **MORE_WORKERS)) >= configured


def test_no_load_balancer_waits_for_another_role_s_host(preview: bool):
    """Only for the addresses of their ports: a host that is down must keep no change from the load balancers."""
    cloud = run(preview)
    steps = cloud.of_type("remote:Command")
    for name in ("k8s-lb-0", "k8s-lb-1"):
        for resource in (
            cloud.of_type("compute/instance:Instance")[name],
            *(it for it in steps.values() if name in it.name),
        ):
            # A port and its instance have the same name, which rules start with.
            others = {it for it in resource.registration.dependencies if re.search(r"::k8s-(cp|worker)-\d", it)}
            assert {it for it in others if "networking/port:Port::" not in it} == set()


def test_after_a_failure_on_another_host_the_load_balancers_are_done_already(preview: bool):
    """The engine starts nothing more after the first failure."""
    steps = run(preview).of_type("remote:Command")
    for name in ("k8s-cp-0", "k8s-cp-1", "k8s-cp-2", "k8s-worker-0"):
        assert "k8s-lb-1-configure" in steps[f"{name}-prepare"].depends_on


def test_a_step_is_re_created_whatever_changes():
    """After a failure its record is gone, so the next run repeats it, also with the old value."""
    for step in run().of_type("remote:Command").values():
        assert "*" in step.registration.replaceOnChanges
        assert step.registration.deleteBeforeReplace


def test_a_takeover_can_configure_the_pair_without_its_proof():
    """A step that is re-created takes with it what has one of its outputs as an input, excluded or not."""
    steps = run().of_type("remote:Command")
    for name in ("k8s-lb-0", "k8s-lb-1"):
        assert f"id-of-{name}" in steps[f"{name}-prove"].inputs["triggers"]
        assert f"id-of-{name}-configure" not in steps[f"{name}-prove"].inputs["triggers"]


def test_a_new_public_key_replaces_the_key_pair_but_no_host():
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    before, after = run(), run(publicKey=public, sshPrivateKey=private)
    for name, instance in before.of_type("compute/instance:Instance").items():
        assert after.of_type("compute/instance:Instance")[name].inputs == instance.inputs
        assert "k8s" in instance.depends_on


def test_address_pairs_of_the_control_plane_and_the_workers_are_not_the_program_s():
    """Calico sets them; `pulumi up --refresh` would remove them."""
    ports = run().of_type("networking/port:Port")
    ignored = {name: list(port.registration.ignoreChanges) for name, port in ports.items()}
    assert ignored["k8s-cp-0"] == ignored["k8s-worker-0"] == ["allowedAddressPairs"]
    assert ignored["k8s-lb-0"] == ignored["k8s-lb-1"] == []


@pytest.mark.parametrize("slaac", ["2001:db8::5", "fd00::5"])  # sorted as text, before and after the IPv4 address
def test_a_port_s_address_is_the_one_in_the_subnet(monkeypatch: pytest.MonkeyPatch, slaac: str):
    """Neutron adds an address to every port for each subnet with SLAAC on the network."""
    asked: list[str] = []
    monkeypatch.setattr("program.holder.answering_load_balancer", asked.append)
    cloud = RecordingCloud(slaac_address=slaac, ports_in_use={VIP: "k8s-vip"}).run(example_values(vip=VIP))
    assert asked == [VIP]
    assert cloud.outputs == run().outputs


def test_the_holder_of_a_vip_with_a_floating_ip_is_queried_there(monkeypatch: pytest.MonkeyPatch):
    """From beyond the router its own address connects and never answers."""
    asked: list[str] = []
    monkeypatch.setattr("program.holder.answering_load_balancer", asked.append)
    RecordingCloud(ports_in_use={VIP: "k8s-vip"}).run(example_values(vip=VIP, floatingNetwork="public"))
    assert asked == ["100.64.0.9"]


def test_the_vip_s_port_is_updated_after_the_address_pairs_whenever_the_address_changes(preview: bool):
    """ML2/OVN binds the port when its address changes, and does not make a bound port a virtual one."""
    update = run(preview).of_type("networking/portSecGroupAssociate:PortSecGroupAssociate")["k8s-vip-notice-pairs"]
    assert update.inputs["securityGroupIds"] == []
    assert {"k8s-lb-0", "k8s-lb-1"} <= set(update.depends_on)
    assert preview or update.registration.replacement_trigger.string_value == VIP
    for host in ("k8s-lb-0", "k8s-lb-1"):
        configured = run(preview).of_type("remote:Command")[f"{host}-configure"]
        assert update.name in configured.depends_on


def test_the_second_load_balancer_is_configured_after_the_first_and_proven_last(preview: bool):
    commands = run(preview).of_type("remote:Command")
    assert "k8s-lb-0-configure" in commands["k8s-lb-1-configure"].depends_on
    assert "k8s-lb-1-configure" not in commands["k8s-lb-0-configure"].depends_on
    for prove in ("k8s-lb-0-prove", "k8s-lb-1-prove"):
        assert "k8s-lb-1-configure" in commands[prove].depends_on


def test_install_runs_after_prepare(preview: bool):
    assert "k8s-lb-1-prepare" in run(preview).of_type("remote:Command")["k8s-lb-1-install"].depends_on


def test_security_groups_have_the_table_s_rules_and_no_default_rules(preview: bool):
    cloud = run(preview)
    groups = cloud.of_type("networking/secGroup:SecGroup")
    assert all(group.inputs["deleteDefaultRules"] is True for group in groups.values())
    rules = cloud.of_type("networking/secGroupRule:SecGroupRule").values()
    world = [rule.name for rule in rules if rule.inputs.get("remoteIpPrefix") == "0.0.0.0/0"]
    assert sorted(world) == ["k8s-cp-all-to-0.0.0.0/0", "k8s-lb-all-to-0.0.0.0/0", "k8s-worker-all-to-0.0.0.0/0"]
    for rule in rules:
        assert ("remoteGroupId" in rule.inputs) != ("remoteIpPrefix" in rule.inputs)


def test_instances_wait_for_all_rules_but_no_change_of_a_rule_is_theirs(preview: bool):
    """A host that boots without egress gets no keys. Deletions go the other way: rules stay until no host needs them.

    The engine replaces a dependent of what it deletes first only if an input of the dependent comes from that. Where a
    registration says of no input what it comes from, the engine takes each to come from every dependency.
    """
    cloud = run(preview)
    rules = set(cloud.of_type("networking/secGroupRule:SecGroupRule"))
    for instance in cloud.of_type("compute/instance:Instance").values():
        assert rules <= instance.depends_on
        comes_from = instance.registration.propertyDependencies
        assert set(comes_from) == set(instance.registration.object)
        assert not [urn for it in comes_from.values() for urn in it.urns if "SecurityGroups" in urn]


@pytest.mark.parametrize(
    ("changes", "policy"),
    [(MORE_WORKERS, "soft-anti-affinity"), (EVERY_OPTION, "anti-affinity"), (WITHOUT_GROUPS, "none")],
)
def test_the_server_group_has_the_role_s_policy(changes: dict[str, str], policy: str):
    cloud = run(**changes)
    group = cloud.of_type("compute/serverGroup:ServerGroup").get("k8s-lb")
    hints = cloud.of_type("compute/instance:Instance")["k8s-lb-0"].inputs.get("schedulerHints")
    assert (group.inputs["policies"] if group else "none") == policy
    assert hints == (None if policy == "none" else [{"group": "id-of-k8s-lb"}])


def test_zones_are_taken_in_turn():
    instances = run(**EVERY_OPTION).of_type("compute/instance:Instance")
    zones = [instances[f"k8s-cp-{i}"].inputs["availabilityZone"] for i in range(3)]
    assert zones == ["a", "b", "a"]
    assert "availabilityZone" not in instances["k8s-lb-0"].inputs


def test_an_image_given_by_name_stays_as_first_found_and_one_given_by_id_is_followed():
    by_name, by_id = (run(**it).of_type("compute/instance:Instance")["k8s-lb-0"] for it in ({}, EVERY_OPTION))
    assert "imageId" in by_name.registration.ignoreChanges
    assert by_id.inputs["imageId"] == UUID
    assert "imageId" not in by_id.registration.ignoreChanges


def test_nothing_about_how_a_host_key_is_made_replaces_a_host():
    cloud = run()
    assert all(list(key.registration.ignoreChanges) == ["*"] for key in cloud.of_type("local:Command").values())
    for instance in cloud.of_type("compute/instance:Instance").values():
        assert "userData" in instance.registration.ignoreChanges


def test_a_host_boots_from_a_volume_if_its_role_has_one():
    instances = run(**EVERY_OPTION).of_type("compute/instance:Instance")
    volume = {
        "sourceType": "image",
        "uuid": "id-of-debian-12",
        "destinationType": "volume",
        "bootIndex": 0,
        "deleteOnTermination": True,
    }
    assert instances["k8s-worker-0"].inputs["blockDevices"] == [volume | {"volumeSize": 20, "volumeType": "ssd"}]
    assert instances["k8s-cp-0"].inputs["blockDevices"] == [volume | {"volumeSize": 30}]
    # With an image besides, every run would rebuild the instance.
    assert "imageId" not in instances["k8s-worker-0"].inputs
    assert "blockDevices[0].uuid" in instances["k8s-worker-0"].registration.ignoreChanges


def test_what_is_off_by_default_is_no_input_so_existing_hosts_are_not_replaced():
    for instance in run().of_type("compute/instance:Instance").values():
        assert not instance.inputs.keys() & {"blockDevices", "configDrive", "powerState"}
    for instance in run(**EVERY_OPTION).of_type("compute/instance:Instance").values():
        assert instance.inputs["configDrive"] is True


def test_an_instance_is_shut_down_before_it_is_deleted_within_five_minutes():
    for instance in run().of_type("compute/instance:Instance").values():
        assert instance.inputs["stopBeforeDestroy"] is True
        assert instance.registration.customTimeouts.delete == "5m"


def test_a_new_image_replaces_every_instance_and_a_new_flavor_a_load_balancer():
    """A rebuild keeps the instance's id, so the steps would not run again on an empty host."""
    instances = run().of_type("compute/instance:Instance")
    replacing = {name: set(instance.registration.replaceOnChanges) for name, instance in instances.items()}
    assert replacing["k8s-lb-0"] == replacing["k8s-lb-1"] == {"imageId", "flavorId"}
    assert replacing["k8s-cp-0"] == replacing["k8s-worker-0"] == {"imageId"}
    assert all(instance.registration.deleteBeforeReplace for instance in instances.values())


def test_a_load_balancer_s_steps_do_not_depend_on_the_peer_s_instance():
    """Or the replacement of one load balancer, deleted first, would take the other's steps with it."""
    first, second = (run().of_type("remote:Command")[f"k8s-lb-{i}-configure"] for i in (0, 1))
    assert first.inputs["triggers"] == ["id-of-k8s-lb-0"]
    assert second.inputs["triggers"] == ["id-of-k8s-lb-1"]


def test_secrets_are_secret_in_the_state(preview: bool):
    cloud = run(preview, **EVERY_OPTION)
    commands = cloud.of_type("remote:Command")
    assert all(command.is_secret("connection") for command in commands.values())
    if not preview:  # unknown there
        assert all(instance.is_secret("userData") for instance in cloud.of_type("compute/instance:Instance").values())
        assert commands["k8s-lb-0-configure"].is_secret("stdin")
        assert commands["k8s-lb-0-pair-key"].is_secret("stdin")
    for key in cloud.of_type("local:Command").values():
        assert list(key.registration.additionalSecretOutputs) == ["stdout"]
        assert key.inputs["logging"] == "none"


def test_an_encrypted_proxy_is_a_secret_wherever_it_is_and_hides_no_file():
    cloud = RecordingCloud(secret_keys=SECRET_KEYS | {"aptProxy"})
    cloud.run(example_values(vip=VIP, aptProxy="http://me:hunter2hunter2@proxy.example:3128", haproxyBranch="3.0"))
    carriers = [it for it in cloud.resources if "hunter2hunter2" in str(it.inputs)]
    assert {it.name.rpartition("-")[2] for it in carriers} == {"prepare", "install"}
    assert all(it.is_secret("stdin") and "hunter2hunter2" in it.inputs["stdin"] for it in carriers)
    assert not cloud.of_type("remote:Command")["k8s-lb-0-configure"].is_secret("stdin")
    assert "hunter2hunter2" not in str(cloud.outputs)
    assert "configurationDigests" not in cloud.secret_outputs


def test_without_a_password_previews_show_the_files():
    assert not run().of_type("remote:Command")["k8s-lb-0-configure"].is_secret("stdin")


def test_no_command_line_contains_a_secret():
    for command in [*run().of_type("remote:Command").values(), *run().of_type("local:Command").values()]:
        assert "PRIVATE KEY" not in command.inputs["create"]
        assert "password" not in command.inputs["create"]
    assert {command.inputs["create"] for command in run().of_type("remote:Command").values()} == {"sudo -n bash -s"}


def test_host_keys_are_pinned_from_the_first_connection():
    cloud = run()
    public = key_pair()[1]
    for command in cloud.of_type("remote:Command").values():
        assert command.inputs["connection"]["hostKey"] == public
    user_data = yaml.safe_load(cloud.of_type("compute/instance:Instance")["k8s-lb-0"].inputs["userData"])
    assert user_data["ssh_keys"] == {"ed25519_private": key_pair()[0], "ed25519_public": public}
    assert cloud.outputs["knownHosts"].count(public) == 6


def test_new_hosts_get_keys_of_the_configured_type():
    cloud = run(**EVERY_OPTION)
    private, public = key_pair(HostKeyType.ECDSA)
    user_data = yaml.safe_load(cloud.of_type("compute/instance:Instance")["k8s-lb-0"].inputs["userData"])
    assert user_data["ssh_keys"] == {"ecdsa_private": private, "ecdsa_public": public}
    assert cloud.of_type("remote:Command")["k8s-lb-0-prepare"].inputs["connection"]["hostKey"] == public
    assert public in cloud.outputs["knownHosts"]


def test_another_key_type_changes_no_host_that_exists(monkeypatch: pytest.MonkeyPatch):
    warnings: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", warnings.append)
    cloud = RecordingCloud(host_keys=HostKeyType.ED25519).run(example_values(vip=VIP, hostKeyType="ecdsa"))
    before = {(it.type, it.name): it.inputs for it in run().resources}
    changed = [it for it in cloud.resources if it.inputs != before[it.type, it.name]]
    assert {it.name.removeprefix("k8s-") for it in changed} == {
        f"{host}-host-key" for host in ("lb-0", "lb-1", "cp-0", "cp-1", "cp-2", "worker-0")
    }
    assert all("*" in it.registration.ignoreChanges for it in changed)
    assert cloud.outputs == run().outputs
    assert len(warnings) == 6
    assert "hostKeyType = ecdsa: k8s-cp-0 keeps its ed25519 key" in "".join(warnings)


def test_a_missing_host_does_not_block_a_destroy():
    for command in run().of_type("remote:Command").values():
        assert command.registration.deletedWith.endswith(
            re.sub(r"-(prepare|install|pair-key|configure|prove)$", "", command.name)
        )
        assert "delete" not in command.inputs


def test_a_bastion_is_used_and_its_key_is_pinned():
    proxy = run(**EVERY_OPTION).of_type("remote:Command")["k8s-lb-0-prepare"].inputs["connection"]["proxy"]
    assert (proxy["host"], proxy["port"], proxy["user"]) == ("2001:db8::1", 2222, "first.last")
    assert proxy["hostKey"] == key_pair()[1]


def test_a_step_that_fails_names_the_bastion_if_that_is_the_reason(monkeypatch: pytest.MonkeyPatch):
    cloud = run(**EVERY_OPTION)
    for command in cloud.of_type("remote:Command").values():
        (hook,) = command.registration.hooks.on_error
        assert command.name.startswith(f"{hook.removesuffix('-bastion')}-")
    found, errors = ["the bastion b: is down; start it"], list[str]()
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "components.host.bastion_problem",
        lambda *arguments: asked.append(arguments) or found[0],  # pyright: ignore
    )
    monkeypatch.setattr(pulumi.log, "error", errors.append)
    args = cast("Any", pulumi.ErrorHookArgs)(urn="", id="", name="k8s-lb-0-prepare", type="")

    async def fail() -> bool:
        return await cast("Any", cloud.callbacks.error_hooks["k8s-lb-0-bastion"](args))

    assert asyncio.run(fail()) is False  # the step is not repeated
    assert errors == [
        "k8s-lb-0-prepare has no connection to k8s-lb-0: the bastion b: is down; start it; then run `pulumi up` again"
    ]
    ((bastion, key, address),) = asked
    assert (bastion.host, key.strip(), address) == (
        "2001:db8::1", key_pair()[0].strip(), cloud.outputs["addresses"]["loadBalancers"]["k8s-lb-0"],
    )  # fmt: skip
    found[0] = ""
    assert asyncio.run(fail()) is False
    assert len(errors) == 1

    def no_ssh(*_: object) -> None:
        raise FileNotFoundError("ssh")

    # An exception would replace the step's own error.
    monkeypatch.setattr("components.host.bastion_problem", no_ssh)
    assert asyncio.run(fail()) is False


def test_without_a_bastion_no_step_has_a_hook():
    assert not run().callbacks.error_hooks
    assert all(not it.registration.hooks.on_error for it in run().of_type("remote:Command").values())


def test_the_output_known_hosts_checks_the_bastion_in_the_ssh_commands_too():
    outputs = run(**EVERY_OPTION).outputs
    assert f"[2001:db8::1]:2222 {key_pair()[1]}\n" in outputs["knownHosts"]
    words = shlex.split(outputs["sshCommands"]["k8s-lb-0"])
    assert "-J" not in words  # it would not use the file for the bastion
    proxy = words[words.index("-o", 2) + 1]
    assert proxy == "ProxyCommand=ssh -o UserKnownHostsFile=known_hosts -W %h:%p -p 2222 first.last@2001:db8::1"
    assert words[-1] == f"debian@{outputs['addresses']['loadBalancers']['k8s-lb-0']}"


def test_the_outputs_have_what_the_next_steps_need():
    outputs = run().outputs
    assert outputs["vip"] == VIP
    assert outputs["endpoint"] == f"https://{VIP}:6443"
    assert outputs["floatingIp"] is None
    assert list(outputs["addresses"]) == ["loadBalancers", "controlPlane", "workers"]
    assert outputs["sshCommands"]["k8s-worker-0"].endswith(f"debian@{outputs['addresses']['workers']['k8s-worker-0']}")
    assert yaml.safe_load(outputs["kubeadmConfig"])["controlPlaneEndpoint"] == f"{VIP}:6443"


def test_the_digests_match_the_files_in_the_script():
    cloud = run()
    script = cloud.of_type("remote:Command")["k8s-lb-1-configure"].inputs["stdin"]
    digests = cloud.outputs["configurationDigests"]
    assert list(digests) == ["k8s-lb-0", "k8s-lb-1"]
    bodies = re.findall(r"<<'(END-\w+)' .*\n((?:.*\n)*?)\1\n", script)
    assert sorted(digests["k8s-lb-1"].values()) == sorted(sha256(body.encode()).hexdigest() for _, body in bodies)
    for path in digests["k8s-lb-1"]:
        assert f"put {path} " in script


def test_the_digests_are_as_secret_as_the_files():
    """Eight characters can be tried, given the digest of a file that is known but for them."""
    assert "configurationDigests" not in run().secret_outputs
    assert "configurationDigests" in run(**EVERY_OPTION).secret_outputs


def test_a_floating_ip_becomes_the_endpoint():
    cloud = run(**EVERY_OPTION)
    assert cloud.outputs["endpoint"] == "https://100.64.0.9:6443"
    association = cloud.of_type("networking/floatingIpAssociate:FloatingIpAssociate")["k8s-vip-floating"]
    assert association.inputs["portId"] == "id-of-k8s-vip"
    assert association.inputs["fixedIp"] == VIP


def test_a_name_becomes_the_endpoint():
    for addresses in ({}, {"floatingNetwork": "public"}):
        cloud = run(endpointName="api.example.com", **addresses)
        assert cloud.outputs["endpoint"] == "https://api.example.com:6443"


NAMED = {"endpointName": "api.example.com", "endpointZone": "example.com"}


@pytest.mark.parametrize(
    ("addresses", "endpoint"), [({}, VIP), ({"floatingNetwork": "public"}, "100.64.0.9")], ids=["VIP", "floating IP"]
)
def test_the_name_s_record_leads_to_the_endpoint(addresses: dict[str, str], endpoint: str):
    (record,) = run(**NAMED, **addresses).of_type("dns/recordSet:RecordSet").values()
    assert record.inputs == {
        "zoneId": "id-of-example.com.",
        "name": "api.example.com.",
        "type": "A",
        "ttl": 300,
        "records": [endpoint],
        "description": "The Kubernetes API of k8s",
    }


def test_a_record_is_created_only_in_a_zone_and_no_host_waits_for_it(preview: bool):
    assert not run(preview, endpointName="api.example.com").of_type("dns/recordSet:RecordSet")
    cloud = run(preview, **NAMED)
    assert {*cloud.of_type("dns/recordSet:RecordSet")} == {"k8s-endpoint"}
    assert not [it.name for it in cloud.resources if "k8s-endpoint" in it.depends_on]


def test_an_unknown_zone_is_reported():
    message = refused(RecordingCloud(missing=frozenset({"example.com."})), **NAMED)
    assert "endpointZone = 'example.com'" in message
    assert "`openstack zone list`" in message


@pytest.mark.parametrize(
    ("addresses", "endpoint"), [({}, "api.example.com:6443"), ({"floatingNetwork": "public"}, f"{VIP}:6443")]
)
def test_bare_hosts_use_the_name_of_the_vip_but_not_that_of_a_floating_ip(addresses: dict[str, str], endpoint: str):
    """Their packets would come back from the router, and the security groups admit only the hosts."""
    kubeadm = yaml.safe_load(run(endpointName="api.example.com", **addresses).outputs["kubeadmConfig"])
    assert kubeadm["controlPlaneEndpoint"] == endpoint
    assert {VIP, "api.example.com"} <= {*kubeadm["apiServer"]["certSANs"]}


def test_bare_hosts_certificates_have_all_names_once():
    changes = {"endpointName": "api.example.com", "apiServerNames": '["api.example.com", "*.example.org", "::1"]'}
    kubeadm = yaml.safe_load(run(floatingNetwork="public", **changes).outputs["kubeadmConfig"])
    floating_ip = run(floatingNetwork="public", **changes).outputs["floatingIp"]
    assert kubeadm["apiServer"]["certSANs"] == [VIP, floating_ip, "api.example.com", "*.example.org", "::1"]


def test_without_a_subnet_for_it_neutron_chooses_the_floating_ip():
    floating_ip = run(floatingNetwork="public").of_type("networking/floatingIp:FloatingIp")["k8s-vip-floating"]
    assert "subnetId" not in floating_ip.inputs  # a stack from before the setting shows no change


def test_a_floating_ip_is_taken_from_its_subnet():
    floating_ip = run(**EVERY_OPTION).of_type("networking/floatingIp:FloatingIp")["k8s-vip-floating"]
    assert floating_ip.inputs["subnetId"] == "id-of-public-v4"


def test_an_external_network_s_subnet_that_only_its_owner_may_see_is_given_by_its_id():
    cloud = RecordingCloud(missing=frozenset({UUID}), subnets=(UUID,))
    cloud.run(example_values(floatingNetwork="public", floatingSubnet=UUID))
    floating_ip = cloud.of_type("networking/floatingIp:FloatingIp")["k8s-vip-floating"]
    assert floating_ip.inputs["subnetId"] == UUID


@pytest.mark.parametrize(
    ("cloud", "reason"),
    [
        (RecordingCloud(missing=frozenset({"public-v4"})), "external network public has no such subnet.*use .* id"),
        (RecordingCloud(ipv6=frozenset({"public-v4"})), "it is an IPv6 subnet"),
    ],
    ids=["of another network", "IPv6"],
)
def test_a_subnet_that_no_floating_ip_can_be_taken_from_is_refused(cloud: RecordingCloud, reason: str):
    message = refused(cloud, floatingNetwork="public", floatingSubnet="public-v4")
    assert re.search(f"floatingSubnet = 'public-v4': .*{reason}", message)
    assert "`openstack network show public -c subnets`" in message


def refused(cloud: RecordingCloud, **changes: Any) -> str:
    with pytest.raises(pulumi.RunError) as error:
        cloud.run(example_values(**changes))
    assert cloud.resources == [], "nothing may be registered before everything has been checked"
    return str(error.value)


def test_an_ipv6_subnet_is_refused_as_what_it_is(preview: bool):
    message = refused(RecordingCloud(preview=preview, ipv6=frozenset({"six"})), subnet="six")
    assert "subnet = 'six': it is an IPv6 subnet" in message
    assert "openstack subnet list --ip-version 4" in message


def test_an_invalid_configuration_stops_before_the_first_resource(preview: bool):
    message = refused(RecordingCloud(preview=preview), controlPlaneCount="4", vip="nowhere")
    assert "controlPlaneCount = '4'" in message
    assert "vip = 'nowhere'" in message


def test_all_names_the_cloud_does_not_know_are_reported_together(preview: bool):
    message = refused(RecordingCloud(preview=preview, missing=frozenset({"small", "debian-12"})))
    assert "loadBalancerFlavor = 'small'" in message
    assert "`openstack flavor list`" in message
    assert "loadBalancerImage = 'debian-12'" in message
    assert "workerImage = 'debian-12'" in message


def test_everything_is_looked_up_by_name_and_then_by_id():
    ids = {
        key: str(uuid5(NAMESPACE_DNS, key))
        for key in ("network", "subnet", "floatingNetwork", "controlPlaneFlavor", "workerImage")
    }
    flavor = {"workerFlavor": "42"}  # a flavor's id is free text
    cloud = RecordingCloud(nameless=frozenset({"42"})).run(example_values(**ids, **flavor))
    port = cloud.of_type("networking/port:Port")["k8s-vip"].inputs
    assert port["networkId"] == ids["network"]
    assert port["fixedIps"] == [{"subnetId": ids["subnet"]}]
    pool = cloud.of_type("networking/floatingIp:FloatingIp")["k8s-vip-floating"].inputs["pool"]
    assert pool == f"name-of-{ids['floatingNetwork']}"
    instances = cloud.of_type("compute/instance:Instance")
    assert instances["k8s-cp-0"].inputs["flavorId"] == ids["controlPlaneFlavor"]
    assert instances["k8s-worker-0"].inputs["flavorId"] == "42"
    assert instances["k8s-worker-0"].inputs["imageId"] == ids["workerImage"]


def test_a_flavor_that_looks_like_an_id_is_looked_up_by_name_first():
    instance = run(**EVERY_OPTION).of_type("compute/instance:Instance")["k8s-worker-0"]
    assert instance.inputs["flavorId"] == "id-of-42"


@pytest.mark.parametrize(
    "key", ["network", "subnet", "floatingNetwork", "floatingSubnet", "workerFlavor", "workerImage"]
)
def test_what_is_neither_a_name_nor_an_id_is_reported(key: str):
    values = {"floatingNetwork": "public", key: UUID}
    assert f"{key} = '{UUID}'" in refused(RecordingCloud(missing=frozenset({UUID})), **values)


def test_a_floating_network_s_name_must_be_unique_because_the_provider_looks_for_the_name():
    assert "more than one" in refused(RecordingCloud(ambiguous=frozenset({"public"})), floatingNetwork="public")


WORKERS = {"k8s-worker-0": {"flavorId": "f1", "flavorName": "", "imageId": "i1"}}
"""A worker whose flavor was deleted: Nova still knows its id, and has no name for it."""


@cache
def run_without_what_hosts_have(preview: bool) -> RecordingCloud:
    """The workers' flavor is gone, the control plane's image, and the load balancers' image, which is given by id."""
    there = {"flavorId": "f", "flavorName": "there", "imageId": "i"}
    control_plane = {f"k8s-cp-{i}": there for i in range(3)}
    load_balancers = {f"k8s-lb-{i}": there | {"imageId": UUID} for i in range(2)}
    cloud = RecordingCloud(
        preview=preview,
        missing=frozenset({"large", "retired", UUID}),
        instances=WORKERS | control_plane | load_balancers,
    )
    return cloud.run(example_values(controlPlaneImage="retired", loadBalancerImage=UUID))


def test_hosts_whose_flavor_or_image_is_gone_keep_them(preview: bool):
    instances = run_without_what_hosts_have(preview).of_type("compute/instance:Instance")
    kept = {
        name: {"imageId", "flavorId", "powerState"} & {*instance.registration.ignoreChanges}
        for name, instance in instances.items()
    }
    assert kept.pop("k8s-worker-0") == {"imageId", "flavorId", "powerState"}
    assert len(kept) == 5
    assert all(it == {"imageId", "powerState"} for it in kept.values())


def test_what_cannot_be_created_again_is_not_replaced():
    """The provider refuses this power state before it deletes anything; existing hosts ignore it."""
    instance = run_without_what_hosts_have(False).of_type("compute/instance:Instance")["k8s-worker-0"]
    assert instance.inputs["powerState"].startswith("workerFlavor = 'large': ")


def test_a_flavor_or_image_that_is_needed_must_be_there():
    unknown = frozenset({"large", "retired"})
    # One of two workers has yet to be created.
    message = refused(RecordingCloud(missing=unknown, instances=WORKERS), workerCount="2", workerImage="retired")
    assert "workerFlavor = 'large'" in message
    assert "workerImage = 'retired'" in message
    # The hosts' own flavor is there: another one is meant.
    resized = {"k8s-worker-0": WORKERS["k8s-worker-0"] | {"flavorName": "medium"}}
    assert "workerFlavor = 'large'" in refused(RecordingCloud(missing=unknown, instances=resized))


def test_an_image_s_id_that_is_gone_is_not_kept_by_hosts_with_another_image():
    cloud = RecordingCloud(missing=frozenset({UUID}), instances=WORKERS)
    assert f"workerImage = '{UUID}'" in refused(cloud, workerImage=UUID)


def test_a_missing_network_is_reported():
    assert "network = 'provider'" in refused(RecordingCloud(missing=frozenset({"provider"})))


@pytest.mark.parametrize(
    ("vip", "reason"),
    [
        ("10.0.0.1", "is not in the subnet 198.51.100.0/24"),
        ("198.51.100.1", "is the gateway"),
        ("198.51.100.255", "network or broadcast address"),
    ],
)
def test_a_vip_outside_the_subnet_s_usable_addresses_is_refused(vip: str, reason: str):
    assert reason in refused(RecordingCloud(), vip=vip)


def test_a_vip_that_is_in_use_is_refused_with_its_port():
    message = refused(RecordingCloud(ports_in_use={VIP: "a-router-port"}), vip=VIP)
    assert "is in use by port a-router-port" in message


@pytest.mark.parametrize(
    ("address", "ports", "reason"),
    [
        ("198.51.100.0", {}, "network or broadcast address"),
        ("198.51.100.255", {}, "network or broadcast address"),
        ("198.51.100.10", {"198.51.100.10": "k8s-vip"}, "belongs to k8s-vip.*connect to themselves"),
        ("198.51.100.11", {"198.51.100.11": "k8s-lb-0"}, "belongs to k8s-lb-0.*connect to themselves"),
    ],
)
def test_an_address_that_is_no_api_server_s_on_this_subnet_is_refused(address: str, ports: dict[str, str], reason: str):
    message = refused(RecordingCloud(ports_in_use=ports), apiServers=f'["198.51.100.9", "{address}"]')
    assert re.search(f"apiServers = {address}: .*{reason}.*; list the addresses", message)
    assert "198.51.100.9:" not in message


def test_a_hint_with_a_name_can_be_pasted_into_a_shell():
    message = refused(RecordingCloud(missing=frozenset({"lan"})), network="R&D $(id)", subnet="lan")
    assert "`openstack subnet list --ip-version 4 --network 'R&D $(id)'`" in message


def test_what_only_the_cloud_reads_never_reaches_a_host():
    name = "Ubuntu 22.04 LTS (Jammy) $(reboot) `id` 'a' \"b\" & <c>"
    keys = [
        key for key in example_values() if key.endswith(("Flavor", "Image", "gNetwork", "subnet")) or key == "network"
    ]
    zones = {f"{role}AvailabilityZones": json.dumps([name]) for role in ("loadBalancer", "controlPlane", "worker")}
    values = example_values(**dict.fromkeys(keys, name), **zones) | {"publicKey": "", "keyPair": name}
    cloud = RecordingCloud().run(values)
    assert cloud.of_type("compute/instance:Instance")["k8s-lb-0"].inputs["availabilityZone"] == name
    for command in [*cloud.of_type("remote:Command").values(), *cloud.of_type("local:Command").values()]:
        assert "Jammy" not in json.dumps(command.inputs)
    for instance in cloud.of_type("compute/instance:Instance").values():
        assert "Jammy" not in instance.inputs["userData"]
    assert "Jammy" not in json.dumps(cloud.outputs)


def test_a_plain_setting_that_is_a_secret_is_refused_and_not_shown():
    cloud = RecordingCloud(secret_keys=SECRET_KEYS | {"network", "sshPrivatekey"})
    message = refused(cloud, network="hidden-lan", sshPrivatekey="hunter22")
    assert "network is set as a secret" in message
    assert "sshPrivatekey is not a key" in message
    assert "hidden" not in message
    assert "hunter22" not in message


def test_a_secret_in_clear_text_stops_before_the_first_resource():
    message = refused(RecordingCloud(secret_keys=SECRET_KEYS - {"vrrpPassword"}), vrrpPassword="P@ssw0rd")
    assert "vrrpPassword is in the stack's file in clear text" in message
    assert "P@ssw0rd" not in message


def test_a_number_in_the_stack_s_file_is_refused_where_text_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "Pulumi.test.yaml").write_text("config:\n  openstack-ha-api:haproxyBranch: 3.10\n")
    monkeypatch.setattr("program.configuration.ROOT", tmp_path)
    assert "put it in quotes" in refused(RecordingCloud(), haproxyBranch="3.1")


def test_a_private_key_that_does_not_match_the_named_key_pair_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dev.review.recording_cloud.NOVA_PUBLIC_KEY", "ssh-ed25519 AAAAother")
    assert "does not belong" in refused(RecordingCloud(), publicKey="", keyPair="mine")


THEIR_KEY_PAIR = {"publicKey": "", "keyPair": "mine"}
"""In Nova, a key pair belongs to the user who has created it."""


def hosts(**changes: str) -> dict[str, dict[str, str]]:
    names = [*(f"k8s-lb-{i}" for i in range(2)), *(f"k8s-cp-{i}" for i in range(3)), "k8s-worker-0"]
    return {name: {"flavorName": "there", "imageId": "i", "keyPair": "mine"} | changes for name in names}


def test_another_user_can_change_everything_but_create_no_instance(preview: bool):
    cloud = RecordingCloud(preview=preview, missing=frozenset({"mine"}), instances=hosts())
    instances = cloud.run(example_values(**THEIR_KEY_PAIR)).of_type("compute/instance:Instance")
    assert len(instances) == 6
    for instance in instances.values():
        # The provider refuses this power state before it deletes anything; existing hosts ignore it.
        assert instance.inputs["powerState"].startswith("keyPair = 'mine': ")
        assert "powerState" in instance.registration.ignoreChanges


def test_an_instance_that_has_to_be_created_or_replaced_needs_the_key_pair():
    unknown = frozenset({"mine"})
    message = refused(RecordingCloud(missing=unknown, instances=hosts()), **THEIR_KEY_PAIR, workerCount="2")
    assert message.count("keyPair = 'mine': ") == 1
    # The hosts have another one, so all would be replaced.
    assert "keyPair = 'mine': " in refused(
        RecordingCloud(missing=unknown, instances=hosts(keyPair="old")), **THEIR_KEY_PAIR
    )


def test_without_a_key_pair_and_a_flavor_both_are_named():
    cloud = RecordingCloud(missing=frozenset({"mine", "large"}), instances=hosts(flavorId="f", flavorName=""))
    worker = cloud.run(example_values(**THEIR_KEY_PAIR)).of_type("compute/instance:Instance")["k8s-worker-0"]
    assert "workerFlavor = 'large': " in worker.inputs["powerState"]
    assert "keyPair = 'mine': " in worker.inputs["powerState"]
