"""A stack's outputs, as last applied, and its configuration, both from Pulumi. Changes nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openstack.connection import Connection

from model.settings import SECRET_KEYS, ConfigurationError, Settings
from model.settings.stack_file import with_numbers
from model.topology import API_PORT, Role
from operate.hosts.ssh import Access
from operate.stack.cloud import connect
from operate.stack.engine import StackError, query
from operate.stack.files import stack_file

PROJECT = "openstack-ha-api"
NAMESPACE = f"{PROJECT}:"
PROVIDER_NAMESPACE = "openstack:"
_SECRET_KEYS = {f"{NAMESPACE}{key}" for key in SECRET_KEYS} | {
    f"{PROVIDER_NAMESPACE}{key}" for key in ("password", "token", "applicationCredentialSecret", "key")
}


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The stack's outputs; hosts are addresses by name."""

    vip: str
    floating_ip: str | None
    load_balancers: Mapping[str, str]
    control_plane: Mapping[str, str]
    workers: Mapping[str, str]
    security_group_ids: Mapping[str, str]
    ssh_commands: Mapping[str, str]
    known_hosts: str
    configuration_digests: Mapping[str, Mapping[str, str]]
    """By load balancer and path (without the leading slash), SHA-256 of each file as it was applied."""
    kubernetes_version: str = ""
    """The cluster's; empty for bare hosts."""

    @property
    def reachable_vip(self) -> str:
        """The address at which to ask the holder of the VIP: its floating IP, if it has one.

        From beyond the router a VIP with a floating IP does not answer at its own address: what it sends is translated,
        so TCP connects and no data ever comes.
        """
        return self.floating_ip or self.vip

    @property
    def endpoint(self) -> str:
        """The URL of the API at its address: with `endpointName`, probes would resolve it for each request."""
        return f"https://{self.reachable_vip}:{API_PORT}"

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Outputs":
        """From the decrypted values of the outputs; StackError if the stack was never brought up."""
        try:
            return cls(
                vip=values["vip"],
                floating_ip=values.get("floatingIp"),  # the engine leaves out what is null
                load_balancers=values["addresses"][Role.LOAD_BALANCER.output_name],
                control_plane=values["addresses"][Role.CONTROL_PLANE.output_name],
                workers=values["addresses"][Role.WORKER.output_name],
                security_group_ids=values["securityGroupIds"],
                ssh_commands=values["sshCommands"],
                known_hosts=values["knownHosts"],
                configuration_digests=values["configurationDigests"],
                kubernetes_version=values.get("kubernetesVersion", ""),
            )
        except KeyError as error:
            raise StackError(f"the stack has no output {error}: bring it up first (`pulumi up`)") from None


@dataclass(frozen=True, kw_only=True)
class StackConfiguration:
    """A stack's configuration, which may be newer than what was applied."""

    stack: str
    settings: Settings
    private_key: str = field(repr=False)
    """OpenSSH or PEM text."""
    secrets: frozenset[str] = field(repr=False)
    """Every value that is encrypted in the stack's file, or should be."""
    provider: Mapping[str, str] = field(repr=False)
    """The OpenStack provider's configuration (`openstack:KEY`), by KEY."""

    def cloud(self) -> Connection:
        """A connection to the stack's cloud."""
        return connect(self.provider)


@dataclass(frozen=True, kw_only=True)
class AppliedStack:
    """A stack's outputs, its configuration, and how to log in to its load balancers."""

    name: str
    outputs: Outputs
    configuration: StackConfiguration
    access: Access

    @property
    def settings(self) -> Settings:
        """The settings of its configuration."""
        return self.configuration.settings


def selected_stack() -> str:
    """The name of the stack selected in Pulumi; StackError if none is."""
    return query("stack", "--show-name").strip()


def read_stack_configuration(stack: str | None) -> StackConfiguration:
    """A stack's configuration, by default the selected stack's; the stack need not be up.

    StackError if there is no such stack, a value is invalid, or its secrets cannot be decrypted.
    """
    name = stack or selected_stack()
    entries: dict[str, Any] = json.loads(query("config", "--json", "--show-secrets", "--stack", name))

    def of(namespace: str) -> dict[str, Any]:
        return {key.removeprefix(namespace): it["value"] for key, it in entries.items() if key.startswith(namespace)}

    values = of(NAMESPACE)
    encrypted = frozenset(key.removeprefix(NAMESPACE) for key, it in entries.items() if it.get("secret"))
    file = stack_file(name)
    if file.exists():
        values = with_numbers(values, file.read_text(), PROJECT)
    try:
        settings = Settings.parse(values, encrypted=encrypted)
    except ConfigurationError as error:
        raise StackError(str(error)) from None
    return StackConfiguration(
        stack=name,
        settings=settings,
        private_key=values["sshPrivateKey"].strip() + "\n",
        secrets=frozenset(
            it["value"] for key, it in entries.items() if it["value"] and (it.get("secret") or key in _SECRET_KEYS)
        ),
        provider=of(PROVIDER_NAMESPACE),
    )


def read_stack(stack: str | None) -> AppliedStack:
    """A stack that is up, by default the selected one.

    StackError if there is no such stack, it was never brought up, or its secrets cannot be decrypted.
    """
    name = stack or selected_stack()
    outputs = Outputs.parse(json.loads(query("stack", "output", "--json", "--show-secrets", "--stack", name)))
    configuration = read_stack_configuration(name)
    access = Access(
        user=configuration.settings.load_balancer_user,
        private_key=configuration.private_key,
        known_hosts=outputs.known_hosts,
        bastion=configuration.settings.bastion,
        # Without retries: a host that is down is a result.
        patience=0,
    )
    return AppliedStack(name=name, outputs=outputs, configuration=configuration, access=access)


def without_secrets(stack: str) -> dict[str, str]:
    """What Pulumi shows of a stack without its secrets, and Pulumi's version, as texts by file name."""
    of_stack = ("--json", "--stack", stack)
    return {
        "outputs.json": query("stack", "output", *of_stack),
        "configuration.json": query("config", *of_stack),
        "history.json": query("stack", "history", "--page-size", "10", *of_stack),
        "pulumi.txt": query("version"),
    }
