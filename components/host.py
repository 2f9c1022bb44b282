"""SSH to one host: steps, which are resources, and what runs while another resource is deleted, which is none.

A step is a script that is sent through stdin, so that neither it nor the files that it carries appear in a command line
or an error, and so that a preview shows a change of one line as that line. A step runs again when its script changes,
and on a new instance. There is no `delete`: a host that is gone must not block a destroy.

A step that runs again is re-created, its old record removed first. An update would keep that record if it failed: with
the old value back in the configuration Pulumi would see no change, and the host would keep what the failed run left.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_command as command

from components.ssh import OWN_FAILURE, bastion_problem, run_script
from model.settings import BastionSettings, HostKeyType


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


def make_host_key(host_name: str, key_type: HostKeyType, *, parent: pulumi.Resource) -> HostKey:
    """A key, kept as a secret in the stack's state. A host that exists keeps the one that it has, of whatever type."""
    pair = command.local.Command(
        f"{host_name}-host-key",
        create="d=$(mktemp -d) && trap 'rm -rf \"$d\"' EXIT && "
        f'ssh-keygen -q -t {key_type} -N "" -C "" -f "$d/key" && cat "$d/key" "$d/key.pub"',
        logging=command.local.Logging.NONE,
        opts=pulumi.ResourceOptions(
            parent=parent,
            additional_secret_outputs=["stdout"],
            # Whatever changes about how a key is made, running hosts keep theirs.
            ignore_changes=["*"],
        ),
    )
    lines = pair.stdout.apply(lambda text: text.strip().splitlines())
    public = pulumi.Output.unsecret(lines.apply(lambda lines: " ".join(lines[-1].split()[:2])))

    def warn(public: str) -> None:
        if (kept := HostKeyType.of(public)) is not key_type:
            pulumi.log.warn(
                f"hostKeyType = {key_type}: {host_name} keeps its {kept} key, with which its instance was created; to "
                "replace both, see docs/operations.md, Replace a host key"
            )

    public.apply(warn)
    return HostKey(private=pulumi.Output.secret(lines.apply(lambda lines: "\n".join(lines[:-1]) + "\n")), public=public)


def make_pair_key(group_name: str, *, parent: pulumi.Resource) -> pulumi.Output[str]:
    """What two hosts sign their messages to each other with: 64 hexadecimal digits, kept as a secret in the state."""
    key = command.local.Command(
        f"{group_name}-pair-key",
        create=".venv/bin/python -c 'import secrets; print(secrets.token_hex(32))'",
        logging=command.local.Logging.NONE,
        opts=pulumi.ResourceOptions(
            parent=parent,
            additional_secret_outputs=["stdout"],
            # With another key on one host only, the hosts would not understand each other.
            ignore_changes=["*"],
        ),
    )
    return pulumi.Output.secret(key.stdout.apply(str.strip))


class UnreachableError(Exception):
    """No SSH connection to a host."""


class StepError(Exception):
    """A script failed on a host; its text is what the script printed about it."""


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
        self._hooks = None
        if login.bastion:
            self._hooks = pulumi.ResourceHookBinding(
                on_error=[pulumi.ErrorHook(f"{name}-bastion", self._blame_bastion)]
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
                hooks=self._hooks,
                custom_timeouts=pulumi.CustomTimeouts(create=f"{self._login.timeout}s"),
            ),
        )

    def run_once(
        self,
        step: str,
        script: pulumi.Input[str],
        *,
        parent: pulumi.Resource,
        after: Sequence[pulumi.Resource],
        settled: bool = True,
    ) -> command.remote.Command:
        """Run a script as root, once in the stack's life: not again on a new instance.

        Nor, if `settled`, when it changes.
        """
        return command.remote.Command(
            f"{self.name}-{step}",
            connection=self._connection,
            create="sudo -n bash -s",
            stdin=script,
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(
                parent=parent,
                depends_on=[self.instance, *after],
                ignore_changes=["*"] if settled else None,
                hooks=self._hooks,
                # An update runs the script too.
                custom_timeouts=pulumi.CustomTimeouts(
                    create=f"{self._login.timeout}s", update=f"{self._login.timeout}s"
                ),
            ),
        )

    async def run_now(self, script: str) -> str:
        """Run a script as root at once; see the function `run_now`."""
        address, host_key = str(await self.address.future()), str(await self.host_key.future())
        return await run_now(self._login, self.name, f"{self.user}@{address}", host_key, script)

    async def _blame_bastion(self, args: pulumi.ErrorHookArgs) -> bool:
        """After a step has failed: say so if it was the bastion, of which the plugin's error need not say anything."""
        try:
            if problem := await _bastion_problem(self._login, str(await self.address.future())):
                pulumi.log.error(f"{args.name} has no connection to {self.name}: {problem}; then run `pulumi up` again")
        except OSError as error:
            # An exception would replace the step's own error, which may have nothing to do with the bastion.
            pulumi.log.warn(f"could not find out whether the bastion is the reason: {error}")
        return False  # the step is not repeated in this run


async def run_now(login: Login, name: str, target: str, host_key: str, script: str) -> str:
    """Run a script as root on a host (`target` is USER@ADDRESS) at once, show its warnings, and return what it prints.

    Raises `UnreachableError` without a connection within 15 s, and `StepError` if the script fails.
    """
    key, address = str(await login.private_key.future()), target.partition("@")[2]
    known_hosts = f"{address} {host_key}\n" + (login.bastion.known_hosts if login.bastion else "")
    # In a thread: while it waits, the program goes on to register what it may be waiting for.
    done = await asyncio.to_thread(run_script, target, login.bastion, key, known_hosts, script)
    said = done.stderr.strip()
    if done.returncode == OWN_FAILURE:
        raise UnreachableError(f"{name}: {await _bastion_problem(login, address) or said}")
    if done.returncode:
        raise StepError(said)
    if said:
        pulumi.log.warn(said)
    return done.stdout


async def _bastion_problem(login: Login, address: str) -> str | None:
    """Why the bastion, if there is one, lets nothing through to a host; None if it does."""
    if not login.bastion:
        return None
    key = str(await login.private_key.future())
    return await asyncio.to_thread(bastion_problem, login.bastion, key, address)
