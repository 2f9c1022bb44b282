"""The endpoint's name: whether it leads to the endpoint's address. Nothing to check without one."""

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
    found = resolve(configured)
    leads = f"leads to {', '.join(sorted(found))}" if found else "has no address on this machine"
    if address is None:
        yield note(
            looked_at,
            f"{leads}; the endpoint's address is not known before the first `pulumi up`",
            "create its record (A) then, for what `pulumi stack output floatingIp`, or else vip, shows",
        )
    elif found == {address}:
        yield ok(looked_at, f"{leads}, the endpoint's address")
    else:
        yield problem(
            looked_at,
            f"{leads}; the endpoint is {address}, so clients would not find it by the name",
            f"create or correct its record: {configured} A {address}",
        )
