"""Writes the files that each host would get, without a cloud: `make render STACK=dev OUT=build/dev`.

For reviews. What only the cloud knows is a placeholder: addresses in 198.51.100.0/24 (RFC 5737) for the ports, and for
the VIP if Neutron chooses it; the interface `ens3`; `(secret)` for secrets.
"""

import sys
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated

import typer

from model.kubernetes import (
    API_SERVER_FILES,
    AUTHORITIES,
    CONTROL_PLANE_FILES,
    HOST_FILES,
    JOINING_FILES,
    Authorities,
    Cluster,
    LocalEndpoint,
    Node,
)
from model.load_balancers import LoadBalancerHost, LoadBalancerPair
from model.rendering import HostFile, kubernetes_files, load_balancer_files, local_endpoint_files
from model.settings import ConfigurationError, Settings
from model.topology import Role, host_names
from operate.stack.files import stack_values

STAND_IN_NETWORK = IPv4Address("198.51.100.0")
FIRST = {Role.LOAD_BALANCER: 11, Role.CONTROL_PLANE: 21, Role.WORKER: 31}
"""Of a role's hosts, in that network."""
STAND_IN_INTERFACE = "ens3"
STAND_IN_CERTIFICATE = "(secret)\n"
STAND_IN_PASSWORD = "(secret)"  # noqa: S105 - a placeholder


def stand_in_authorities() -> dict[str, str]:
    """A placeholder for each of a cluster's keys and certificates."""
    return {name: f"({name})\n" for name in AUTHORITIES}


def render(settings: Settings, out: Path) -> list[Path]:
    """Write `out/<host>/<path>` for every host that has files of the program's, and return the paths."""
    return [*_load_balancers(settings, out), *(_nodes(settings, out) if settings.kubernetes else ())]


def _nodes(settings: Settings, out: Path) -> Iterator[Path]:
    """The cluster's hosts; a minor version is rendered as its first patch."""
    version = settings.kubernetes_version
    cluster = Cluster(
        settings=settings,
        vip=settings.vip or STAND_IN_NETWORK + 200,
        floating_ip=None,
        version=version if version.count(".") == 2 else f"{version}.0",
        authorities=Authorities(files=stand_in_authorities()),
    )
    for role in (Role.CONTROL_PLANE, Role.WORKER):
        control_plane = role is Role.CONTROL_PLANE
        paths = [
            *HOST_FILES,
            *((*API_SERVER_FILES, *CONTROL_PLANE_FILES) if control_plane else ()),
            *JOINING_FILES,
        ]
        for name, address in _hosts(settings, role).items():
            node = Node(name=name, address=address, control_plane=control_plane, cluster=cluster)
            yield from _write(out / name, kubernetes_files(node, paths))
            if settings.local_api_endpoint and not control_plane:
                yield from _write(out / name, local_endpoint_files(_local_endpoint(settings)))


def _local_endpoint(settings: Settings) -> LocalEndpoint:
    return LocalEndpoint.from_settings(settings, _hosts(settings, Role.CONTROL_PLANE), stand_in_authorities()["ca"])


def _hosts(settings: Settings, role: Role) -> dict[str, IPv4Address]:
    return {name: STAND_IN_NETWORK + FIRST[role] + index for index, name in enumerate(host_names(settings, role))}


def _write(folder: Path, files: Iterable[HostFile]) -> Iterator[Path]:
    for file in files:
        if file.text:
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text)
            path.chmod(file.mode)
            yield path


def _load_balancers(settings: Settings, out: Path) -> Iterator[Path]:
    addresses = [*_hosts(settings, Role.LOAD_BALANCER).values()]
    pair = LoadBalancerPair.from_settings(
        settings,
        vip=settings.vip or STAND_IN_NETWORK + 200,
        control_plane=_hosts(settings, Role.CONTROL_PLANE),
        workers=_hosts(settings, Role.WORKER),
        vrrp_password=STAND_IN_PASSWORD if settings.vrrp_authentication else "",
        api_client_certificate=STAND_IN_CERTIFICATE if settings.api_client_certificate_set else "",
        cluster_ca=stand_in_authorities()["ca"] if settings.kubernetes else "",
    )
    for index, name in enumerate(host_names(settings, Role.LOAD_BALANCER)):
        host = LoadBalancerHost(
            name=name,
            address=addresses[index],
            peer_address=addresses[1 - index],
            interface=STAND_IN_INTERFACE,
            pair=pair,
        )
        yield from _write(out / name, load_balancer_files(host))


def main(
    stack: Annotated[str, typer.Argument(help="The stack, as in Pulumi.STACK.yaml.")],
    out: Annotated[Path, typer.Argument(help="Folder to write to; existing files are replaced.")],
) -> None:
    """Write the files that each host of a stack would get."""
    try:
        settings = Settings.parse(stack_values(stack), secrets_are_readable=False)
    except FileNotFoundError as error:
        sys.exit(f"no stack file {error.filename}; set STACK to the name of a stack that has a Pulumi.STACK.yaml here")
    except ConfigurationError as error:
        sys.exit(str(error))
    for path in render(settings, out):
        typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
