"""A stack as it was last applied: its outputs and its configuration, as the engine has them. Nothing is changed.

The engine is asked through its command line, for the Automation API would select the stack in passing: the next plain
`pulumi` of whoever sits there would work on another one than before.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.settings import ConfigurationError, Settings
from operate.ssh import Access

PROJECT_FOLDER = Path(__file__).parents[1]
PULUMI = PROJECT_FOLDER / "toolchain" / "pulumi"
"""Finds the CLI wherever it is, and takes the caller's backend, passphrase and PATH as they are."""
NAMESPACE = "openstack-ha-api:"


class StackError(Exception):
    """What Pulumi could not do, why, and what to do; its text is shown as it is."""


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
                load_balancers=values["addresses"]["loadBalancers"],
                control_plane=values["addresses"]["controlPlane"],
                workers=values["addresses"]["workers"],
                security_group_ids=values["securityGroupIds"],
                ssh_commands=values["sshCommands"],
                known_hosts=values["knownHosts"],
                kubeadm_config=values["kubeadmConfig"],
                configuration_digests=values["configurationDigests"],
            )
        except KeyError as error:
            raise StackError(f"the stack has no output {error}: bring it up first (`pulumi up`)") from None


@dataclass(frozen=True, kw_only=True)
class AppliedStack:
    """A stack's outputs and how its load balancers are logged in to."""

    name: str
    outputs: Outputs
    settings: Settings
    """The configuration as it stands in the stack's file, which may be newer than what was applied."""
    access: Access


def read_stack(name: str) -> AppliedStack:
    """Read a stack. Raises StackError if there is none, if it was never brought up, or its secrets cannot be read."""
    outputs = Outputs.parse(_ask("stack", "output", "--json", "--show-secrets", "--stack", name))
    entries = _ask("config", "--json", "--show-secrets", "--stack", name)
    values = {
        key.removeprefix(NAMESPACE): entry["value"] for key, entry in entries.items() if key.startswith(NAMESPACE)
    }
    try:
        settings = Settings.parse(values)
    except ConfigurationError as error:
        raise StackError(str(error)) from None
    access = Access(
        user=settings.load_balancer_user,
        private_key=values["sshPrivateKey"].strip() + "\n",
        known_hosts=outputs.known_hosts,
        bastion=settings.bastion,
        # Whoever asks wants an answer now: a host that is down is a finding.
        patience=0,
    )
    return AppliedStack(name=name, outputs=outputs, settings=settings, access=access)


def _ask(*arguments: str) -> dict[str, Any]:
    result = subprocess.run(
        [PULUMI, *arguments, "--non-interactive"], cwd=PROJECT_FOLDER, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise StackError(f"pulumi {' '.join(arguments[:2])} failed: {result.stderr.strip() or result.stdout.strip()}")
    return json.loads(result.stdout)
