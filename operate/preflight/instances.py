"""Flavors, images, zones, key pair, existing instances, and how Nova can spread instances over hypervisors."""

from collections.abc import Generator, Iterable, Iterator
from typing import Any

from model.cloud import is_uuid
from model.settings import ServerGroupPolicy
from model.topology import Role, host_names
from operate.preflight.facts import Facts
from operate.preflight.finding import CannotCheckError, Finding, not_checked, note, ok, problem
from operate.stack.key_pair import key_pair_name, key_pair_problem

LOAD_BALANCER_RAM = 512
"""MiB. Less works (the lab's have 384), but a storm of connections needs memory too."""
DISTRIBUTIONS = {"debian": 12.0, "ubuntu": 22.04}
"""Distributions that the steps support, each with its oldest release."""
MIB, GIB = 2**20, 2**30
KEPT = "existing instances keep theirs"
NO_NEW = "set a different one before an instance has to be created or replaced"

# kubeadm's preflight checks (cmd/kubeadm/app/constants: ControlPlaneNumCPU, ControlPlaneMem).
CONTROL_PLANE_VCPUS = 2
CONTROL_PLANE_RAM = 1700


def flavors(facts: Facts) -> Generator[Finding]:
    """The flavors exist, are large enough, and have a disk, unless the hosts boot from volumes."""
    for name, found in facts.flavors.items():
        roles = [role for role in facts.roles if role.settings(facts.settings).flavor == name]
        looked_at = f"flavor {name}"
        keys = ", ".join(f"{role.configuration_prefix}Flavor" for role in roles)
        if len(found) == 1:
            yield from _flavor(facts, looked_at, found[0], roles)
        elif found:
            yield problem(looked_at, f"{len(found)} flavors have this name ({keys})", "use the id instead")
        elif all(facts.keep(role) for role in roles):
            yield note(looked_at, f"is gone ({keys}): {KEPT}", NO_NEW)
        else:
            some = _some(it.name for it in facts.every_flavor)
            yield problem(looked_at, f"does not exist ({keys})", f"use one of {some}")


def _flavor(facts: Facts, looked_at: str, flavor: Any, roles: Iterable[Role]) -> Iterator[Finding]:
    size = f"{flavor.vcpus} vCPU, {flavor.ram} MiB, {flavor.disk} GiB of disk"
    diskless = [it for it in roles if not flavor.disk and facts.new_root_disks(it) and not _volume_size(facts, it)]
    if diskless and not facts.is_admin:
        keys = ", ".join(f"{role.configuration_prefix}RootVolumeSize" for role in diskless)
        yield problem(
            looked_at,
            f"{size}: without a volume, Nova's default policy refuses to boot an image from it (403)",
            f"set {keys}, or use another flavor",
        )
    elif facts.settings.kubernetes and Role.CONTROL_PLANE in roles and not _suits_control_plane(flavor):
        yield problem(
            looked_at,
            f"{size}: kubeadm refuses a control-plane host with fewer than {CONTROL_PLANE_VCPUS} vCPU, or less than "
            f"{CONTROL_PLANE_RAM} MiB after what the kernel takes",
            "use a larger flavor (controlPlaneFlavor)",
        )
    elif Role.LOAD_BALANCER in roles and flavor.ram < LOAD_BALANCER_RAM:
        yield note(
            looked_at,
            f"{size}: little memory for a load balancer with thousands of clients at once",
            f"use a flavor with {LOAD_BALANCER_RAM} MiB or more if that can happen",
        )
    else:
        yield ok(looked_at, size)


def _suits_control_plane(flavor: Any) -> bool:
    return flavor.vcpus >= CONTROL_PLANE_VCPUS and flavor.ram > CONTROL_PLANE_RAM


def _volume_size(facts: Facts, role: Role) -> int:
    return role.settings(facts.settings).root_volume_size


def images(facts: Facts) -> Generator[Finding]:
    """The images exist, can boot, fit their disks, and have a supported distribution."""
    for name, found in facts.images.items():
        roles = [role for role in facts.roles if role.settings(facts.settings).image == name]
        looked_at = f"image {name}"
        if not found:
            yield _no_image(facts, name, looked_at, roles)
            continue
        image = found[0]
        problems = [*_unusable(image), *_unfit(facts, image, roles)]
        if Role.LOAD_BALANCER in roles:
            problems += _unknown_distribution(image)
        for reason, remedy in problems:
            yield problem(looked_at, reason, remedy)
        curiosities = [*_curiosities(image, len(found))]
        for what, remedy in curiosities:
            yield note(looked_at, what, remedy)
        if not problems and not curiosities:
            distribution = " ".join(filter(None, (image.os_distro, image.os_version))) or "distribution unknown"
            yield ok(looked_at, f"{image.status}, {image.visibility}, {distribution}, {(image.size or 0) // MIB} MiB")


def _no_image(facts: Facts, name: str, looked_at: str, roles: Iterable[Role]) -> Finding:
    keys = ", ".join(f"{role.configuration_prefix}Image" for role in roles)
    hosts = [host for role in roles for host in host_names(facts.settings, role)]
    there = [facts.servers[host] for host in hosts if host in facts.servers]
    # As in program/lookups.py: only an image that is given by its id is followed.
    if len(there) == len(hosts) and (not is_uuid(name) or all(_image_id(it) in (name, None) for it in there)):
        return note(looked_at, f"is gone ({keys}): {KEPT}", NO_NEW)
    community = next(iter(facts.cloud.image.images(name=name, visibility="community")), None)
    if community:
        return problem(
            looked_at,
            f"is a community image ({keys}): anyone in the cloud can publish one under any name",
            f"check its owner, {community.owner}, and use its id: {community.id}",
        )
    some = _some(it.name for it in facts.cloud.image.images())
    return problem(looked_at, f"does not exist ({keys})", f"use one of {some}")


def _image_id(server: Any) -> str | None:
    """The id of the image that an instance was created from; None if it boots from a volume."""
    return server.image.id if server.image else None


def _unusable(image: Any) -> Iterator[tuple[str, str]]:
    if image.status != "active":
        yield f"its status is {image.status}", "use an active image, or wait until this one is active"


def _unfit(facts: Facts, image: Any, roles: Iterable[Role]) -> Iterator[tuple[str, str]]:
    size = image.virtual_size or image.size or 0
    needs = max(image.min_disk, -(-size // GIB))
    for role in roles:
        try:
            flavor = facts.flavor(role)
        except CannotCheckError:
            continue  # reported as a problem of the flavor
        key, volume = f"{role.configuration_prefix}RootVolumeSize", _volume_size(facts, role)
        if volume:
            if needs > volume:
                yield f"needs {needs} GiB of disk; {key} is {volume}", f"raise {key} to {needs} or more"
        # With a flavor without a disk, the instance's disk has the image's size.
        elif flavor.disk and needs > flavor.disk:
            remedy = f"use a larger flavor, or set {key} to {needs} or more"
            yield f"needs {needs} GiB of disk; {flavor.name} has {flavor.disk}", remedy
        if image.min_ram > flavor.ram:
            yield f"needs {image.min_ram} MiB of memory; {flavor.name} has {flavor.ram}", "use a larger flavor"


def _unknown_distribution(image: Any) -> Iterator[tuple[str, str]]:
    distribution, version = (image.os_distro or "").lower(), image.os_version or ""
    oldest = DISTRIBUTIONS.get(distribution)
    remedy = "the load balancers need Debian 12 or newer, or Ubuntu 22.04 or newer"
    if distribution and oldest is None:
        yield f"is {distribution}", remedy
    elif oldest and version.replace(".", "", 1).isdecimal() and float(version) < oldest:
        yield f"is {distribution} {version}", remedy


def _curiosities(image: Any, of_this_name: int) -> Iterator[tuple[str, str]]:
    if of_this_name > 1:
        yield (
            f"{of_this_name} images have this name; the program uses the newest, {image.id}",
            "use an id to choose another",
        )
    if image.visibility in ("shared", "community"):
        yield (
            f"is {image.visibility}: its owner can withdraw it",
            "copy it into the project if instances will be created later",
        )
    if image.architecture and image.architecture != "x86_64":
        yield (
            f"is for {image.architecture}",
            "check that the cloud has hypervisors of that architecture, and flavors for them",
        )
    if image.hw_vif_model and image.hw_vif_model != "virtio":
        yield f"gets an emulated {image.hw_vif_model} network card", "hw_vif_model=virtio is much faster"


def zones(facts: Facts) -> Generator[Finding]:
    """The configured availability zones exist and are available."""
    configured = {zone: role for role in facts.roles for zone in role.settings(facts.settings).availability_zones}
    if not configured:
        yield ok("availability zones", "none configured: Nova chooses")
        return
    available = {zone.name for zone in facts.cloud.compute.availability_zones() if zone.state["available"]}
    for zone, role in configured.items():
        # Administrators may name a hypervisor too (ZONE:HOST).
        if zone.partition(":")[0] in available:
            yield ok(f"zone {zone}", "available")
        else:
            yield problem(
                f"zone {zone}",
                f"does not exist, or is unavailable ({role.configuration_prefix}AvailabilityZones)",
                f"use one of {_some(available)}",
            )


def key_pair(facts: Facts) -> Generator[Finding]:
    """The private key belongs to the public key that the hosts get, and this user can create instances with it."""
    settings, name = facts.settings, key_pair_name(facts.settings)
    looked_at, there = f"key pair {name}", facts.key_pairs.get(name)
    made = None if settings.key_pair else facts.made_key_pair
    owners = (it.user_id for it in facts.servers.values() if it.key_name == name)
    creator = (made or {}).get("userId") or next(owners, None)
    mismatch = settings.key_mismatch(there) if there else []
    if made is not None and there and creator in (facts.user_id, None):
        yield ok(looked_at, "created by this stack")  # `up` replaces it if publicKey has changed
    elif made is not None or (settings.key_pair and creator):
        mismatch = key_pair_problem(settings, there, user=facts.user_id, creator=creator or "who created the stack")
        yield problem(looked_at, *mismatch) if mismatch else ok(looked_at, "matches sshPrivateKey")
    elif settings.key_pair and there is None:
        yield problem(
            looked_at, "does not exist, or is another user's", f"use one of {_some(facts.key_pairs)}, or set publicKey"
        )
    elif settings.key_pair and mismatch:
        yield problem(looked_at, mismatch[0], "`pulumi config set --secret sshPrivateKey < FILE`")
    elif settings.key_pair or there is None:
        yield ok(looked_at, "matches sshPrivateKey")
    elif mismatch:
        yield problem(
            looked_at,
            "exists already, and its public key is not publicKey",
            "delete it if it is a leftover, or choose another clusterName: key pair names are unique",
        )
    else:
        yield problem(
            looked_at,
            "exists already, with the same public key; `pulumi up` would create it, and fail (409)",
            f"set keyPair to {name} and remove publicKey, or choose another clusterName",
        )


def existing(facts: Facts) -> Generator[Finding]:
    """Nova could build the instances that exist; if not, its reason, which Pulumi does not show."""
    looked_at = "existing instances"
    failed = [server for server in facts.servers.values() if server.status == "ERROR"]
    for server in failed:
        fault = facts.cloud.compute.get_server(server.id).fault
        yield problem(
            f"instance {server.name}",
            f"is in ERROR: {fault['message'] if fault else 'Nova gives no reason'}",
            f"remove the cause; then `pulumi up --replace '**:Instance::{server.name}'` re-creates it",
        )
    if not failed:
        yield ok(looked_at, f"{len(facts.servers)}, none in ERROR" if facts.servers else "none")


def spreading(facts: Facts) -> Generator[Finding]:
    """There are enough hypervisors for the server group policies."""
    policies = {role: role.settings(facts.settings).server_group_policy for role in facts.roles}
    hard = {
        role: role.settings(facts.settings).count
        for role, it in policies.items()
        if it is ServerGroupPolicy.ANTI_AFFINITY
    }
    looked_at, count = "hypervisors", facts.hypervisor_count()
    if count is None:
        if hard:
            yield note(
                looked_at,
                f"anti-affinity needs {max(hard.values())} of them, and only administrators can see how many there are",
                "ask the cloud's operator, or use soft-anti-affinity, which never keeps an instance from being created",
            )
        else:
            yield not_checked(looked_at, "only administrators see them; no policy depends on them")
    elif hard and count < max(hard.values()):
        yield problem(
            looked_at,
            f"{count}, but anti-affinity needs {max(hard.values())}",
            "use soft-anti-affinity, or add hypervisors",
        )
    elif count < facts.settings.LOAD_BALANCERS:
        yield note(looked_at, f"{count}: both load balancers run on it and fail with it", "add hypervisors")
    else:
        yield ok(looked_at, f"{count}")


def _some(names: Iterable[str]) -> str:
    every = sorted({*names})
    return ", ".join(every[:8]) + (f" and {len(every) - 8} more" if every[8:] else "") or "none: there are none"
