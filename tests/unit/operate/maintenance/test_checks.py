"""What a rebuild is refused for before anything is deleted: changes that wait for an `up`, and what the cloud lacks."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openstack.exceptions import NotFoundException

from model.settings import Settings
from operate.hosts.pair import PairError
from operate.maintenance.checks import insist_on_nothing_pending, insist_on_rebuild, pending_changes
from operate.stack import engine
from operate.stack.engine import StackError
from operate.stack.preview import UNKNOWN, Step, parse_preview
from operate.stack.resources import INSTANCE, PORT
from tests.unit.example import example_values, key_pair

LB_0, LB_1 = "dev-lb-0", "dev-lb-1"
COMMAND = "command:remote:Command"
KEY_PAIR = "openstack:compute/keypair:Keypair"
STEPS = ("prepare", "install", "configure", "prove")
PREVIEWS = Path(__file__).parents[1] / "previews"


def step(
    op: str, name: str, kind: str = COMMAND, *, parent: str = "LoadBalancers", differs: str | None = None, **inputs: Any
) -> dict[str, Any]:
    found: dict[str, Any] = {"op": op, "urn": f"urn:pulumi:dev::openstack-ha-api::{parent}${kind}::{name}"}
    if op != "delete":
        found["newState"] = {"inputs": inputs}
    if differs:
        found["detailedDiff"] = {differs: {"kind": "update"}}
    return found


def changed(*steps: dict[str, Any]) -> list[Step]:
    """A preview of a pair, in which these steps replace the unchanged ones of the same resource."""
    pair = [step("same", name, kind) for name in (LB_0, LB_1) for kind in (PORT, INSTANCE)]
    pair += [step("same", f"{name}-{it}") for name in (LB_0, LB_1) for it in STEPS]
    other = {it["urn"] for it in steps}
    return [Step.model_validate(it) for it in (*steps, *(it for it in pair if it["urn"] not in other))]


# The operations with which a new script is shown: a step may be updated, or replaced in one step or in three.
NEW_SCRIPT = [["update"], ["replace"], ["create-replacement", "replace", "delete-replaced"]]


@pytest.mark.parametrize("ops", NEW_SCRIPT)
def test_a_change_of_both_load_balancers_is_pending_for_a_rebuild_and_for_a_reapply(ops: list[str]):
    """For example another vrrpRouterId."""
    steps = changed(
        *(step(op, f"{name}-configure", differs="stdin") for name in (LB_0, LB_1) for op in ops),
        *(step(ops[0], f"{name}-prove", differs="triggers[1]") for name in (LB_0, LB_1)),
    )
    assert pending_changes(steps, rebuilt=LB_1) == [f"{LB_0}-configure ({ops[0]}: stdin)"]
    everything = [f"{name}-{it} ({ops[0]}: {key})" for it, key in (("configure", "stdin"), ("prove", "triggers"))
                  for name in (LB_0, LB_1)]  # fmt: skip
    assert pending_changes(steps) == everything
    with pytest.raises(PairError) as refused:
        insist_on_nothing_pending("dev", steps, rebuilt=LB_1)
    # An `up` alone would wait for the broken host, and fail.
    up = f"`pulumi up --stack dev --replace '**:Instance::{LB_1}'`"
    for part in (f"{LB_0}-configure (", "nothing was done", up, "revert", "--diff"):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        # As Pulumi shows them after a rebuild that was cut off between deleting and creating the instance.
        [
            step("create", LB_1, INSTANCE),
            *(step("create", f"{LB_1}-{it}") for it in STEPS),
            step("replace", f"{LB_0}-prove", differs="triggers[1]"),
        ],
        # ... and after one that was cut off later; its interface is not known yet.
        [
            step("delete-replaced", LB_1, INSTANCE),
            step("create", f"{LB_1}-prepare"),
            *(step("replace", f"{LB_1}-{it}", differs="stdin") for it in ("install", "configure")),
            step("create", f"{LB_0}-prove"),
        ],
        # A refresh has seen that somebody changed its port.
        [step("update", LB_1, PORT, differs="allowedAddressPairs[0].ipAddress")],
        # Another user's login to the cloud.
        [step("update", "default_5_5_3", "pulumi:providers:openstack", differs="userName")],
        [step("refresh", LB_0, INSTANCE), step("read", "dev-net", "openstack:networking/network:Network")],
    ],
    ids=["nothing", "instance missing", "steps missing", "drift of its own", "another login", "only read"],
)
def test_what_a_rebuild_itself_changes_is_not_pending(steps: list[dict[str, Any]]):
    assert pending_changes(changed(*steps), rebuilt=LB_1) == []
    # Holder first or last: the order is no change.
    assert pending_changes([*reversed(changed(*steps))], rebuilt=LB_1) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (step("update", "dev-lb-10-configure"), "dev-lb-10-configure (update)"),
        (step("delete", "dev-cp-2", INSTANCE), "dev-cp-2 (delete)"),
        (step("update", LB_0, PORT, differs="fixedIps[0].ipAddress"), f"{LB_0} (update: fixedIps)"),
        (step("create", "dev-lb-api-from-198.51.100.0/24", "Rule"), "dev-lb-api-from-198.51.100.0/24 (create)"),
        (step("import", "dev-vip", PORT), "dev-vip (import)"),
    ],
)  # fmt: skip
def test_a_change_of_anything_else_is_pending_for_a_rebuild(change: dict[str, Any], expected: str):
    assert pending_changes(changed(change), rebuilt=LB_1) == [expected]


def test_what_failed_on_a_host_of_the_control_plane_does_not_block_a_rebuild():
    failed = step("create", "dev-cp-0-prepare", parent="openstack-ha-api:compute:Servers")
    assert pending_changes(changed(failed), rebuilt=LB_1) == []


@pytest.mark.parametrize(
    ("preview", "pending"),
    [("no-changes", False), ("one-load-balancer", False), ("load-balancer-flavor", True), ("key-pair", True)],
)
def test_changes_in_previews_of_a_lab_stack(preview: str, *, pending: bool):
    steps = parse_preview((PREVIEWS / f"{preview}.json").read_text())
    assert bool(pending_changes(steps, rebuilt="guard-lb-1")) == pending


def test_a_long_list_is_cut_short():
    steps = changed(*(step("create", f"dev-worker-{index}", INSTANCE) for index in range(9)))
    with pytest.raises(PairError, match=r"dev-worker-4 \(create\) and 4 more"):
        insist_on_nothing_pending("dev", steps)


# ---- the cloud -----------------------------------------------------------------------------------------------------

PUBLIC = key_pair()[1]
NAMED = {"keyPair": "k8s", "publicKey": ""}
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOther ada"
INPUTS: dict[str, Any] = {
    "flavorId": "flavor",
    "imageId": "image",
    "networks": [{"port": "port"}],
    "schedulerHints": [{"group": "group"}],
    "availabilityZone": "one",
}


class Cloud:
    """A cloud of a user whose key pair it has, and everything that the instance needs."""

    current_user_id = "grace-id"

    def __init__(self) -> None:
        self.compute = self.network = self.image = self
        self.limits: dict[str, int] = {
            "instances": 6, "instances_used": 6, "total_cores": 6, "total_cores_used": 6, "total_ram": -1,
            "total_ram_used": 9000,
        }  # fmt: skip
        self.get_keypair = getter({"k8s": SimpleNamespace(public_key=PUBLIC)})
        self.get_flavor = getter({"flavor": SimpleNamespace(vcpus=1, ram=512)})
        self.get_image = getter({"image": SimpleNamespace(status="active")})
        self.get_port = getter({"port": SimpleNamespace()})
        self.get_server_group = getter({"group": SimpleNamespace()})
        self.get_security_group = getter({"security-group": SimpleNamespace()})

    def get_limits(self) -> Any:
        return SimpleNamespace(absolute=SimpleNamespace(**self.limits))

    def availability_zones(self) -> list[Any]:
        return [SimpleNamespace(name="one", state={"available": True})]


def getter(resources: Mapping[str, Any]) -> Callable[[str], Any]:
    def get(name_or_id: str) -> Any:
        if name_or_id not in resources:
            raise NotFoundException(name_or_id)
        return resources[name_or_id]

    return get


GONE = getter({})


def check(
    monkeypatch: pytest.MonkeyPatch,
    cloud: Cloud,
    *,
    freed: int = 1,
    creator: str = "ada-id",
    settings: Mapping[str, Any] = {},
    pending: bool = False,
    **inputs: Any,
) -> None:
    steps = [step("same", LB_1, INSTANCE, **INPUTS | inputs), step("same", LB_0, INSTANCE, flavorId="another")]
    steps += [step("replace", "k8s", KEY_PAIR, differs="publicKey")] if pending else []

    def preview(stack: str, *arguments: str) -> str:
        assert arguments == ("--replace", f"**:Instance::{LB_1}")
        assert stack == "dev"
        return json.dumps({"steps": steps, "changeSummary": {"same": 2}})

    monkeypatch.setattr(engine, "preview", preview)
    stack: Any = SimpleNamespace(
        name="dev",
        settings=Settings.parse(example_values(**settings)),
        outputs=SimpleNamespace(security_group_ids={"loadBalancers": "security-group"}),
    )
    insist_on_rebuild(stack, cloud, LB_1, freed=freed, creator=creator)


def test_a_cloud_that_has_everything_is_in_order(monkeypatch: pytest.MonkeyPatch):
    check(monkeypatch, Cloud())


def test_a_key_pair_of_another_user_is_reported_with_both_ways_out(monkeypatch: pytest.MonkeyPatch):
    """Nova shows no user the key pairs of another one. Without it, creating the instance is refused."""
    cloud = Cloud()
    cloud.get_keypair = GONE
    with pytest.raises(PairError) as refused:
        check(monkeypatch, cloud)
    for part in (LB_1, "nothing was done", "grace-id", "ada-id", "--public-key FILE k8s", PUBLIC.split()[1]):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "creator", "advice"),
    [
        ({}, "ada-id", "have the user ada-id do this"),
        ({}, "grace-id", "keypair delete k8s"),
        (NAMED, "ada-id", "have the user ada-id do this"),
        (NAMED, "grace-id", "sshPrivateKey"),
    ],
)
def test_a_key_pair_with_another_key_is_reported_and_another_users_or_a_named_one_is_never_to_be_deleted(
    monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, Any], creator: str, advice: str
):
    cloud = Cloud()
    cloud.get_keypair = getter({"k8s": SimpleNamespace(public_key=OTHER)})
    with pytest.raises(PairError) as refused:
        check(monkeypatch, cloud, settings=settings, creator=creator)
    for part in ("nothing was done", "key pair k8s", advice):
        assert part in str(refused.value)
    assert ("delete" in str(refused.value)) == ("delete" in advice)


def test_a_new_public_key_that_waits_for_an_up_is_a_pending_change(monkeypatch: pytest.MonkeyPatch):
    cloud = Cloud()
    cloud.get_keypair = getter({"k8s": SimpleNamespace(public_key=OTHER)})
    with pytest.raises(PairError, match=r"k8s \(replace: publicKey\)") as refused:
        check(monkeypatch, cloud, pending=True)
    assert "keypair delete" not in str(refused.value)


def test_a_port_that_pulumi_has_yet_to_create_is_not_looked_up(monkeypatch: pytest.MonkeyPatch):
    check(monkeypatch, Cloud(), networks=[{"port": UNKNOWN}])


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("get_flavor", "flavor flavor is gone: set loadBalancerFlavor"),
        ("get_image", "image image is gone: set loadBalancerImage"),
        ("get_port", "port port is gone: `pulumi up --refresh --stack dev`"),
        ("get_server_group", "server group group is gone: `pulumi up --refresh"),
        ("get_security_group", "security group security-group is gone: `pulumi up --refresh"),
    ],
)
def test_what_the_cloud_no_longer_has_is_reported_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, method: str, reason: str
):
    cloud = Cloud()
    setattr(cloud, method, GONE)
    with pytest.raises(PairError) as refused:
        check(monkeypatch, cloud)
    assert f"{LB_1} could not be created again, so nothing was done" in str(refused.value)
    assert reason in str(refused.value)


def test_every_reason_is_reported_at_once(monkeypatch: pytest.MonkeyPatch):
    cloud = Cloud()
    cloud.get_flavor = cloud.get_port = GONE
    cloud.get_image = getter({"image": SimpleNamespace(status="deactivated")})
    with pytest.raises(PairError) as refused:
        check(monkeypatch, cloud, availabilityZone="moon")
    for part in ("flavor flavor", "image image is deactivated", "port port", "zone moon"):
        assert part in str(refused.value)


def test_the_image_of_a_volume_is_checked_too(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(PairError, match="image retired is gone"):
        check(monkeypatch, Cloud(), imageId=None, blockDevices=[{"uuid": "retired", "sourceType": "image"}])


@pytest.mark.parametrize(
    ("freed", "limits", "reasons"),
    [
        (0, {}, ["quota for instances is 6, and 7", "quota for cores is 6, and 7"]),
        (0, {"instances": 7, "total_cores": -1}, []),
        # What is deleted before makes room, unless the quota was lowered.
        (1, {}, []),
        (2, {"instances": 5}, []),
        (1, {"total_ram": 8192}, ["quota for memory (MiB) is 8192, and 9000"]),
    ],
)
def test_the_quota_has_room_for_the_new_instance(
    monkeypatch: pytest.MonkeyPatch, freed: int, limits: dict[str, int], reasons: list[str]
):
    cloud = Cloud()
    cloud.limits |= limits
    said = ""
    try:
        check(monkeypatch, cloud, freed=freed)
    except PairError as error:
        said = str(error)
    assert all(reason in said for reason in reasons)
    assert said.count("quota for") == len(reasons)


def test_a_preview_that_fails_refuses_the_rebuild_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    """A wrong value, a missing plugin, a secret that cannot be decrypted."""

    def preview(*_: str) -> str:
        return (PREVIEWS / "wrong-value.json").read_text()

    monkeypatch.setattr(engine, "preview", preview)
    stack: Any = SimpleNamespace(name="dev", settings=Settings.parse(example_values()))
    cloud: Any = Cloud()
    with pytest.raises(StackError, match="the preview failed"):
        insist_on_rebuild(stack, cloud, LB_1, freed=1, creator="ada-id")
