"""Which settings an existing cluster accepts, and what a host's files get from the configuration."""

import json
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from model.kubernetes import ExistingCluster, renewal_period
from model.settings import Settings
from tests.unit.cluster_example import example_cluster, example_endpoint, example_node
from tests.unit.example import example_values


def settings(**changes: Any) -> Settings:
    return Settings.parse(example_values(**{"kubernetesVersion": "1.37"} | changes))


EXISTING = ExistingCluster(
    version="1.37.2",
    pod_network="10.244.0.0/16",
    service_network="10.96.0.0/16",
    network_plugin="flannel",
    ending=False,
)


@pytest.mark.parametrize("version", ["1.37", "1.37.2"])
def test_a_cluster_keeps_the_patch_that_it_was_created_with(version: str):
    assert EXISTING.problems(settings(kubernetesVersion=version)) == []


@pytest.mark.parametrize("version", ["1.36", "1.38", "1.37.1", "1.37.20"])
def test_another_version_is_refused(version: str):
    (problem,) = EXISTING.problems(settings(kubernetesVersion=version))
    assert f'kubernetesVersion = "{version}": the cluster runs 1.37.2' in problem


def test_everything_that_a_cluster_cannot_change_is_reported_together():
    problems = EXISTING.problems(
        settings(kubernetesVersion="1.38", podNetwork="10.8.0.0/16", serviceNetwork="10.9.0.0/16")
    )
    assert [it.partition(" ")[0] for it in problems] == ["kubernetesVersion", "podNetwork", "serviceNetwork"]


def test_what_the_steps_printed_is_understood():
    printed = "version=1.37.2\npodNetwork=10.244.0.0/16\nserviceNetwork=10.96.0.0/16\n"
    assert ExistingCluster.parse(printed + "networkPlugin=flannel\n", ending=False) == EXISTING
    # The network's step has not succeeded yet, or its record is of an older program.
    assert ExistingCluster.parse(printed, ending=False) == replace(EXISTING, network_plugin="")


@pytest.mark.parametrize(
    ("running", "ports", "refused"),
    [
        ("flannel", "[]", True),
        ("flannel", '["tcp/8472", "udp/4789", "4"]', True),
        ("flannel", '["udp/8472"]', False),
        ("flannel", '["udp/8000-9000"]', False),
        ("none", "[]", False),
        ("", "[]", False),
    ],
)
def test_flannel_s_port_is_not_closed_while_pods_use_it(running: str, ports: str, refused: bool):
    problems = replace(EXISTING, network_plugin=running).problems(
        settings(networkPlugin="none", networkPluginPorts=ports)
    )
    assert [it.partition(":")[0] for it in problems] == ["networkPlugin = none"] * refused
    assert all("list udp/8472 in networkPluginPorts" in it for it in problems)


def test_the_administrator_s_certificate_is_renewed_twice_a_year():
    days = [date(2026, 1, 1), date(2026, 6, 30), date(2026, 7, 1), date(2026, 12, 31), date(2027, 1, 1)]
    assert [renewal_period(day) for day in days] == ["2026-1", "2026-1", "2026-2", "2026-2", "2027-1"]


def test_cgroup_v1_is_accepted_only_on_request():
    assert example_cluster().ignored_preflight_errors == ()
    assert example_cluster(kubeletConfiguration='{"failCgroupV1": false}').ignored_preflight_errors == (
        "SystemVerification",
    )


def test_labels_and_taints_are_the_workers_alone():
    changes = {"workerLabels": '["zone=a", "disk=ssd"]', "workerTaints": '["gpu:NoExecute", "a/b=c:NoSchedule"]'}
    worker, control_plane = example_node(False, **changes), example_node(**changes)
    assert {"name": "node-labels", "value": "zone=a,disk=ssd"} in worker.kubelet_arguments
    assert worker.taints == [
        {"key": "gpu", "value": "", "effect": "NoExecute"},
        {"key": "a/b", "value": "c", "effect": "NoSchedule"},
    ]
    assert control_plane.taints is None
    assert [it["name"] for it in control_plane.kubelet_arguments] == ["node-ip", "config-dir"]


def test_a_name_is_in_the_certificate_once():
    cluster = example_cluster(
        endpointName="api.example.com", apiServerNames='["api.example.com", "198.51.100.100", "other.example.com"]'
    )
    assert cluster.certificate_names == ("198.51.100.100", "127.0.0.1", "api.example.com", "other.example.com")


def test_a_kubelet_uses_the_endpoint_s_name_only_if_that_can_lead_to_the_vip():
    """With a HAProxy of its own it needs none, and the name of a floating IP leads beyond the router."""
    named = example_cluster(endpointName="api.example.com", localApiEndpoint="false")
    assert named.kubelets_name == "api.example.com"
    assert replace(named, floating_ip="203.0.113.9").kubelets_name == ""
    assert example_cluster(endpointName="api.example.com").kubelets_name == ""


def test_workers_shut_down_gracefully_and_control_planes_by_their_own_unit():
    def shutdown(control_plane: bool, **configured: str) -> dict[str, str]:
        node = example_node(control_plane, kubeletConfiguration=json.dumps({"maxPods": 50, **configured}))
        assert node.kubelet_configuration["maxPods"] == 50
        return {key: value for key, value in node.kubelet_configuration.items() if key.startswith("shutdown")}

    assert shutdown(False).keys() == {"shutdownGracePeriod", "shutdownGracePeriodCriticalPods"}
    own = {"shutdownGracePeriod": "5m"}
    assert shutdown(False, **own) == own
    assert shutdown(True, **own) == {}


def test_many_workers_check_the_api_servers_less_often():
    def interval(workers: int) -> int:
        return example_endpoint(settings(workerCount=str(workers))).timers.api_check_interval

    default = settings().timers.api_check_interval
    assert [interval(count) // default for count in (1, 20, 21, 40, 100)] == [1, 1, 2, 2, 5]
