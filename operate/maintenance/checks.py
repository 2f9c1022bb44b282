"""What a rebuild needs, checked before anything is deleted. A preview of the whole stack shows most of it."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from operate.hosts.pair import PairError
from operate.stack import engine
from operate.stack.applied import AppliedStack
from operate.stack.cloud import found
from operate.stack.key_pair import key_pair_name, key_pair_problem
from operate.stack.preview import UNKNOWN, Step, parse_preview
from operate.stack.resources import INSTANCE

# Nothing happens, or Pulumi only reads.
_UNCHANGED = ("same", "read", "refresh")
# The login to the cloud, which may be another user's. It changes nothing in the stack.
_PROVIDER = "pulumi:providers:"
# Control plane and workers. A change that waits for an `up` there must not keep a load balancer from being rebuilt;
# if it concerns the load balancers, it changes their files too.
_SERVERS = "openstack-ha-api:compute:Servers$"
_MOST = 5


def pending_changes(steps: Collection[Step], *, rebuilt: str | None = None, with_servers: bool = False) -> list[str]:
    """What a preview changes, by resource, except a load balancer that is `rebuilt`.

    Of that one anything may be missing, after a rebuild that was cut off. Then both hosts' proof is out of date too.
    Control plane and workers count only `with_servers`: for an `up` of the whole stack.
    """

    def is_expected(name: str) -> bool:
        return rebuilt is not None and (name == rebuilt or name.startswith(f"{rebuilt}-") or name.endswith("-prove"))

    # A replacement is shown as several steps, or as one.
    changes: dict[str, str] = {}
    for step in steps:
        if step.op in _UNCHANGED or step.type.startswith(_PROVIDER) or is_expected(step.name):
            continue
        if _SERVERS in step.urn and not with_servers:
            continue
        keys = ", ".join(dict.fromkeys(path.partition("[")[0].partition(".")[0] for path in step.difference or {}))
        changes.setdefault(step.urn, f"{step.name} ({step.op}{f': {keys}' if keys else ''})")
    return [*changes.values()]


def insist_on_nothing_pending(
    stack: str, steps: Collection[Step], *, rebuilt: str | None = None, with_servers: bool = False
) -> None:
    """PairError if the configuration, or the program, has a change that was not applied yet, as `pending_changes`.

    A run for one host would apply it to that host alone: with another `vrrpRouterId`, for example, both would hold the
    VIP. One of the whole stack (`with_servers`) would apply what the operator did not ask for.
    """
    changes = pending_changes(steps, rebuilt=rebuilt, with_servers=with_servers)
    if changes:
        # A plain `up` waits for the broken host's SSH, and fails. With its instance replaced, the order is kept.
        up = f"`pulumi up --stack {stack}`"
        if rebuilt:
            up = f"`pulumi up --stack {stack} --replace '**:Instance::{rebuilt}'`, which also re-creates {rebuilt}"
        more = f" and {len(changes) - _MOST} more" if changes[_MOST:] else ""
        besides = f", besides those of {rebuilt}" if rebuilt else ""
        why = "This run would apply them too" if with_servers else "They must reach the load balancers in order"
        raise PairError(
            f"`pulumi up` has yet to apply changes{besides}, so nothing was done: {', '.join(changes[:_MOST])}{more}. "
            f"{why}: first run {up}; or revert them. `pulumi preview --diff --stack {stack}` shows them"
        )


def insist_on_rebuild(stack: AppliedStack, cloud: Any, name: str, *, freed: int, creator: str) -> None:
    """PairError, with every reason and remedy, if a load balancer could be deleted, but not created again.

    `freed` is the number of instances that are deleted before; `creator` is the id of the user who created its peer.
    StackError if the configuration cannot be read, or the preview fails.
    """
    key_pair_problems = _key_pair_problems(stack, cloud, creator)
    if stack.settings.key_pair:
        # First: the preview fails without it, and cannot name the user who has it.
        _insist(name, key_pair_problems)
    # As a replacement, which takes the program's values, even where a running instance ignores them: of images with one
    # name, the newest.
    steps = parse_preview(engine.preview(stack.name, "--replace", f"**:Instance::{name}"))
    insist_on_nothing_pending(stack.name, steps, rebuilt=name)
    inputs = next(step.inputs for step in steps if step.type == INSTANCE and step.name == name and step.inputs)
    # Only now: a new publicKey that waits for an `up` differs as well.
    _insist(name, [*key_pair_problems, *_cloud_problems(stack, cloud, inputs, freed)])


def _insist(name: str, problems: Sequence[str]) -> None:
    if problems:
        raise PairError(
            f"{name} could not be created again, so nothing was done:\n" + "\n".join(f"  - {it}" for it in problems)
        )


def _key_pair_problems(stack: AppliedStack, cloud: Any, creator: str) -> list[str]:
    pair = found(cloud.compute.get_keypair, key_pair_name(stack.settings))
    mismatch = key_pair_problem(
        stack.settings, pair.public_key if pair else None, user=cloud.current_user_id, creator=creator
    )
    return [": ".join(mismatch)] if mismatch else []


def _cloud_problems(stack: AppliedStack, cloud: Any, inputs: dict[str, Any], freed: int) -> Iterator[str]:
    """What of the instance's inputs, as Pulumi would use them, the cloud no longer has."""
    up = f"`pulumi up --stack {stack.name}`"
    flavor = found(cloud.compute.get_flavor, inputs["flavorId"])
    if flavor is None:
        yield f"its flavor {inputs['flavorId']} is gone: set loadBalancerFlavor to another one, and run {up}"
    else:
        yield from _quota_problems(cloud, flavor, freed)
    images = [inputs.get("imageId"), *(it.get("uuid") for it in inputs.get("blockDevices", ()))]
    for image_id in filter(None, images):
        image = found(cloud.image.get_image, image_id)
        if image is None or image.status != "active":
            state = image.status if image else "gone"
            yield f"its image {image_id} is {state}: set loadBalancerImage to the id of another one, and run {up}"
    missing = f"is gone: `pulumi up --refresh --stack {stack.name}` creates it again"
    for network in inputs["networks"]:
        # One that Pulumi has yet to create again has no id.
        if network["port"] != UNKNOWN and found(cloud.network.get_port, network["port"]) is None:
            yield f"its port {network['port']} {missing}"
    for hint in inputs.get("schedulerHints", ()):
        if found(cloud.compute.get_server_group, hint["group"]) is None:
            yield f"its server group {hint['group']} {missing}"
    group = stack.outputs.security_group_ids["loadBalancers"]
    if found(cloud.network.get_security_group, group) is None:
        yield f"its security group {group} {missing}"
    zone = inputs.get("availabilityZone")
    if zone and zone not in {it.name for it in cloud.compute.availability_zones() if it.state["available"]}:
        yield f"the availability zone {zone} is unavailable: set loadBalancerAvailabilityZones, and run {up}"


def _quota_problems(cloud: Any, flavor: Any, freed: int) -> Iterator[str]:
    """What is deleted frees its share of the quota, unless the quota was lowered below what is used."""
    limits = cloud.compute.get_limits().absolute
    for what, each, limit, used in (
        ("instances", 1, limits.instances, limits.instances_used),
        ("cores", flavor.vcpus, limits.total_cores, limits.total_cores_used),
        ("memory (MiB)", flavor.ram, limits.total_ram, limits.total_ram_used),
    ):
        needed = used + each * (1 - freed)
        if 0 <= limit < needed:
            yield (
                f"the quota for {what} is {limit}, and {needed} would be used: request a larger quota, or delete "
                "unused instances"
            )
