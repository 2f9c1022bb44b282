"""Flavors, images, availability zones, key pair, and how Nova can spread the instances."""

from collections.abc import Generator, Iterable, Iterator
from typing import Any

from model.settings import ServerGroupPolicy
from model.topology import Role
from operate.preflight.facts import Facts
from operate.preflight.finding import CannotCheckError, Finding, not_checked, note, ok, problem

LOAD_BALANCER_RAM = 512
"""MiB. Less does (the lab's have 384), but APT and a storm of connections share it."""
DISTRIBUTIONS = {"debian": 12.0, "ubuntu": 22.04}
"""Those that a load balancer's steps know, and from which release on."""
MIB, GIB = 2**20, 2**30


def flavors(facts: Facts) -> Generator[Finding]:
    """They exist, and are large enough."""
    for name, found in facts.flavors.items():
        roles = [role for role in facts.roles if role.settings(facts.settings).flavor == name]
        looked_at = f"flavor {name}"
        keys = ", ".join(f"{role.configuration_prefix}Flavor" for role in roles)
        if not found:
            every = facts.cloud.compute.flavors(is_public="None")
            yield problem(looked_at, f"does not exist ({keys})", f"take one of {_some(it.name for it in every)}")
        elif len(found) > 1:
            yield problem(looked_at, f"{len(found)} flavors have this name ({keys})", "give the id")
        else:
            (flavor,) = found
            size = f"{flavor.vcpus} vCPU, {flavor.ram} MiB, {flavor.disk} GiB of disk"
            if Role.LOAD_BALANCER in roles and flavor.ram < LOAD_BALANCER_RAM:
                yield note(
                    looked_at,
                    f"{size}: little memory for a load balancer that thousands of clients use at once",
                    f"take one with {LOAD_BALANCER_RAM} MiB or more where that can happen",
                )
            else:
                yield ok(looked_at, size)


def images(facts: Facts) -> Generator[Finding]:
    """They exist, can be booted, fit their flavors, and are of a distribution that the steps know."""
    for name, found in facts.images.items():
        roles = [role for role in facts.roles if role.settings(facts.settings).image == name]
        looked_at = f"image {name}"
        if not found:
            keys = ", ".join(f"{role.configuration_prefix}Image" for role in roles)
            every = facts.cloud.image.images()
            yield problem(looked_at, f"does not exist ({keys})", f"take one of {_some(it.name for it in every)}")
            continue
        image = found[0]
        said = [*_unusable(image), *_unfit(facts, image, roles)]
        if Role.LOAD_BALANCER in roles:
            said += _unknown_distribution(image)
        for reason, remedy in said:
            yield problem(looked_at, reason, remedy)
        curiosities = [*_curiosities(image, len(found))]
        for what, remedy in curiosities:
            yield note(looked_at, what, remedy)
        if not said and not curiosities:
            distribution = (
                " ".join(filter(None, (image.os_distro, image.os_version))) or "of a distribution it does not tell"
            )
            yield ok(looked_at, f"{image.status}, {image.visibility}, {distribution}, {(image.size or 0) // MIB} MiB")


def _unusable(image: Any) -> Iterator[tuple[str, str]]:
    if image.status != "active":
        yield f"its status is {image.status}", "take an image that is active, or wait until this one is"


def _unfit(facts: Facts, image: Any, roles: Iterable[Role]) -> Iterator[tuple[str, str]]:
    size = image.virtual_size or image.size or 0
    for role in roles:
        try:
            flavor = facts.flavor(role)
        except CannotCheckError:
            continue  # told as the flavor's problem
        # A flavor without a disk gives an instance one of the image's size.
        if flavor.disk and (image.min_disk > flavor.disk or size > flavor.disk * GIB):
            needs = max(image.min_disk, -(-size // GIB))
            yield f"needs {needs} GiB of disk, and {flavor.name} has {flavor.disk}", "take a larger flavor"
        if image.min_ram > flavor.ram:
            yield f"needs {image.min_ram} MiB of memory, and {flavor.name} has {flavor.ram}", "take a larger flavor"


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
            f"{of_this_name} images have this name; the newest, {image.id}, is taken",
            "give the id if another is meant",
        )
    if image.visibility in ("shared", "community"):
        yield f"is {image.visibility}: its owner can take it away", "copy it into the project for new instances later"
    if image.architecture and image.architecture != "x86_64":
        yield f"is for {image.architecture}", "see that the cloud has hypervisors of that kind, and flavors for them"
    if image.hw_vif_model and image.hw_vif_model != "virtio":
        yield f"gets an emulated {image.hw_vif_model} network card", "hw_vif_model=virtio is faster by far"


def zones(facts: Facts) -> Generator[Finding]:
    """Those that the configuration names exist and are available."""
    wanted = {zone: role for role in facts.roles for zone in role.settings(facts.settings).availability_zones}
    if not wanted:
        yield ok("availability zones", "none is named: Nova chooses")
        return
    available = {zone.name for zone in facts.cloud.compute.availability_zones() if zone.state["available"]}
    for zone, role in wanted.items():
        if zone in available:
            yield ok(f"zone {zone}", "available")
        else:
            yield problem(
                f"zone {zone}",
                f"does not exist, or is not available ({role.configuration_prefix}AvailabilityZones)",
                f"take one of {_some(available)}",
            )


def key_pair(facts: Facts) -> Generator[Finding]:
    """The private key belongs to what the hosts get."""
    settings = facts.settings
    name = settings.key_pair or settings.cluster_name
    looked_at, there = f"key pair {name}", facts.key_pairs.get(name)
    if settings.key_pair and there is None:
        yield problem(
            looked_at, "does not exist, or is another user's", f"take one of {_some(facts.key_pairs)}, or set publicKey"
        )
    elif settings.key_pair and there and settings.key_mismatch(there):
        yield problem(looked_at, settings.key_mismatch(there)[0], "`pulumi config set --secret sshPrivateKey < FILE`")
    elif settings.public_key and there and there.split()[:2] != settings.public_key.split()[:2] and not facts.vip_port:
        yield problem(
            looked_at,
            "exists already, with another public key than publicKey",
            "delete it if it is left over, or take another clusterName: Nova has each name once",
        )
    else:
        yield ok(looked_at, "sshPrivateKey belongs to it")


def spreading(facts: Facts) -> Generator[Finding]:
    """Whether there are hypervisors enough for what the server group policies ask for."""
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
                f"anti-affinity needs {max(hard.values())} of them, and only administrators see how many there are",
                "ask who runs the cloud, or take soft-anti-affinity, which never keeps an instance from being made",
            )
        else:
            yield not_checked(looked_at, "only administrators see them; no policy needs to know")
    elif hard and count < max(hard.values()):
        yield problem(
            looked_at,
            f"{count}, and anti-affinity needs {max(hard.values())}",
            "take soft-anti-affinity, or add hypervisors",
        )
    elif count < facts.settings.LOAD_BALANCERS:
        yield note(looked_at, f"{count}: both load balancers run on it and die with it", "add hypervisors")
    else:
        yield ok(looked_at, f"{count}")


def _some(names: Iterable[str]) -> str:
    every = sorted({*names})
    return ", ".join(every[:8]) + (f" and {len(every) - 8} more" if every[8:] else "") or "none: there is none"
