"""Which settings an existing cluster accepts, and what a host's files get from the configuration."""

from datetime import date
from typing import Any

import pytest

from model.kubernetes import cluster_problem, renewal_period
from model.settings import Settings
from tests.unit.cluster_example import example_cluster, example_node
from tests.unit.example import example_values


def settings(**changes: Any) -> Settings:
    return Settings.parse(example_values(**{"kubernetesVersion": "1.37"} | changes))


def test_a_stack_without_a_cluster_may_have_any_settings():
    assert cluster_problem(settings(), None) is None
    assert cluster_problem(settings(kubernetesVersion=""), None) is None


@pytest.mark.parametrize("version", ["1.37", "1.37.2"])
def test_a_cluster_keeps_the_patch_that_it_was_created_with(version: str):
    assert cluster_problem(settings(kubernetesVersion=version), "1.37.2") is None


@pytest.mark.parametrize("version", ["1.36", "1.38", "1.37.1", "1.37.20"])
def test_another_version_is_refused(version: str):
    problem = cluster_problem(settings(kubernetesVersion=version), "1.37.2")
    assert problem
    assert f'kubernetesVersion = "{version}": the cluster runs 1.37.2' in problem


def test_the_administrator_s_certificate_is_renewed_twice_a_year():
    days = [date(2026, 1, 1), date(2026, 6, 30), date(2026, 7, 1), date(2026, 12, 31), date(2027, 1, 1)]
    assert [renewal_period(day) for day in days] == ["2026-1", "2026-1", "2026-2", "2026-2", "2027-1"]


def test_containerd_follows_the_kubelet_s_cgroup_driver():
    assert example_cluster().systemd_cgroups
    assert not example_cluster(kubeletConfiguration='{"cgroupDriver": "cgroupfs"}').systemd_cgroups


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
    assert example_cluster(apiServerNames='["api.example.com", "198.51.100.100"]').certificate_names == (
        "198.51.100.100",
        "api.example.com",
    )
