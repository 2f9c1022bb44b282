"""The endpoint's name: whether it leads to the endpoint's address, or will. Nothing to check without one."""

import socket
from collections.abc import Generator

from operate.preflight.facts import Facts
from operate.preflight.finding import CannotCheckError, Finding, note, ok, problem


def resolve(name: str) -> set[str]:
    """The IPv4 addresses that this machine finds for a name. CannotCheckError if no name server answers."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(name, None, socket.AF_INET)}
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise CannotCheckError(f"this machine's name servers do not answer for {name}") from None
        return set()


def name(facts: Facts) -> Generator[Finding]:
    """The endpoint's name leads to its address, and nowhere else."""
    configured = facts.settings.endpoint_name
    if not configured:
        return
    looked_at, address = f"endpoint name {configured}", facts.endpoint_address
    if facts.settings.endpoint_zone and not facts.made_record:
        yield _record_to_create(facts, looked_at)
        return
    found = resolve(configured)
    resolved = f"resolves to {', '.join(sorted(found))}" if found else "does not resolve on this machine"
    if address is None:
        yield note(
            looked_at,
            f"{resolved}; the endpoint's address is not known before the first `pulumi up`",
            "after `pulumi up`, create its A record for the output floatingIp, or vip without a floating IP",
        )
    elif found == {address}:
        yield ok(looked_at, f"{resolved}, the endpoint's address")
    else:
        yield problem(
            looked_at,
            f"{resolved}; the endpoint is {address}, so clients would not find it by the name",
            "have the zone delegated to Designate's name servers (`openstack recordset list ZONE --type NS`), or wait: "
            "resolvers keep what they found"
            if facts.settings.endpoint_zone
            else f"create or correct its record: {configured} A {address}",
        )


def _record_to_create(facts: Facts, looked_at: str) -> Finding:
    """The record does not exist before `pulumi up`; one of somebody else must not be in its place."""
    zone, configured = facts.dns_zone, facts.settings.endpoint_name
    if zone is None:
        raise CannotCheckError("the zone is unknown")
    there = [it.type for it in facts.cloud.dns.recordsets(zone, name=f"{configured}.") if it.type in ("A", "CNAME")]
    if there:
        return problem(
            looked_at,
            f"the zone has a record ({', '.join(there)}) that this stack did not create; `pulumi up` would fail (409)",
            "delete that record, or leave endpointZone empty and keep it",
        )
    return ok(looked_at, f"`pulumi up` creates its record in the zone {facts.settings.endpoint_zone}")
