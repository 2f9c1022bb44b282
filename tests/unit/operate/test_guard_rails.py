"""Both answers of every guard rail, on previews of a lab stack (tests/unit/operate/previews, shortened)."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from operate.__main__ import app
from operate.guard_rails import Rail, check_preview
from operate.stack.engine import StackError

PREVIEWS = Path(__file__).parent / "previews"


def preview(name: str) -> str:
    return (PREVIEWS / f"{name}.json").read_text()


def changed(name: str, **steps: str) -> str:
    """A preview with these operations on the named resources (`_` for `-`)."""
    content = json.loads(preview(name))
    for step in content["steps"]:
        resource = step["urn"].rpartition("::")[2]
        step["op"] = steps.get(resource.replace("-", "_"), step["op"])
    del content["changeSummary"]
    return json.dumps(content)


def rewritten(name: str, resource: str, key: str, value: Any) -> str:
    """A preview in which one resource has other new inputs."""
    content = json.loads(preview(name))
    (step,) = (step for step in content["steps"] if step["urn"].endswith(f"::{resource}") and step["op"] != "same")
    step["newState"]["inputs"][key] = value
    return json.dumps(content)


def rails(preview: str) -> list[Rail]:
    return [catch.rail for catch in check_preview(preview)]


def with_rule(**rule: Any) -> str:
    """A preview that creates one rule."""
    urn = "urn:pulumi:dev::openstack-ha-api::SecurityGroups$openstack:networking/secGroupRule:SecGroupRule::dev-rule"
    step = {"op": "create", "urn": urn, "newState": {"inputs": {"direction": "ingress", "protocol": "tcp"} | rule}}
    return json.dumps({"steps": [step], "changeSummary": {"create": 1}})


@pytest.mark.parametrize(
    ("name", "rails"),
    [
        ("no-changes", []),
        ("one-load-balancer", []),
        ("one-member", []),
        ("same-vip", []),
        ("load-balancer-flavor", [Rail.BOTH_LOAD_BALANCERS]),
        ("key-pair", [Rail.BOTH_LOAD_BALANCERS, Rail.CONTROL_PLANE_MAJORITY]),
        ("vip", [Rail.VIP]),
        ("vip-replaced", [Rail.VIP]),
        ("control-plane-flavor", [Rail.CONTROL_PLANE_MAJORITY]),
        ("control-plane-policy", [Rail.CONTROL_PLANE_MAJORITY]),
        ("control-plane-shrunk", [Rail.CONTROL_PLANE_MAJORITY]),
        ("admin-cidrs", [Rail.OPEN_TO_THE_WORLD] * 6),
        ("address-pairs", [Rail.BOTH_LOAD_BALANCERS]),
        ("power-state", [Rail.BOTH_LOAD_BALANCERS, Rail.CONTROL_PLANE_MAJORITY]),
        ("vrrp-rule", [Rail.VIP]),
        ("vrrp-rule-renamed", []),
        ("security-group", [Rail.VIP]),
        # The lab has no floating IPs: this one was written into the stack's state before the preview.
        ("floating-ip", [Rail.VIP]),
    ],
)
def test_what_the_guard_rails_stop_in_a_preview(name: str, rails: list[Rail]):
    assert [catch.rail for catch in check_preview(preview(name))] == rails


def test_the_record_of_the_endpoint_s_name_is_kept():
    kind = "openstack-ha-api:network:VirtualIp$openstack:dns/recordSet:RecordSet"
    step: dict[str, Any] = {
        "op": "delete",
        "urn": f"urn:pulumi:dev::openstack-ha-api::{kind}::dev-endpoint",
        "oldState": {},
    }
    (lost,) = check_preview(json.dumps({"steps": [step], "changeSummary": {"delete": 1, "same": 0}}))
    assert lost.rail is Rail.VIP
    assert "clients that know the API by it" in lost.reason


def test_the_reason_names_the_resource_and_the_remedy():
    (lost,) = check_preview(preview("control-plane-shrunk"))
    assert "guard-cp-1, guard-cp-2: 2 of the control plane's 3" in lost.reason
    assert "etcd needs 2 of them" in lost.reason
    (moved,) = check_preview(preview("vip"))
    assert "198.18.1.180 to 198.18.1.240" in moved.reason


@pytest.mark.parametrize("op", ["delete", "delete-replaced", "replace", "create-replacement"])
def test_every_form_of_a_replacement_is_recognized(op: str):
    two = changed("no-changes", guard_lb_0=op, guard_lb_1=op)
    assert [catch.rail for catch in check_preview(two)] == [Rail.BOTH_LOAD_BALANCERS]
    assert check_preview(changed("no-changes", guard_lb_0=op)) == []
    assert [catch.rail for catch in check_preview(changed("no-changes", guard_cp_0=op, guard_cp_1=op))] == [
        Rail.CONTROL_PLANE_MAJORITY
    ]


@pytest.mark.parametrize(
    ("pairs", "lost"),
    [
        ([], True),
        ([{"ipAddress": "198.18.1.250"}], True),
        ([{"ipAddress": "198.18.1.122"}], False),
        ([{"ipAddress": "198.18.1.250"}, {"ipAddress": "198.18.1.122"}], False),
        # Of a VIP whose port is replaced, another rail tells.
        ([{"ipAddress": "04da6b54-80e4-46f7-96ec-b56ff0331ba9"}], False),
        ("04da6b54-80e4-46f7-96ec-b56ff0331ba9", False),
    ],
)
def test_a_port_that_loses_the_vip_counts_as_a_stopped_load_balancer(pairs: Any, lost: bool):
    found = rails(rewritten("address-pairs", "guard-lb-0", "allowedAddressPairs", pairs))
    assert found == [Rail.BOTH_LOAD_BALANCERS] * lost


def test_one_port_without_the_vip_and_the_other_instance_replaced_are_both_load_balancers():
    content = json.loads(changed("address-pairs", guard_lb_0="same"))
    assert rails(json.dumps(content)) == []
    for step in content["steps"]:
        if step["urn"].endswith("instance:Instance::guard-lb-0"):
            step["op"] = "replace"
    assert rails(json.dumps(content)) == [Rail.BOTH_LOAD_BALANCERS]


def test_starting_an_instance_is_allowed():
    """An instance that was shut off manually is started again."""
    content = json.loads(preview("power-state"))
    for step in content["steps"]:
        if "powerState" in (step["detailedDiff"] or {}):
            step["oldState"]["inputs"]["powerState"], step["newState"]["inputs"]["powerState"] = "shutoff", "active"
    assert rails(json.dumps(content)) == []


@pytest.mark.parametrize("op", ["delete", "replace"])
def test_while_one_load_balancer_is_created_the_other_must_not_change(op: str):
    content = json.loads(changed("no-changes", guard_lb_0="create"))
    (made,) = (step for step in content["steps"] if step["op"] == "create")
    del made["oldState"]
    assert rails(json.dumps(content)) == []
    (other,) = (step for step in content["steps"] if step["urn"].endswith("::guard-lb-1"))
    other["op"] = op
    assert rails(json.dumps(content)) == [Rail.BOTH_LOAD_BALANCERS]


def test_a_floating_ip_detached_from_the_vip_is_stopped():
    (moved,) = check_preview(preview("floating-ip"))
    assert "guard-vip-floating is detached" in moved.reason
    assert rails(rewritten("floating-ip", "guard-vip-floating", "portId", None)) == [Rail.VIP]
    vip = "c894a237-f526-4a05-a793-b7c445e05848"
    assert rails(rewritten("floating-ip", "guard-vip-floating", "portId", vip)) == []
    for op in ("delete", "replace"):
        content = json.loads(preview("floating-ip"))
        (step,) = (step for step in content["steps"] if step["op"] == "update")
        step["op"] = op
        assert rails(json.dumps(content)) == [Rail.VIP]


def test_deleting_the_vip_s_port_is_stopped():
    assert [catch.rail for catch in check_preview(changed("vip", guard_vip="delete"))] == [Rail.VIP]


def test_an_ipv6_address_that_neutron_added_is_no_change_of_the_vip():
    content = json.loads(preview("same-vip"))
    (step,) = (step for step in content["steps"] if step["urn"].endswith("::guard-vip"))
    step["oldState"]["outputs"]["allFixedIps"].insert(0, "2001:db8::5")
    assert rails(json.dumps(content)) == []


def test_having_neutron_pick_a_new_vip_is_stopped():
    content = json.loads(preview("vip"))
    (step,) = (step for step in content["steps"] if step["urn"].endswith("::guard-vip"))
    del step["newState"]["inputs"]["fixedIps"][0]["ipAddress"]
    assert "to what Neutron picks" in check_preview(json.dumps(content))[0].reason


@pytest.mark.parametrize(
    ("rule", "caught"),
    [
        ({"remoteIpPrefix": "0.0.0.0/0"}, True),
        ({"remoteIpPrefix": "128.0.0.0/1"}, True),
        ({"remoteIpPrefix": "::/0"}, True),
        ({"remoteIpPrefix": "2000::/3"}, True),
        ({"remoteIpPrefix": "04da6b54-80e4-46f7-96ec-b56ff0331ba9"}, True),  # the engine's mark of an unknown value
        ({}, True),
        ({"remoteIpPrefix": "10.0.0.0/8"}, False),
        ({"remoteIpPrefix": "2001:db8::/32"}, False),
        ({"remoteGroupId": "04da6b54-80e4-46f7-96ec-b56ff0331ba9"}, False),
        ({"remoteIpPrefix": "0.0.0.0/0", "direction": "egress"}, False),
    ],
)
def test_a_rule_that_admits_everyone_is_stopped_however_it_is_written(rule: dict[str, Any], caught: bool):
    assert bool(check_preview(with_rule(**rule))) is caught


GROUP, OTHER = "04bd8d63-3755-46b7-ae38-b6abafc79b3a", "d2b4fb0e-0a3b-4c62-a1d6-8d2f8e0e6c5b"
HEARD = {"direction": "ingress", "protocol": "112", "remoteGroupId": GROUP}
SENT = {"direction": "egress", "remoteIpPrefix": "0.0.0.0/0"}


def of_the_pair(*rules: tuple[dict[str, Any] | None, dict[str, Any] | None], **ports: Any) -> str:
    """A preview of two load balancers: each rule of their group before and after, and a change of both ports."""
    kind = "urn:pulumi:dev::openstack-ha-api::LoadBalancers$openstack:networking"
    steps: list[dict[str, Any]] = []
    for index, (old, new) in enumerate(rules):
        op = "same" if old == new else "replace" if old and new else "delete" if old else "create"
        states = {"oldState": old, "newState": new}
        states = {key: {"inputs": {"securityGroupId": GROUP} | it} if it else None for key, it in states.items()}
        steps.append({"op": op, "urn": f"{kind}/secGroupRule:SecGroupRule::dev-lb-rule-{index}"} | states)
    for index in (0, 1):
        old = {"inputs": {"securityGroupIds": [GROUP]}, "outputs": {"allFixedIps": [f"198.18.1.{index}"]}}
        new = {"inputs": {"securityGroupIds": [GROUP]} | ports}
        step = {"op": "update" if ports else "same", "urn": f"{kind}/port:Port::dev-lb-{index}"}
        steps.append(step | {"oldState": old, "newState": new, "detailedDiff": dict.fromkeys(ports)})
    return json.dumps({"steps": steps})


@pytest.mark.parametrize("kept", [None, {"direction": "egress", "protocol": "tcp", "remoteIpPrefix": "0.0.0.0/0"}])
def test_load_balancers_that_can_no_longer_send_vrrp_would_both_take_the_vip(kept: dict[str, Any] | None):
    assert rails(of_the_pair((HEARD, HEARD), (SENT, SENT))) == []
    assert rails(of_the_pair((HEARD, HEARD), (SENT, None), *[(kept, kept)] * bool(kept))) == [Rail.VIP]


@pytest.mark.parametrize(
    ("egress", "caught"),
    [
        ({"protocol": "112", "remoteGroupId": GROUP}, False),
        ({"protocol": "vrrp", "remoteIpPrefix": "198.18.0.0/15"}, False),
        ({}, False),
        ({"protocol": "112", "remoteGroupId": OTHER}, True),
        ({"remoteIpPrefix": "198.18.1.1/32"}, True),
        ({"remoteIpPrefix": "04da6b54-80e4-46f7-96ec-b56ff0331ba9"}, True),
        ({"ethertype": "IPv6"}, True),
        ({"remoteAddressGroupId": OTHER}, True),
    ],
)
def test_an_egress_rule_in_another_s_place_has_to_admit_vrrp_between_the_load_balancers(
    egress: dict[str, Any], caught: bool
):
    after = {"direction": "egress"} | egress
    assert rails(of_the_pair((HEARD, HEARD), (SENT, after))) == [Rail.VIP] * caught
    assert rails(of_the_pair((HEARD, HEARD), (SENT, None), (None, after))) == [Rail.VIP] * caught


def test_a_vrrp_rule_for_another_group_admits_the_peer_no_longer():
    assert rails(of_the_pair((HEARD, HEARD | {"remoteGroupId": OTHER}))) == [Rail.VIP]
    other = HEARD | {"remoteGroupId": OTHER}
    assert rails(of_the_pair((HEARD, HEARD), (other, None))) == []


def test_another_group_s_egress_is_not_the_load_balancers():
    assert rails(of_the_pair((HEARD, HEARD), (SENT | {"securityGroupId": OTHER}, None))) == []


@pytest.mark.parametrize(
    ("change", "caught"),
    [
        ({"securityGroupIds": []}, [Rail.BOTH_LOAD_BALANCERS]),
        ({"adminStateUp": False}, [Rail.BOTH_LOAD_BALANCERS]),
        ({"adminStateUp": True}, []),
        ({"securityGroupIds": [OTHER]}, [Rail.VIP, Rail.VIP]),
        ({"securityGroupIds": [OTHER, GROUP]}, []),
    ],
)
def test_both_load_balancers_ports_are_neither_cut_off_nor_made_deaf(change: dict[str, Any], caught: list[Rail]):
    assert rails(of_the_pair((HEARD, HEARD), (SENT, SENT), **change)) == caught


def test_one_load_balancer_may_be_cut_off():
    content = json.loads(of_the_pair((HEARD, HEARD), adminStateUp=False))
    content["steps"][-1]["op"] = "same"
    assert rails(json.dumps(content)) == []


def test_a_port_without_port_security_is_open_to_the_world():
    content = json.loads(preview("first-deployment"))
    ports = [it for it in content["steps"] if "networking/port:Port" in it["newState"]["type"]]
    ports[0]["newState"]["inputs"]["portSecurityEnabled"] = False
    assert [catch.rail for catch in check_preview(json.dumps(content))] == [Rail.OPEN_TO_THE_WORLD]


def test_a_first_deployment_passes():
    assert check_preview(preview("first-deployment")) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("wrong-value", "controlPlaneCount = '4'"), ("vip-protected", "marked for protection")],
)
def test_a_failed_preview_reports_only_pulumi_s_reason(name: str, message: str):
    with pytest.raises(StackError, match=message) as failed:
        check_preview(preview(name))
    assert "exited with non-zero" not in str(failed.value)
    assert "preview failed\n" not in str(failed.value)


@pytest.mark.parametrize(
    "text",
    ["", "error: no stack", "[]", "{}", '{"steps": [{"op": "same"}]}', '{"steps": [{"op": "same", "urn": "x"}]}'],
)
def test_input_that_is_not_a_preview_is_refused(text: str):
    with pytest.raises(StackError, match="not the output of `pulumi preview --json`"):
        check_preview(text)


def test_a_preview_without_unchanged_resources_is_refused():
    """Without them the control plane's majority is unknown."""
    content = json.loads(preview("one-member"))
    content["steps"] = [step for step in content["steps"] if step["op"] != "same"]
    with pytest.raises(StackError, match="--show-sames"):
        check_preview(json.dumps(content))


def guard(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["guard", *arguments])
    return result.exit_code, " ".join(result.output.split())


def test_the_command_stops_a_change_and_says_how_to_allow_it():
    status, shown = guard(str(PREVIEWS / "key-pair.json"))
    assert status == 1
    assert "stopped both-load-balancers: guard-lb-0 and guard-lb-1" in shown
    assert "--allow both-load-balancers --allow control-plane-majority" in shown
    assert guard(str(PREVIEWS / "no-changes.json")) == (0, "No guard rail stops this.")


def test_allowing_a_guard_rail_by_name_allows_no_other():
    both = str(PREVIEWS / "key-pair.json")
    status, shown = guard(both, "--allow", "both-load-balancers")
    assert status == 1
    assert "allowed both-load-balancers" in shown
    assert "run it again with: --allow control-plane-majority" in shown
    status, shown = guard(both, "--allow", "both-load-balancers", "--allow", "control-plane-majority")
    assert status == 0
    assert "allowed control-plane-majority" in shown
    assert guard(both, "--allow", "vip")[0] == 1


def test_an_unknown_guard_rail_cannot_be_allowed():
    assert guard(str(PREVIEWS / "no-changes.json"), "--allow", "everything")[0] == 2


def with_step(op: str, name: str, kind: str) -> str:
    """A preview in which something of the cluster's changes."""
    urn = f"urn:pulumi:dev::openstack-ha-api::Kubernetes$command:{kind}:Command::{name}"
    step = {"op": op, "urn": urn, "oldState": {"id": "1"}}
    return json.dumps({"steps": [step], "changeSummary": {op: 1}})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dev-certificate-authorities", "local"),
        ("dev-cp-0-kubernetes-init", "remote"),
        ("dev-admin-certificate", "local"),
    ],
)
def test_the_cluster_s_keys_and_its_record_are_kept(name: str, kind: str):
    for op in ("delete", "replace"):
        assert rails(with_step(op, name, kind)) == [Rail.CLUSTER]
    assert rails(with_step("same", name, kind)) == []
    assert rails(with_step("replace", "dev-cp-0-kubernetes-join", "remote")) == []


def of_a_cluster(members: int, *, certificate: str = "same", **ops: str) -> str:
    """A preview of a cluster of this many control-plane hosts, with these operations on some (`_` for `-`)."""

    def step(op: str, kind: str, name: str, difference: dict[str, Any] | None = None) -> dict[str, Any]:
        state = {"id": name, "inputs": {"powerState": "shutoff"} if difference else {}}
        new = {} if op == "delete" else {"newState": state}
        urn = f"urn:pulumi:dev::openstack-ha-api::Servers${kind}::{name}"
        return {"op": op, "urn": urn, "oldState": state, "detailedDiff": difference} | new

    steps = [
        step(certificate, "command:local:Command", "dev-admin-certificate"),
        step("same", "command:remote:Command", "dev-cp-0-kubernetes-init"),
    ]
    for index in range(members):
        op = ops.get(f"cp_{index}", "same")
        difference = {"powerState": {"kind": "update"}} if op == "update" else None
        steps.append(step(op, "openstack:compute/instance:Instance", f"dev-cp-{index}", difference))
    return json.dumps({"steps": steps, "changeSummary": {}})


@pytest.mark.parametrize("op", ["delete", "delete-replaced", "replace", "create-replacement"])
def test_hosts_of_a_cluster_that_go_one_at_a_time_are_stopped_for_what_it_is(op: str):
    (catch,) = check_preview(of_a_cluster(3, cp_0=op, cp_1=op, cp_2=op))
    assert catch.rail is Rail.CONTROL_PLANE_MAJORITY
    assert "dev-cp-0, dev-cp-1, dev-cp-2: 3 of the control plane's 3" in catch.reason
    assert "one at a time, and each leaves the cluster first" in catch.reason
    assert check_preview(of_a_cluster(3, cp_0=op)) == []
    assert check_preview(of_a_cluster(5, cp_0=op, cp_1=op)) == []
    assert rails(of_a_cluster(5, cp_0=op, cp_1=op, cp_2=op)) == [Rail.CONTROL_PLANE_MAJORITY]


@pytest.mark.parametrize(
    "ops", [{"cp_0": "update", "cp_1": "update"}, {"cp_0": "update", "cp_2": "replace"}], ids=["both", "one"]
)
def test_hosts_of_a_cluster_that_are_shut_off_do_not_leave(ops: dict[str, str]):
    (catch,) = check_preview(of_a_cluster(3, **ops))
    assert catch.rail is Rail.CONTROL_PLANE_MAJORITY
    assert "etcd needs 2 of them: change one at a time" in catch.reason


@pytest.mark.parametrize("certificate", ["delete", "replace"])
def test_when_the_program_takes_the_cluster_for_ended_its_hosts_do_not_leave(certificate: str):
    ended, majority = sorted(
        check_preview(of_a_cluster(3, certificate=certificate, cp_0="replace", cp_1="replace")),
        key=lambda catch: catch.rail,
    )
    assert ended.rail is Rail.CLUSTER
    assert "stay members of etcd" in ended.reason
    assert "etcd needs 2 of them: change one at a time" in majority.reason


@pytest.mark.parametrize("op", ["delete", "replace"])
def test_the_only_control_plane_host_has_all_the_data(op: str):
    (catch,) = check_preview(of_a_cluster(1, cp_0=op))
    assert catch.rail is Rail.CONTROL_PLANE_MAJORITY
    assert "set controlPlaneCount to 3 first" in catch.reason
