"""Work on one load balancer of a pair that serves: moved, drained, booted, rebuilt; refused where that is an outage.

The tests are one story and run in the order of the file; each leaves the pair whole.
"""

import os
import re
import secrets
import signal
import urllib.request
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openstack
import pytest
from openstack.config import OpenStackConfig
from openstack.connection import Connection

from dev.lab_stack import CLOUD
from model.topology import HEALTH_PORT
from operate.hosts.lock import hold_all
from operate.hosts.pair import wait_for
from operate.maintenance.moves import HELD
from operate.stack.files import ROOT
from tests.e2e.harness import System, clouds_yaml, start
from tests.watches import ends_after, watch

LB_0, LB_1 = "e2e-lb-0", "e2e-lb-1"
MOVES = 4


def ready(pair: System, name: str) -> bool:
    """Whether a load balancer's HAProxy has an API server."""
    try:
        with urllib.request.urlopen(f"http://{pair.outputs.load_balancers[name]}:{HEALTH_PORT}/readyz", timeout=2):
            return True
    except OSError:
        return False


def held_back(pair: System, name: str) -> bool:
    """Whether a load balancer still has the table of a move."""
    listed = f"sudo python3 -c 'import nftables; print(nftables.Nftables().cmd(\"list table {HELD}\")[0])'"
    return str(pair.run(name, listed).stdout).strip() == "0"


@pytest.mark.measures
def test_moves_there_and_back_lose_no_request_and_no_connection(pair: System):
    pair.loses_nothing_in_moves(MOVES)
    assert "./ha" not in pair.ha("status").words


@pytest.mark.measures
def test_without_a_grace_connections_are_cut_and_nothing_is_held_back_afterwards(pair: System):
    held = watch(pair.outputs.vip)
    assert "go on" not in pair.ha("move", "--yes", "--grace", "0").words
    assert len(ends_after([held], 2)) == 1
    assert [held_back(pair, name) for name in (LB_0, LB_1)] == [False, False]


def test_a_drained_load_balancer_stays_out_after_a_boot_until_it_is_resumed(pair: System):
    holder = pair.pair.holder()
    peer = pair.pair.peer_of(holder)
    with pair.undisturbed(lost=2):
        # It waits that long at most for connections that earlier tests left open.
        pair.ha("drain", holder, "--yes", "--reason", "new kernel", "--grace", "30")
        assert pair.pair.holder() == peer
        pair.pair.stop(holder)
        pair.pair.start(holder)
        wait_for("it has booted and found the API server", lambda: ready(pair, holder), 60)
        assert "new kernel" in pair.ha("status").words
        for command in (["drain", peer], ["move"]):
            refused = pair.ha(*command, "--yes", status=2).words
            assert f"{holder} cannot serve alone" in refused
            assert "it was drained by" in refused
        pair.ha("resume", holder)
    assert pair.pair.holder() == peer
    assert "new kernel" not in pair.ha("status").words


@contextmanager
def namesake(pair: System, name: str) -> Generator[Any]:
    """An instance that another stack of the project, with the same cluster name, could have."""
    cloud: Any = openstack.connect(cloud=CLOUD)
    ours = pair.pair.instance(name)
    image, flavor = ours.image.id, cloud.compute.find_flavor(str(pair.config.get("loadBalancerFlavor", "lab.small"))).id
    other = cloud.compute.create_server(name=name, image_id=image, flavor_id=flavor, networks="none")
    try:
        yield other
        assert cloud.compute.get_server(other.id).id == other.id
    finally:
        cloud.compute.delete_server(other.id)
        cloud.compute.wait_for_delete(other)


def test_an_instance_that_is_off_is_rebuilt_and_neither_its_peer_nor_a_namesake_is_touched(pair: System):
    standby = pair.pair.peer_of(pair.pair.holder())
    before = pair.pair.instance(standby).id
    with namesake(pair, standby) as other, pair.undisturbed():
        assert other.id not in {it.id for it in pair.pair.instances(standby)}
        pair.pair.stop(standby)
        said = pair.ha("rebuild", pair.pair.holder(), "--yes", status=2).words
        assert f"{standby} cannot serve alone" in said
        assert "not reachable" in said
        assert standby in pair.ha("rebuild", standby, "--yes").words
    assert pair.pair.instance(standby).id != before
    pair.ha("status")


@pytest.mark.extended
def test_a_rebuild_and_a_reapply_are_refused_while_a_change_of_both_load_balancers_waits_for_an_up(pair: System):
    holder = pair.pair.holder()
    standby = pair.pair.peer_of(holder)
    before = pair.pair.instance(standby).id
    edited = "/etc/sysctl.d/60-ha-api.conf"
    content = str(pair.run(standby, f"cat {edited}").stdout)
    pair.write(standby, edited, f"{content}# edited\n")
    pair.configure(vrrpRouterId=99)
    try:
        up = f"first run `pulumi up --stack {pair.name}"
        for command, advice in (
            (["rebuild", standby, "--yes"], f"{up} --replace '**:Instance::{standby}'`"),
            (["status", "--reapply", "--yes"], f"{up}`; or revert"),
        ):
            said = pair.ha(*command, status=2).words
            assert f"{holder}-configure" in said
            assert advice in said
    finally:
        pair.configure()
    assert pair.pair.instance(standby).id == before
    assert "--yes" in pair.ha("status", "--reapply", status=2).words
    pair.ha("status", "--reapply", "--yes")
    pair.ha("status")


@contextmanager
def another_user(file: Path) -> Generator[Any]:
    """Another member of the project, whose clouds.yaml is written; yields a connection of theirs."""
    admin: Any = openstack.connect(cloud="lab-admin")
    project = openstack.connect(cloud=CLOUD).current_project_id
    password = secrets.token_urlsafe()
    for left in list(admin.identity.users(name="e2e-second")):  # by a run that was killed
        admin.identity.delete_user(left)
    user = admin.identity.create_user(name="e2e-second", password=password, domain_id="default")
    try:
        admin.identity.assign_project_role_to_user(project, user, admin.identity.find_role("member"))
        clouds_yaml(file, username="e2e-second", password=password)
        config = OpenStackConfig(config_files=[str(file)], load_envvars=False)
        yield Connection(config=config.get_one(CLOUD))
    finally:
        admin.identity.delete_user(user)


@pytest.mark.extended
def test_a_second_user_needs_a_key_pair_of_the_same_name_for_a_rebuild(pair: System, tmp_path: Path):
    """In Nova key pairs belong to users. Without it nothing is deleted."""
    holder = pair.pair.holder()
    standby = pair.pair.peer_of(holder)
    before = pair.pair.instance(standby).id
    file = tmp_path / "clouds.yaml"
    with another_user(file) as second, pair.undisturbed():
        env = {"OS_CLIENT_CONFIG_FILE": str(file)}
        said = pair.ha("rebuild", standby, "--yes", status=2, env=env).words
        assert f"keypair create --public-key FILE {pair.cluster}" in said
        assert pair.pair.instance(standby).user_id in said
        assert pair.pair.instance(standby).id == before
        public = openstack.connect(cloud=CLOUD).compute.get_keypair(pair.cluster).public_key
        second.compute.create_keypair(name=pair.cluster, public_key=public)
        try:
            pair.ha("rebuild", standby, "--yes", env=env)
        finally:
            second.compute.delete_keypair(pair.cluster)
    assert pair.pair.instance(standby).id != before
    # Of the first user again, for the tests that follow.
    pair.ha("rebuild", standby, "--yes")
    pair.ha("status")


@pytest.mark.extended
def test_the_holder_hands_the_vip_over_before_it_is_rebuilt(pair: System):
    holder = pair.pair.holder()
    with pair.undisturbed(lost=2):
        pair.ha("rebuild", holder, "--yes")
    assert pair.pair.holder() == pair.pair.peer_of(holder)
    pair.ha("status")


@pytest.mark.extended
def test_the_next_rebuild_continues_one_that_was_killed_between_two_instances(pair: System):
    """Its lock is in the way, and so is the instance that Nova has made and Pulumi does not know of."""
    standby = pair.pair.peer_of(pair.pair.holder())
    for instance in pair.pair.instances(standby):
        pair.pair.delete_instance(instance.id)
    with pair.undisturbed():
        with start(ROOT / "ha", "rebuild", standby, "--yes", "--stack", pair.name) as cut_off:
            assert cut_off.stdout
            for line in cut_off.stdout:
                if re.search(rf":Instance {standby} creating", line):
                    break
            refused = pair.ha("move", "--yes", status=2).words
            assert "is in use by" in refused or "cannot serve alone" in refused
            os.killpg(cut_off.pid, signal.SIGKILL)
        assert "pulumi cancel" in pair.ha("rebuild", standby, "--yes", status=2).words
        pair.stack.cancel()
        pair.ha("rebuild", standby, "--yes")
    assert len(pair.pair.instances(standby)) == 1
    pair.ha("status")


def test_a_second_operator_is_refused(pair: System):
    commands = (["move", "--yes"], ["drain", LB_0, "--yes"], ["resume", LB_0], ["rebuild", LB_1, "--yes"])
    # At once: each waits a while for the lock.
    with (
        hold_all(pair.access, pair.outputs.load_balancers, "a drill"),
        ThreadPoolExecutor(len(commands)) as together,
    ):
        running = [together.submit(pair.ha, *command, status=2) for command in commands]
        assert all("is in use by" in it.result().words for it in running)
    pair.ha("move", "--yes")


def test_an_unknown_name_is_refused(pair: System):
    said = pair.ha("drain", "e2e-lb-2", "--yes", status=2).words
    assert LB_0 in said
    assert LB_1 in said
