"""A cluster of the example's configuration, with real keys that are the same in each test."""

import json
from functools import cache
from ipaddress import IPv4Address
from typing import Any

from model.kubernetes import Authorities, Cluster, LocalEndpoint, Node
from model.settings import Settings
from program.certificates import authorities
from tests.unit.example import example_values


@cache
def example_authorities() -> Authorities:
    return Authorities.from_json(json.dumps(authorities()))


def example_cluster(**changes: Any) -> Cluster:
    return Cluster(
        settings=Settings.parse(example_values(**{"kubernetesVersion": "1.37"} | changes)),
        vip=IPv4Address("198.51.100.100"),
        floating_ip=None,
        version="1.37.2",
        authorities=example_authorities(),
    )


def example_node(control_plane: bool = True, /, **changes: Any) -> Node:
    name, address = ("k8s-cp-0", "198.51.100.21") if control_plane else ("k8s-worker-0", "198.51.100.31")
    return Node(
        name=name, address=IPv4Address(address), control_plane=control_plane, cluster=example_cluster(**changes)
    )


def example_endpoint(settings: Settings) -> LocalEndpoint:
    control_plane = {"k8s-cp-0": IPv4Address("198.51.100.21"), "k8s-cp-1": IPv4Address("198.51.100.22")}
    return LocalEndpoint.from_settings(settings, control_plane, example_authorities()["ca"])
