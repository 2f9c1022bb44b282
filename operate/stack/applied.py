"""A stack as it was last applied: its outputs and its configuration, as the engine has them. Nothing is changed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openstack.connection import Connection

from model.settings import SECRET_KEYS, ConfigurationError, Settings
from model.topology import Role
from operate.hosts.ssh import Access
from operate.stack.cloud import connect
from operate.stack.engine import StackError, query

NAMESPACE = "openstack-ha-api:"
PROVIDER_NAMESPACE = "openstack:"
_SECRET_KEYS = {f"{NAMESPACE}{key}" for key in SECRET_KEYS} | {
    f"{PROVIDER_NAMESPACE}{key}" for key in ("password", "token", "applicationCredentialSecret", "key")
}


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the program puts out; hosts by name with their address."""

    vip: str
    endpoint: str
    floating_ip: str | None
    load_balancers: Mapping[str, str]
    control_plane: Mapping[str, str]
    workers: Mapping[str, str]
    security_group_ids: Mapping[str, str]
    ssh_commands: Mapping[str, str]
    known_hosts: str
    kubeadm_config: str
    configuration_digests: Mapping[str, Mapping[str, str]]
    """By load balancer and path (without the leading slash), SHA-256 of each file as it was applied."""

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Outputs":
        """From the plain values of the stack's outputs; StackError when the stack was never brought up."""
        try:
            return cls(
                vip=values["vip"],
                endpoint=values["endpoint"],
                floating_ip=values.get("floatingIp"),  # the engine leaves out what is null
                load_balancers=values["addresses"][Role.LOAD_BALANCER.output_name],
                control_plane=values["addresses"][Role.CONTROL_PLANE.output_name],
                workers=values["addresses"][Role.WORKER.output_name],
                security_group_ids=values["securityGroupIds"],
                ssh_commands=values["sshCommands"],
                known_hosts=values["knownHosts"],
                kubeadm_config=values["kubeadmConfig"],
                configuration_digests=values["configurationDigests"],
            )
        except KeyError as error:
            raise StackError(f"the stack has no output {error}: bring it up first (`pulumi up`)") from None


@dataclass(frozen=True, kw_only=True)
class StackConfiguration:
    """A stack's configuration as it stands in its file, which may be newer than what was applied."""

    stack: str
    settings: Settings
    private_key: str = field(repr=False)
    """OpenSSH or PEM text."""
    secrets: frozenset[str] = field(repr=False)
    """Every value that is encrypted in the stack's file, or would better be."""
    provider: Mapping[str, str] = field(repr=False)
    """What the OpenStack provider is told (`openstack:KEY`), by KEY."""

    def cloud(self) -> Connection:
        """The stack's cloud."""
        return connect(self.provider)


@dataclass(frozen=True, kw_only=True)
class AppliedStack:
    """A stack's outputs and how its load balancers are logged in to."""

    name: str
    outputs: Outputs
    configuration: StackConfiguration
    access: Access

    @property
    def settings(self) -> Settings:
        """The configuration's."""
        return self.configuration.settings


def selected_stack() -> str:
    """The name of the stack that a plain `pulumi` would work on. StackError when none is selected."""
    return query("stack", "--show-name").strip()


def read_stack_configuration(stack: str | None) -> StackConfiguration:
    """A stack's configuration, of the selected one without a name; the stack need not have been brought up.

    Raises StackError if there is none, if values are wrong, or its secrets cannot be read.
    """
    name = stack or selected_stack()
    entries: dict[str, Any] = json.loads(query("config", "--json", "--show-secrets", "--stack", name))

    def of(namespace: str) -> dict[str, Any]:
        return {key.removeprefix(namespace): it["value"] for key, it in entries.items() if key.startswith(namespace)}

    values = of(NAMESPACE)
    try:
        settings = Settings.parse(values)
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
    """A stack that was brought up, the selected one without a name.

    Raises StackError if there is none, if it was never brought up, or its secrets cannot be read.
    """
    name = stack or selected_stack()
    outputs = Outputs.parse(json.loads(query("stack", "output", "--json", "--show-secrets", "--stack", name)))
    configuration = read_stack_configuration(name)
    access = Access(
        user=configuration.settings.load_balancer_user,
        private_key=configuration.private_key,
        known_hosts=outputs.known_hosts,
        bastion=configuration.settings.bastion,
        # Whoever asks wants an answer now: a host that is down is a finding.
        patience=0,
    )
    return AppliedStack(name=name, outputs=outputs, configuration=configuration, access=access)


def without_secrets(stack: str) -> dict[str, str]:
    """What the engine shows of a stack to those who may not see its secrets: JSON texts, and its own version."""
    of_stack = ("--json", "--stack", stack)
    return {
        "outputs.json": query("stack", "output", *of_stack),
        "configuration.json": query("config", *of_stack),
        "history.json": query("stack", "history", "--page-size", "10", *of_stack),
        "pulumi.txt": query("version"),
    }
