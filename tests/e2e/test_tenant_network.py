"""The pair on a tenant network (Geneve) behind a router, where clients reach the VIP through its floating IP.

The tests run in the order of the file; each leaves the pair whole.
"""

from collections.abc import Generator, Sequence

import pytest

from dev.lab_faults import HaproxyHung, LinkCut
from operate.drill.faults import ApiHung, DrillFault, HAProxyKilled, InstanceStopped, KeepalivedKilled, Partition
from program.holder import answering_load_balancer
from tests.e2e.faults import BOUNDS, FAILOVER_SECONDS, PLANNED_MOVE_SECONDS
from tests.e2e.harness import System, findings

# Its router forwards by what OVN's southbound database says of the VIP, which follows the holder's gratuitous ARP.
ROUTER_SECONDS = 0.5


@pytest.fixture(scope="module")
def pair(watched: System) -> Generator[System]:
    if len(watched.outputs.control_plane) != 3:  # this module runs alone
        watched.up(controlPlaneCount=3)
    watched.serve()
    watched.wait_until_whole()
    yield watched
    assert watched.problems() == []


def test_clients_reach_the_vip_through_its_floating_ip_alone(pair: System):
    assert pair.outputs.endpoint == f"https://{pair.outputs.floating_ip}:6443"
    assert pair.pair.holder() == pair.holder_and_standby()[0]
    assert answering_load_balancer(pair.outputs.vip) is None
    assert pair.has_no_changes()


def test_preflight_names_the_backend_and_the_router(pair: System):
    found = findings(pair.ha("preflight", "--json"))
    assert found["backend"]["found"].startswith("OVN")
    assert found["router tenant"]["result"] == "ok"


@pytest.mark.measures
@pytest.mark.parametrize(
    "faults",
    [
        (InstanceStopped, LinkCut),
        pytest.param((HAProxyKilled, KeepalivedKilled, Partition, ApiHung, HaproxyHung), marks=pytest.mark.extended),
    ],
    ids=["common", "others"],
)
def test_faults_are_survived_through_the_router(pair: System, faults: Sequence[type[DrillFault]]):
    bounds = BOUNDS | {HaproxyHung.name: FAILOVER_SECONDS, LinkCut.name: FAILOVER_SECONDS}
    measured = {it.fault: it for it in pair.drill(*faults)}
    for name in measured.keys() & bounds:
        found, bound = measured[name], bounds[name]
        assert found.longest_interruption <= bound + ROUTER_SECONDS + found.longest_stall, name
        assert found.after == pair.pair.peer_of(found.before), name
        # Whoever watches through the router sees who holds the VIP.
        assert found.taken_over is not None, name


@pytest.mark.measures
def test_quiet_clients_beyond_the_router_are_reset_too(pair: System):
    assert pair.quiet_watches_end() <= FAILOVER_SECONDS + ROUTER_SECONDS


@pytest.mark.measures
def test_moves_lose_no_request_and_no_connection_through_the_router(pair: System):
    pair.loses_nothing_in_moves(2)


@pytest.mark.extended
@pytest.mark.measures
def test_both_load_balancers_are_replaced_the_standby_first(pair: System):
    holder, standby = pair.holder_and_standby()
    with pair.probed() as probe:
        changes = pair.up(loadBalancerFlavor="lab.medium")
    report = probe.report()
    replaced = [it.name for it in changes if it.op == "delete-replaced" and it.name in (holder, standby)]
    assert replaced == [standby, holder]
    assert report.longest_gap <= PLANNED_MOVE_SECONDS + ROUTER_SECONDS + report.longest_stall
