"""The tenant's project, user, image, flavors and network, created through the APIs."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from openstack.config import OpenStackConfig
from openstack.connection import Connection

from dev.lab.apt import HostApt
from dev.lab.configuration import Passwords
from dev.lab.container import Container
from dev.lab.errors import LabError
from dev.lab.files import write_private
from dev.lab.settings import LabSettings

REGION = "RegionOne"
# service (also its user's name), type, port and path of the endpoint
SERVICES = (
    ("glance", "image", "9292"),
    ("placement", "placement", "8778"),
    ("nova", "compute", "8774/v2.1"),
    ("neutron", "network", "9696"),
)
# name, virtual processors, MiB of memory, GiB of disk
FLAVORS = (("lab.small", 1, 384, 3), ("lab.medium", 1, 768, 4), ("lab.large", 2, 1536, 6))
IMAGE = "debian-12"
NETWORK, SUBNET = "provider", "provider-v4"
TENANT_NETWORK, TENANT_SUBNET, ROUTER = "tenant", "tenant-v4", "tenant"
_AGENTS = ("nova-compute", "ovn-controller", "neutron-ovn-metadata-agent")

# The config drive of an emulated instance is on SCSI: on IDE it would appear too late for cloud-init.
EMULATED_PROPERTIES = {"hw_rng_model": "virtio", "hw_cdrom_bus": "scsi", "hw_scsi_model": "virtio-scsi"}
# The lab's own image has no boot loader: QEMU starts the kernel.
_KERNEL_COMMAND_LINE = (
    "root=/dev/vda rw rootfstype=ext4 fsck.mode=skip quiet console=ttyS0 net.ifnames=0 "
    "mitigations=off audit=0 random.trust_cpu=on tsc=reliable no_timer_check"
)


def write_clouds_yaml(settings: LabSettings, passwords: Passwords) -> None:
    """Writes clouds.yaml (mode 600) with the clouds `lab`, an ordinary member, and `lab-admin`."""

    def cloud(user: str, password: str, project: str) -> dict[str, Any]:
        return {
            "auth": {
                "auth_url": settings.auth_url,
                "username": user,
                "password": password,
                "project_name": project,
                "user_domain_name": "Default",
                "project_domain_name": "Default",
            },
            "region_name": REGION,
            "identity_api_version": 3,
        }

    clouds = {
        "lab": cloud("lab", passwords.lab, "lab"),
        "lab-admin": cloud("admin", passwords.admin, "admin"),
    }
    write_private(settings.clouds_yaml, yaml.safe_dump({"clouds": clouds}, sort_keys=False))


def connect(settings: LabSettings, cloud: str) -> Connection:
    """A client of the lab, as `lab` or as `lab-admin`."""
    return Connection(config=OpenStackConfig(config_files=[str(settings.clouds_yaml)]).get_one(cloud))


def api_urls(settings: LabSettings) -> dict[str, str]:
    """The URL of each API by the type of its service."""
    base = f"http://{settings.api_address}"
    return {"identity": settings.auth_url, **{kind: f"{base}:{port}" for _, kind, port in SERVICES}}


def answers(url: str, timeout: float = 5) -> bool:
    """Whether an API answers at `url` within `timeout` seconds. 401 is an answer, too."""
    try:
        with urllib.request.urlopen(url, timeout=timeout):  # noqa: S310  (our own http URL)
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float, what: str, hint: str) -> None:
    """Waits until `condition` holds. After `seconds`, raises LabError with `what` did not happen and a `hint`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what} within {seconds:.0f} s. {hint}")
        time.sleep(0.5)


class Cloud:
    """The running cloud, as its administrator sees it."""

    def __init__(self, settings: LabSettings) -> None:
        self._settings = settings
        # openstacksdk generates its methods at run time, without types.
        self.api: Any = connect(settings, "lab-admin")

    def seed_identity(self, passwords: Passwords) -> None:
        """Creates the missing projects, users, roles, services and endpoints."""
        identity = self.api.identity
        domain = identity.find_domain("Default", ignore_missing=False).id
        projects = {project.name: project for project in identity.projects()}
        users = {user.name: user for user in identity.users()}
        roles = {role.name: role for role in identity.roles()}
        services = {service.type: service for service in identity.services()}
        endpoints = {(endpoint.service_id, endpoint.interface) for endpoint in identity.endpoints()}

        for name in ("service", "lab"):
            if name not in projects:
                projects[name] = identity.create_project(name=name, domain_id=domain)
        for name in ("admin", "service", "member"):
            if name not in roles:
                roles[name] = identity.create_role(name=name)

        def user(name: str, password: str) -> Any:
            return users.get(name) or identity.create_user(name=name, password=password, domain_id=domain)

        def grant(project: str, to: Any, *names: str) -> None:
            for name in names:
                identity.assign_project_role_to_user(projects[project], to, roles[name])

        grant("lab", user("lab", passwords.lab), "member")
        grant("lab", users["admin"], "admin")
        for name, kind, port in SERVICES:
            grant("service", user(name, passwords.service), "admin", "service")
            service = services.get(kind) or identity.create_service(name=name, type=kind)
            for interface in ("public", "internal"):
                if (service.id, interface) not in endpoints:
                    identity.create_endpoint(
                        service_id=service.id,
                        interface=interface,
                        url=f"http://{self._settings.api_address}:{port}",
                        region_id=REGION,
                    )

    def seed_resources(self, apt: HostApt) -> None:
        """Creates the flavors, networks and router that are missing or out of date."""
        flavors = {flavor.name for flavor in self.api.compute.flavors()}
        for name, processors, memory, disk in FLAVORS:
            if name not in flavors:
                self.api.compute.create_flavor(name=name, vcpus=processors, ram=memory, disk=disk)
        owner = self.api.identity.find_project("lab", ignore_missing=False).id
        self._seed_flat_network(owner, [*apt.nameservers])
        self._seed_tenant_network(owner, [*apt.nameservers])

    def _seed_flat_network(self, owner: str, nameservers: list[str]) -> None:
        """The network on which instances are reached directly, and which gives out floating IPs too."""
        # The member's project owns the network: by Neutron's default policy only the owner of a network (or an
        # administrator) may set allowed address pairs and fixed addresses on its ports.
        network = self.api.network.find_network(NETWORK) or self.api.network.create_network(
            name=NETWORK,
            project_id=owner,
            is_shared=True,
            is_router_external=True,
            provider_network_type="flat",
            provider_physical_network="provider",
        )
        self._seed_subnet(
            name=SUBNET,
            network_id=network.id,
            project_id=owner,
            cidr=str(self._settings.instance_network),
            gateway_ip=str(self._settings.instance_gateway),
            allocation_pools=self._settings.allocation_pools(self._settings.instance_network),
            dns_nameservers=nameservers,
        )

    def _seed_tenant_network(self, owner: str, nameservers: list[str]) -> None:
        """A network of the project's own (Geneve), behind a router that translates floating IPs and nothing else."""
        network = self.api.network.find_network(TENANT_NETWORK) or self.api.network.create_network(
            name=TENANT_NETWORK, project_id=owner
        )
        subnet = self._seed_subnet(
            name=TENANT_SUBNET,
            network_id=network.id,
            project_id=owner,
            cidr=str(self._settings.tenant_network),
            allocation_pools=self._settings.allocation_pools(self._settings.tenant_network),
            dns_nameservers=nameservers,
        )
        if self.api.network.find_router(ROUTER) is None:
            external = self.api.network.find_subnet(SUBNET, ignore_missing=False)
            router = self.api.network.create_router(
                name=ROUTER,
                project_id=owner,
                external_gateway_info={
                    "network_id": external.network_id,
                    "enable_snat": False,
                    "external_fixed_ips": [
                        {"subnet_id": external.id, "ip_address": str(self._settings.router_address)}
                    ],
                },
            )
            self.api.network.add_interface_to_router(router, subnet_id=subnet.id)

    def _seed_subnet(
        self, *, name: str, dns_nameservers: list[str], allocation_pools: list[dict[str, str]], **attributes: Any
    ) -> Any:
        changeable = {"dns_nameservers": dns_nameservers, "allocation_pools": allocation_pools}
        subnet = self.api.network.find_subnet(name) or self.api.network.create_subnet(
            name=name, ip_version=4, **changeable, **attributes
        )
        outdated = {key: value for key, value in changeable.items() if getattr(subnet, key) != value}
        if outdated:
            self.api.network.update_subnet(subnet, **outdated)
        return subnet

    def seed_image(self, name: str, folder: Path) -> None:
        """Uploads one of the lab's own images from the folder it was built in, if it is missing or out of date."""
        # The folder's name is a hash of what the image is built from.
        present = list(self.api.image.images(name=name))
        if [image.properties.get("lab_build") for image in present if image.status == "active"] == [folder.name]:
            return
        properties: dict[str, Any] = {"min_disk": 2, "os_distro": "debian", "lab_build": folder.name}
        if self._settings.virt_type != "lxc":
            kernel = self.upload(f"{name}-kernel", folder / "vmlinuz", "aki")
            ramdisk = self.upload(f"{name}-initrd", folder / "initrd.img", "ari")
            properties |= {"kernel_id": kernel, "ramdisk_id": ramdisk, "os_command_line": _KERNEL_COMMAND_LINE}
            properties |= EMULATED_PROPERTIES
        self.upload(name, folder / "disk.raw", "raw", **properties)

    def upload(self, name: str, file: Path, disk_format: str, **properties: Any) -> str:
        """Uploads a public image, replaces images of the same name, and returns the new image's id."""
        outdated = list(self.api.image.images(name=name))
        with file.open("rb") as data:
            image = self.api.image.create_image(
                name,
                data=data,
                disk_format=disk_format,
                container_format=disk_format if disk_format in ("aki", "ari") else "bare",
                visibility="public",
                allow_duplicates=True,
                wait=True,
                **properties,
            )
        for old in outdated:
            self.api.image.delete_image(old)
        return str(image.id)

    def agents(self) -> dict[str, bool]:
        """The cloud's agents and Nova's services, and whether each is alive."""
        # For a minute after the lab starts, the APIs still report agents from before the start as alive.
        booted = datetime.now(UTC) - timedelta(seconds=Container(self._settings).uptime() or 0)
        alive: dict[str, bool] = {}
        for agent in self.api.network.agents():
            # OVN's agents report no start.
            reported = agent.started_at or agent.last_heartbeat_at
            alive[agent.binary] = bool(agent.is_alive) and _is_after(reported, booted)
        for service in self.api.compute.services():
            alive[service.binary] = service.state == "up" and _is_after(service.updated_at, booted)
        return alive

    def can_boot_instances(self) -> bool:
        """Whether the hypervisor is known, mapped and reports resources, and all network agents are alive."""
        agents = self.agents()
        if not all(agents.get(name) for name in _AGENTS):
            return False
        return any(True for _ in self.api.compute.hypervisors()) and any(
            self.api.placement.resource_provider_inventories(provider)
            for provider in self.api.placement.resource_providers()
        )

    def instances(self) -> list[Any]:
        """All instances of all projects."""
        return list(self.api.compute.servers(all_projects=True))


def _is_after(reported: str | None, moment: datetime) -> bool:
    """Whether a time from the APIs, in UTC without a time zone, is later. None means not reported yet."""
    return reported is not None and datetime.fromisoformat(reported).replace(tzinfo=UTC) > moment
