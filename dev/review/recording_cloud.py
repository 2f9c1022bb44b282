"""Runs the whole program against Pulumi mocks that record every resource and answer as a cloud would.

For use without a cloud: the unit tests, and the preview of a pull request without credentials.
"""

import asyncio
import json
import runpy
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Network
from typing import Any

import pulumi
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pulumi.runtime import get_root_resource, mocks, set_all_config, set_mocks
from pulumi.runtime.settings import SETTINGS, reset_options

from dev.review.render import stand_in_authorities
from model.cloud import is_uuid
from model.settings import SECRET_KEYS, HostKeyType
from operate.stack.files import ROOT


def key_pair(key_type: str = HostKeyType.ED25519) -> tuple[str, str]:
    """A private key in OpenSSH format and its public half, the same in each run."""
    return _key_pairs()[key_type]


@cache
def _key_pairs() -> dict[str, tuple[str, str]]:
    keys = {
        HostKeyType.ED25519: Ed25519PrivateKey.from_private_bytes(bytes(32)),
        HostKeyType.ECDSA: ec.derive_private_key(1, ec.SECP256R1()),
    }
    return {
        name: (
            key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode(),
            key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        )
        for name, key in keys.items()
    }


NOVA_PUBLIC_KEY = key_pair()[1]
PROJECT = "openstack-ha-api"
SECRET_SIGNATURE = "4dabf18193072939515e22adb298388d"  # noqa: S105 - Pulumi's marker of a secret value


FLOATING_IP = "100.64.0.9"


@dataclass(frozen=True)
class Resource:
    """A registered resource: its inputs, as the provider spells them, and the whole registration."""

    type: str
    name: str
    inputs: dict[str, Any]
    registration: Any

    def is_secret(self, key: str) -> bool:
        """Whether an input is a secret."""
        marked = SECRET_SIGNATURE in str(self.registration.object[key])
        return marked or key in self.registration.additionalSecretOutputs

    @property
    def depends_on(self) -> set[str]:
        """Names of the resources it depends on."""
        return {urn.rpartition("::")[2] for urn in self.registration.dependencies}


KUBERNETES = "1.37.2"
"""The version that the repository of the packages has."""


def _printed_here(name: str, command: str, host_keys: HostKeyType | None) -> str:
    """What a command on this machine prints."""
    if name.endswith("-host-key"):
        return "".join(key_pair(host_keys or command.partition("ssh-keygen -q -t ")[2].split()[0])) + "\n"
    found = {"certificate": "(certificate)\n", "key": "(key)\n"} if name.endswith("-admin-certificate") else None
    return json.dumps(found or stand_in_authorities())


def _revealed(value: Any) -> Any:
    return value["value"] if SECRET_SIGNATURE in str(value) else value


def _address(port: str, subnet: str) -> str:
    """The address of a port that requests none: the same in each run, in whatever order the engine registers ports."""
    _, role, index = f"{port}-0".rsplit("-", 2) if port.endswith("-vip") else port.rsplit("-", 2)
    first = {"vip": 10, "lb": 11, "cp": 21, "worker": 31}
    return str(IPv4Network(subnet).broadcast_address - 255 + first[role] + int(index))


class RecordingMonitor(mocks.MockMonitor):
    """Keeps the registrations' options, which Pulumi does not pass to the mocks."""

    def __init__(self, cloud: "RecordingCloud") -> None:
        super().__init__(cloud)
        self.cloud = cloud

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - gRPC's spelling
        """Keep the whole registration, then answer."""
        self.cloud.registrations[request.type, request.name] = request
        return super().RegisterResource(request)  # pyright: ignore[reportUnknownMemberType]


class RecordingCallbacks:
    """Keeps the program's hooks, by name: Pulumi's mocks do not support any."""

    def __init__(self) -> None:
        self.hooks: dict[str, pulumi.ResourceHook] = {}
        self.error_hooks: dict[str, pulumi.ErrorHook] = {}

    def register_resource_hook(self, hook: pulumi.ResourceHook) -> None:
        """What the SDK calls for each."""
        self.hooks[hook.name] = hook

    def register_error_hook(self, hook: pulumi.ErrorHook) -> None:
        """The same for hooks that run after a failure."""
        self.error_hooks[hook.name] = hook


@dataclass
class RecordingCloud(pulumi.runtime.Mocks):
    """Assigns addresses and ids, finds everything that is looked up, and records every registered resource."""

    preview: bool = False
    missing: frozenset[str] = frozenset()
    """Names and ids that the cloud does not have."""
    nameless: frozenset[str] = frozenset()
    """Ids that do not look like one."""
    ambiguous: frozenset[str] = frozenset()
    """Names that several networks have, of which one is external."""
    ipv6: frozenset[str] = frozenset()
    """Subnets of IPv6."""
    subnets: tuple[str, ...] = ()
    """Ids that each network lists as its subnets', whether or not this user may see the subnets."""
    ports_in_use: dict[str, str] = field(default_factory=dict[str, str])
    """Addresses in use, with the names of their ports."""
    subnet: str = "198.51.100.0/24"
    slaac_address: str = ""
    """An IPv6 address that every port has besides its own, as with a subnet with SLAAC on the network."""
    instances: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    """What Nova knows of the instances that exist already, by name."""
    state: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """What the stack's state has of each resource, by URN."""
    host_keys: HostKeyType | None = None
    """The type of the host keys that exist already; None if the run creates them."""
    secret_keys: frozenset[str] = SECRET_KEYS
    """Settings that are encrypted in the stack's file."""
    resources: list[Resource] = field(default_factory=list[Resource])
    registrations: dict[tuple[str, str], Any] = field(default_factory=dict[tuple[str, str], Any])
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    secret_outputs: set[str] = field(default_factory=set[str])
    callbacks: RecordingCallbacks = field(default_factory=RecordingCallbacks)
    _ids_asked_for: set[str] = field(default_factory=set[str])

    def new_resource(self, args: Any) -> tuple[str | None, dict[Any, Any]]:
        """A provider's answer to a registration."""
        inputs: dict[str, Any] = {key: _revealed(value) for key, value in args.inputs.items()}
        self.resources.append(Resource(args.typ, args.name, inputs, self.registrations[args.typ, args.name]))
        outputs = dict(inputs)
        if self.preview:
            return None, outputs
        if args.typ == "openstack:networking/port:Port":
            asked = args.inputs["fixedIps"][0].get("ipAddress")
            outputs["allFixedIps"] = self._addresses(asked or _address(args.name, self.subnet))
        if args.typ == "openstack:networking/floatingIp:FloatingIp":
            outputs["address"] = FLOATING_IP
        if args.typ == "command:local:Command":
            outputs["stdout"] = _printed_here(args.name, inputs["create"], self.host_keys)
        if args.typ == "command:remote:Command":
            step = args.name.partition("-kubernetes-")[2] or args.name.rpartition("-")[2]
            outputs["stdout"] = {"prepare": "interface=ens3\n", "version": f"version={KUBERNETES}\n"}.get(step, "")
        return f"id-of-{args.name}", outputs

    def call(self, args: Any) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        """A provider's answer to a lookup. What looks like an id is one, not a name."""
        wanted: dict[str, Any] = args.args
        function = args.token.rpartition(":")[2]
        if function == "readStackResourceOutputs":
            return {"name": "test", "outputs": self.state}, []
        if function == "getPortIds":
            ports = [name for address, name in self.ports_in_use.items() if wanted.get("fixedIp") in (None, address)]
            bound = [] if "fixedIp" in wanted else [*self.instances]
            return {"id": "x", "ids": [it for it in ports + bound if wanted.get("name") in (None, it)]}, []
        if function == "getPort":
            name = wanted["portId"]
            addresses = [address for address, user in self.ports_in_use.items() if user == name]
            found = {"id": name, "name": name, "deviceId": name if name in self.instances else ""}
            return found | {"allFixedIps": self._addresses(*addresses)}, []
        if function == "getInstanceV2":
            return wanted | self.instances[wanted["id"]], []
        if function == "getImageIds":
            return {"id": "x", "ids": [*self._ids_asked_for]}, []
        name = next((wanted[key] for key in ("name", "subnetId", "flavorId", "networkId") if wanted.get(key)), "")
        if name in self.ambiguous and not wanted.get("external"):
            raise ValueError("Your query returned more than one result")
        if name in self.missing or ("name" in wanted and (is_uuid(name) or name in self.nameless)):
            self._ids_asked_for.update({name} - self.missing)
            raise ValueError(f"Your query for {name} returned no results")  # as the real plugin does
        return wanted | {
            "id": f"id-of-{name}" if "name" in wanted else name,
            "name": name if "name" in wanted else f"name-of-{name}",
            "subnets": [*self.subnets],
            "cidr": self.subnet,
            "gatewayIp": "198.51.100.1",
            "ipVersion": 6 if name in self.ipv6 else 4,
            "address": FLOATING_IP,
            "publicKey": NOVA_PUBLIC_KEY,
        }, []

    def _addresses(self, *own: str) -> list[str]:
        return sorted([*own, *filter(None, [self.slaac_address])])  # Neutron sorts them as text

    def run(self, values: dict[str, Any]) -> "RecordingCloud":
        """Run `__main__.py` with a configuration. Raises what the program raises."""
        config = {
            f"{PROJECT}:{key}": value if isinstance(value, str) else json.dumps(value) for key, value in values.items()
        }
        secrets = [f"{PROJECT}:{key}" for key in self.secret_keys if values.get(key)]

        def program() -> None:
            runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__")
            root: Any = get_root_resource()
            pulumi.Output.all(**root.outputs).apply(self.outputs.update)
            for name, value in root.outputs.items():
                is_secret = pulumi.Output.from_input(pulumi.Output.from_input(value).is_secret())
                is_secret.apply(lambda secret, name=name: self.secret_outputs.add(name) if secret else None)

        with asyncio.Runner() as runner:
            runner.get_loop()  # becomes the thread's, which the SDK uses
            reset_options()
            set_mocks(self, project=PROJECT, stack="test", preview=self.preview, monitor=RecordingMonitor(self))
            settings: Any = SETTINGS
            settings.callbacks = self.callbacks
            set_all_config(config, secrets)
            mocks.test(program)()  # pyright: ignore[reportUnknownMemberType]
        return self

    def of_type(self, suffix: str) -> dict[str, Resource]:
        """Registered resources by name whose type ends with `suffix`, such as `compute/instance:Instance`."""
        return {resource.name: resource for resource in self.resources if resource.type.endswith(suffix)}
