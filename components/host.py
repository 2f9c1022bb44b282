"""SSH to one host: the only user of pulumi_command.

A step is a script that is sent through stdin, so that neither it nor the files that it carries appear in a command line
or an error, and so that a preview shows a change of one line as that line. A step runs again when its script changes,
and on a new instance. There is no `delete`: a host that is gone must not block a destroy.

A step that runs again is re-created, its old record removed first. An update would keep that record if it failed: with
the old value back in the configuration Pulumi would see no change, and the host would keep what the failed run left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_command as command

from model.settings import BastionSettings


@dataclass(frozen=True, kw_only=True)
class Login:
    """How to log in to hosts, besides their address and user."""

    private_key: pulumi.Output[str]
    bastion: BastionSettings | None
    timeout: int
    """Seconds that a step may take, including the wait for SSH."""


@dataclass(frozen=True, kw_only=True)
class HostKey:
    """A host's SSH key, created before the host, so that even the first connection verifies it."""

    private: pulumi.Output[str]
    public: pulumi.Output[str]


def make_host_key(host_name: str, *, parent: pulumi.Resource) -> HostKey:
    """An ed25519 key, kept as a secret in the stack's state."""
    pair = command.local.Command(
        f"{host_name}-host-key",
        create='d=$(mktemp -d) && trap \'rm -rf "$d"\' EXIT && ssh-keygen -q -t ed25519 -N "" -C "" -f "$d/key" && '
        'cat "$d/key" "$d/key.pub"',
        logging=command.local.Logging.NONE,
        opts=pulumi.ResourceOptions(
            parent=parent,
            additional_secret_outputs=["stdout"],
            # Whatever changes about how a key is made, running hosts keep theirs.
            ignore_changes=["*"],
        ),
    )
    lines = pair.stdout.apply(lambda text: text.strip().splitlines())
    return HostKey(
        private=pulumi.Output.secret(lines.apply(lambda lines: "\n".join(lines[:-1]) + "\n")),
        public=pulumi.Output.unsecret(lines.apply(lambda lines: " ".join(lines[-1].split()[:2]))),
    )


class Host:
    """An instance that answers SSH, and the steps that run on it as root."""

    def __init__(
        self,
        name: str,
        *,
        instance: pulumi.CustomResource,
        address: pulumi.Output[str],
        user: str,
        host_key: pulumi.Output[str],
        login: Login,
    ) -> None:
        self.name = name
        self.address = address
        self.user = user
        self.host_key = host_key
        self.instance = instance
        self._login = login
        proxy = None
        if login.bastion:
            proxy = command.remote.ProxyConnectionArgs(
                host=login.bastion.host,
                port=login.bastion.port,
                user=login.bastion.user,
                host_key=login.bastion.host_key,
                private_key=login.private_key,
                dial_error_limit=-1,
            )
        self._connection = command.remote.ConnectionArgs(
            host=address,
            user=user,
            private_key=login.private_key,
            host_key=host_key,
            proxy=proxy,
            # A new instance refuses connections for minutes; the step's own timeout ends the wait, not a count.
            dial_error_limit=-1,
            per_dial_timeout=10,
        )

    def run(
        self,
        step: str,
        script: pulumi.Input[str],
        *,
        parent: pulumi.Resource,
        after: Sequence[pulumi.Resource] = (),
        triggers: Sequence[pulumi.Input[str]] = (),
    ) -> command.remote.Command:
        """Run a script as root, once, and again when it, the instance or a trigger changes. Its stdout is an output."""
        return command.remote.Command(
            f"{self.name}-{step}",
            connection=self._connection,
            create="sudo -n bash -s",
            stdin=script,
            triggers=[self.instance.id, *triggers],
            # Otherwise the script's environment would contain its predecessor's output.
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(
                parent=parent,
                depends_on=[self.instance, *after],
                deleted_with=self.instance,
                replace_on_changes=["*"],
                delete_before_replace=True,
                custom_timeouts=pulumi.CustomTimeouts(create=f"{self._login.timeout}s"),
            ),
        )
