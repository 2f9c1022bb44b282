"""A cluster all of whose hosts run Debian 13: the other clusters of these tests run Debian 12.

The tests are one story and run in the order of the file.
"""

import re
from collections.abc import Generator

import pytest

from dev.cluster_faults import wait_until_whole
from dev.lab.kubernetes import versions
from dev.lab_stack import cluster_config
from tests.e2e.cluster import Cluster
from tests.e2e.harness import System

pytestmark = pytest.mark.extended
IMAGES = dict.fromkeys(("loadBalancerImage", "controlPlaneImage", "workerImage"), "debian-13")
ABOUT = 'jsonpath={range .items[*].status.nodeInfo}{.osImage}|{.containerRuntimeVersion}{"\\n"}{end}'


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    system = System("lab-debian-13", "trixie", **cluster_config(), **IMAGES, workerCount=1)
    system.delete_leftovers()
    system.up()
    yield Cluster(system)
    system.destroy()


def test_one_up_ends_with_every_node_ready(cluster: Cluster):
    version = f"v{versions.KUBERNETES}"
    assert cluster.nodes() == {
        "trixie-cp-0": ("Ready", "control-plane", version),
        "trixie-worker-0": ("Ready", "worker", version),
    }
    for node in cluster.kubectl("get", "nodes", f"--output={ABOUT}").splitlines():
        assert re.fullmatch(r"Debian GNU/Linux 13 .*\|containerd://1\.7\..*", node)
    cluster.system.do(cluster.system.outputs.load_balancers, "grep VERSION_ID=.13 /etc/os-release")
    assert cluster.system.has_no_changes()


def test_the_api_answers_at_the_vip_from_either_load_balancer(cluster: Cluster):
    before = cluster.system.pair.holder()
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"
    cluster.system.ha("move", "--yes")
    assert cluster.system.pair.holder() != before
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"
    assert [it.ready for it in wait_until_whole(cluster.system.applied()).nodes] == [True, True]
    assert cluster.system.problems() == []
