"""All checks, in the order of the report."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import Any

from keystoneauth1.exceptions import ClientException
from openstack.exceptions import ForbiddenException, SDKException
from pydantic import BaseModel

from operate.preflight import account, backend, endpoint, floating, instances, network, segment
from operate.preflight.boot import try_boot
from operate.preflight.facts import Facts
from operate.preflight.finding import CannotCheckError, Finding, Outcome, not_checked, note, problem
from operate.stack.applied import StackConfiguration

Check = Callable[[Facts], Generator[Finding]]


class Group(BaseModel):
    """Findings on one subject."""

    title: str
    findings: list[Finding]


class Preflight(BaseModel):
    """Everything that the checks found."""

    stack: str
    groups: list[Group]

    def count(self, result: Outcome) -> int:
        """How many findings have this outcome."""
        return sum(finding.result is result for group in self.groups for finding in group.findings)


def run_checks(
    configuration: StackConfiguration,
    connect: Callable[[], Any],
    *,
    with_instance: bool,
    progress: Callable[[str], None],
) -> Preflight:
    """Run all checks, whatever fails; `progress` is called with the name of each.

    `connect` connects to the cloud. With `with_instance` the temporary instance is booted too.
    """
    login = account.log_in(configuration, connect)
    groups = [Group(title="credentials", findings=login.findings)]
    for title, checks in _checks(configuration, with_instance=with_instance).items():
        findings: list[Finding] = []
        for name, check in checks.items():
            progress(name)
            # One by one: what a check found before an error is kept.
            findings.extend(_run(name, check, login.facts))
        if findings:
            groups.append(Group(title=title, findings=findings))
    bastion = [*segment.bastion(configuration)]
    if bastion:
        groups.append(Group(title="bastion", findings=bastion))
    return Preflight(stack=configuration.stack, groups=groups)


def _checks(configuration: StackConfiguration, *, with_instance: bool) -> dict[str, dict[str, Check]]:
    checks: dict[str, dict[str, Check]] = {
        "services": {
            "Nova": account.nova,
            "Neutron": account.neutron,
            "Glance": account.glance,
            "Designate": account.designate,
            "endpoints": partial(account.endpoints, configuration=configuration),
        },
        "instances": {
            "flavors": instances.flavors,
            "images": instances.images,
            "availability zones": instances.zones,
            "key pair": instances.key_pair,
            "hypervisors": instances.spreading,
            "existing instances": instances.existing,
        },
        "quota": {
            "Nova's quota": account.nova_quota,
            "Neutron's quota": account.neutron_quota,
            "Cinder": account.cinder,
        },
        "network": {
            "network": network.network,
            "network's owner": partial(network.owner, tried=with_instance),
            "subnet": network.subnet,
            "cluster's networks": network.cluster_networks,
            "free addresses": network.free_addresses,
            "API servers": network.api_servers,
            "backend": backend.backend,
        },
        "floating IP": {
            "floating network": floating.network,
            "router": floating.router,
            "floating subnet": floating.subnet,
        },
        "VIP": {
            "VIP": network.vip,
            "address pairs": network.address_pairs,
            "ARP for the VIP": segment.vip_on_the_wire,
            "VRRP on the segment": segment.vrrp_on_the_segment,
        },
        "endpoint": {"endpoint's name": endpoint.name},
        "reachability": {
            "SSH": partial(segment.admission, configuration=configuration),
            "forwarding": partial(segment.forwarding, configuration=configuration),
        },
    }
    if with_instance:
        checks["temporary instance"] = {"temporary instance": partial(try_boot, configuration=configuration)}
    return checks


def _run(name: str, check: Check, facts: Facts | None) -> Iterator[Finding]:
    """A check's findings; an error that ends it is a finding too."""
    try:
        if facts is None:
            raise CannotCheckError("the login to the cloud failed")
        with closing(check(facts)) as findings:
            yield from findings
    except CannotCheckError as reason:
        yield not_checked(name, reason)
    except ForbiddenException as error:
        yield note(name, f"this user may not see it: {_line(error)}", "ask the cloud's operator")
    except (SDKException, ClientException) as error:
        yield problem(name, f"the cloud returned an error: {_line(error)}", "try again, or ask the cloud's operator")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
