"""Names, and what the table of security rules opens."""

import json
from collections.abc import Mapping

from model.settings import Settings
from model.topology import Role, host_names, security_rules
from tests.unit.example import example_values


def settings(**changes: str) -> Settings:
    return Settings.parse(example_values(**changes))


def test_growing_a_role_leaves_the_other_names_as_they_are():
    three = host_names(settings(), Role.CONTROL_PLANE)
    five = host_names(settings(controlPlaneCount="5"), Role.CONTROL_PLANE)
    assert three == ("k8s-cp-0", "k8s-cp-1", "k8s-cp-2")
    assert five[:3] == three


def test_no_workers_are_allowed():
    assert host_names(settings(workerCount="0"), Role.WORKER) == ()


def test_rule_names_are_unique_in_their_group():
    names = [(rule.role, rule.name) for rule in security_rules(settings())]
    assert len(names) == len(set(names))


def test_nothing_is_open_to_the_world_by_default():
    assert all(rule.source != "0.0.0.0/0" for rule in security_rules(settings()) if not rule.egress)


def test_the_api_is_open_to_the_world_only_if_configured():
    opened = [
        (rule.role, rule.purpose)
        for rule in security_rules(settings(apiAllowedCidrs='["0.0.0.0/0"]'))
        if not rule.egress and rule.source == "0.0.0.0/0"
    ]
    assert opened == [(Role.LOAD_BALANCER, "api")]


def test_existing_api_servers_may_use_the_endpoint_too():
    rules = security_rules(
        settings(apiServers='["198.51.100.9", "198.51.100.10"]', apiAllowedCidrs='["198.51.100.9/32"]')
    )
    sources = [rule.source for rule in rules if (rule.role, rule.purpose) == (Role.LOAD_BALANCER, "api")]
    assert sources[:2] == ["198.51.100.9/32", "198.51.100.10/32"]
    assert len(sources) == len(set(sources))


def test_vrrp_is_accepted_only_from_the_load_balancers_group():
    (rule,) = [rule for rule in security_rules(settings()) if rule.purpose == "vrrp"]
    assert (rule.role, rule.source, rule.protocol, rule.ports) == (Role.LOAD_BALANCER, Role.LOAD_BALANCER, "112", None)


def test_administrators_reach_ssh_on_every_host_and_nothing_else():
    from_admins = {(rule.role, rule.purpose) for rule in security_rules(settings()) if rule.source == "198.51.100.0/28"}
    assert from_admins == {
        (Role.LOAD_BALANCER, "ssh"),
        (Role.LOAD_BALANCER, "health"),
        (Role.LOAD_BALANCER, "metrics"),
        (Role.LOAD_BALANCER, "exporter"),
        (Role.CONTROL_PLANE, "ssh"),
        (Role.WORKER, "ssh"),
    }


def opened_for_frontends(*frontends: Mapping[str, object]) -> set[tuple[str, str, tuple[int, int] | None]]:
    before = security_rules(settings())
    after = security_rules(settings(frontends=json.dumps(frontends)))
    assert set(before) <= set(after)
    # Neutron refuses a rule that a group has already, whatever its description.
    meanings = [(it.role, it.source, it.protocol, it.ports, it.egress) for it in after]
    assert len(meanings) == len(set(meanings)) == len({(it.role, it.name) for it in after})
    assert {it.protocol for it in set(after) - set(before)} <= {"tcp"}
    return {(it.role, str(it.source), it.ports) for it in set(after) - set(before)}


def test_a_frontend_is_open_to_its_clients_and_the_cluster_and_its_servers_to_the_load_balancers():
    ingress = {"name": "ingress", "port": 443, "targetPort": 30443, "allowedCidrs": ["203.0.113.0/24"]}
    assert opened_for_frontends(ingress) == {
        *(("lb", source, (443, 443)) for source in ("203.0.113.0/24", "cp", "worker")),
        ("worker", "lb", (30443, 30443)),
    }
    rke2 = {"name": "rke2", "port": 9345, "target": "controlPlane"}
    assert opened_for_frontends(rke2) == {
        *(("lb", source, (9345, 9345)) for source in ("cp", "worker")),
        ("cp", "lb", (9345, 9345)),
    }


def test_frontends_that_lead_to_the_same_port_need_one_rule_there():
    two = [{"name": f"f{port}", "port": port, "targetPort": 30443} for port in (443, 8443)]
    assert ("worker", "lb", (30443, 30443)) in opened_for_frontends(*two)
    api = {"name": "api", "port": 443, "target": "controlPlane", "targetPort": 6443}
    assert {role for role, _, _ in opened_for_frontends(api)} == {"lb"}


def test_the_cluster_s_ports_are_those_of_the_kubernetes_documents():
    # https://kubernetes.io/docs/reference/networking/ports-and-protocols/
    def opened(role: Role) -> dict[str, tuple[tuple[int, int] | None, set[str]]]:
        table: dict[str, tuple[tuple[int, int] | None, set[str]]] = {}
        for rule in security_rules(settings()):
            if rule.role is role and not rule.egress and rule.purpose != "ssh":
                table.setdefault(rule.purpose, (rule.ports, set()))[1].add(str(rule.source))
        return table

    assert opened(Role.CONTROL_PLANE) == {
        "api": ((6443, 6443), {"lb", "cp", "worker"}),
        "etcd": ((2379, 2380), {"cp"}),
        "kubelet": ((10250, 10250), {"cp", "worker"}),
        "controller-manager": ((10257, 10257), {"cp"}),
        "scheduler": ((10259, 10259), {"cp"}),
    }
    assert opened(Role.WORKER) == {
        "kubelet": ((10250, 10250), {"cp", "worker"}),
        "kube-proxy": ((10256, 10256), {"worker"}),
    }


def opened_for_the_cluster(**changes: str) -> set[tuple[str, str, str, str | None, tuple[int, int] | None]]:
    bare = security_rules(settings())
    rules = security_rules(settings(kubernetesVersion="1.37", **changes))
    assert set(bare) <= set(rules)
    names = [(rule.role, rule.name) for rule in rules]
    assert len(names) == len(set(names))
    return {(it.role, it.name, str(it.source), it.protocol, it.ports) for it in set(rules) - set(bare)}


def test_a_cluster_opens_flannel_s_port_between_its_hosts_and_nothing_else():
    assert opened_for_the_cluster() == {
        (role, f"plugin-udp-8472-from-{source}", source, "udp", (8472, 8472))
        for role in ("cp", "worker")
        for source in ("cp", "worker")
    }


def test_another_plugin_with_flannel_s_port_keeps_its_rule():
    opened = opened_for_the_cluster()
    assert opened_for_the_cluster(networkPlugin="none", networkPluginPorts='["udp/8472"]') == opened


def test_a_port_that_is_open_already_gets_no_second_rule():
    """Neutron would refuse it."""
    assert not opened_for_the_cluster(networkPlugin="none", networkPluginPorts='["tcp/10250"]')


def test_another_plugin_s_ports_are_those_of_the_configuration():
    opened = opened_for_the_cluster(networkPlugin="none", networkPluginPorts='["tcp/4240-4250", "udp/8472", "4"]')
    assert {
        (name, protocol, ports) for role, name, source, protocol, ports in opened if (role, source) == ("cp", "worker")
    } == {
        ("plugin-tcp-4240-4250-from-worker", "tcp", (4240, 4250)),
        ("plugin-udp-8472-from-worker", "udp", (8472, 8472)),
        ("plugin-4-from-worker", "4", None),
    }
    assert len(opened) == 3 * 2 * 2


def test_bare_hosts_have_the_rules_of_the_configuration_too():
    changes = {"networkPlugin": "none", "networkPluginPorts": '["udp/8472"]', "nodePortCidrs": '["203.0.113.0/24"]'}
    assert {*security_rules(settings(**changes))} == {*security_rules(settings(kubernetesVersion="1.37", **changes))}
    assert len(opened_for_the_cluster(**changes)) == 2 * 2 + 2


def test_node_ports_are_open_on_workers_to_the_networks_of_the_configuration():
    opened = opened_for_the_cluster(networkPlugin="none", nodePortCidrs='["203.0.113.0/24"]')
    assert opened == {
        ("worker", f"node-ports-{protocol}-from-203.0.113.0/24", "203.0.113.0/24", protocol, (30000, 32767))
        for protocol in ("tcp", "udp")
    }
