"""Flavors, images, availability zones, key pair, and how Nova can spread instances over hypervisors."""

from collections.abc import Generator, Iterable, Iterator
from typing import Any

from model.settings import ServerGroupPolicy
from model.topology import Role
from operate.preflight.facts import Facts
from operate.preflight.finding import CannotCheckError, Finding, not_checked, note, ok, problem

LOAD_BALANCER_RAM = 512
"""MiB. Less works (the lab's have 384), but a storm of connections needs memory too."""
DISTRIBUTIONS = {"debian": 12.0, "ubuntu": 22.04}
"""Distributions that the steps support, each with its oldest release."""
MIB, GIB = 2**20, 2**30


def flavors(facts: Facts) -> Generator[Finding]:
    """The flavors exist, and are large enough."""
    for name, found in facts.flavors.items():
        roles = [role for role in facts.roles if role.settings(facts.settings).flavor == name]
        looked_at = f"flavor {name}"
        keys = ", ".join(f"{role.configuration_prefix}Flavor" for role in roles)
        if not found:
            every = facts.cloud.compute.flavors(is_public="None")
            yield problem(looked_at, f"does not exist ({keys})", f"use one of {_some(it.name for it in every)}")
        elif len(found) > 1:
            yield problem(looked_at, f"{len(found)} flavors have this name ({keys})", "use the id instead")
        else:
            (flavor,) = found
            size = f"{flavor.vcpus} vCPU, {flavor.ram} MiB, {flavor.disk} GiB of disk"
            if Role.LOAD_BALANCER in roles and flavor.ram < LOAD_BALANCER_RAM:
                yield note(
                    looked_at,
                    f"{size}: little memory for a load balancer with thousands of clients at once",
                    f"use a flavor with {LOAD_BALANCER_RAM} MiB or more if that can happen",
                )
            else:
                yield ok(looked_at, size)


def images(facts: Facts) -> Generator[Finding]:
    """The images exist, can boot, fit their flavors, and have a supported distribution."""
    for name, found in facts.images.items():
        roles = [role for role in facts.roles if role.settings(facts.settings).image == name]
        looked_at = f"image {name}"
        if not found:
            keys = ", ".join(f"{role.configuration_prefix}Image" for role in roles)
            every = facts.cloud.image.images()
            yield problem(looked_at, f"does not exist ({keys})", f"use one of {_some(it.name for it in every)}")
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


def _unusable(image: Any) -> Iterator[tuple[str, str]]:
    if image.status != "active":
        yield f"its status is {image.status}", "use an active image, or wait until this one is active"


def _unfit(facts: Facts, image: Any, roles: Iterable[Role]) -> Iterator[tuple[str, str]]:
    size = image.virtual_size or image.size or 0
    for role in roles:
        try:
            flavor = facts.flavor(role)
        except CannotCheckError:
            continue  # reported as a problem of the flavor
        # With a flavor without a disk, the instance's disk has the image's size.
        if flavor.disk and (image.min_disk > flavor.disk or size > flavor.disk * GIB):
            needs = max(image.min_disk, -(-size // GIB))
            yield f"needs {needs} GiB of disk; {flavor.name} has {flavor.disk}", "use a larger flavor"
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
        if zone in available:
            yield ok(f"zone {zone}", "available")
        else:
            yield problem(
                f"zone {zone}",
                f"does not exist, or is unavailable ({role.configuration_prefix}AvailabilityZones)",
                f"use one of {_some(available)}",
            )


def key_pair(facts: Facts) -> Generator[Finding]:
    """The private key belongs to the public key that the hosts get."""
    settings = facts.settings
    name = settings.key_pair or settings.cluster_name
    looked_at, there = f"key pair {name}", facts.key_pairs.get(name)
    if settings.key_pair and there is None:
        yield problem(
            looked_at, "does not exist, or is another user's", f"use one of {_some(facts.key_pairs)}, or set publicKey"
        )
    elif settings.key_pair and there and settings.key_mismatch(there):
        yield problem(looked_at, settings.key_mismatch(there)[0], "`pulumi config set --secret sshPrivateKey < FILE`")
    elif settings.public_key and there and there.split()[:2] != settings.public_key.split()[:2] and not facts.vip_port:
        yield problem(
            looked_at,
            "exists already, and its public key is not publicKey",
            "delete it if it is a leftover, or choose another clusterName: key pair names are unique",
        )
    else:
        yield ok(looked_at, "matches sshPrivateKey")


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
                "ask the cloud's operator, or use soft-anti-affinity, which never prevents an instance",
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
