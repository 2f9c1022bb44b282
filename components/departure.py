"""A host leaves the cluster before its instance goes: shrunk away, replaced, on purpose or along with another change.

Hooks of the instances, not steps with a `delete`: a step is a record of one host, on which the leaving host would have
to run it; these run on any other living control-plane host, and know what the whole stack is about to become. So a host
that has vanished leaves as well. When the whole cluster goes, nothing leaves.

Before its etcd member is removed, a control-plane host that answers stops its API server gracefully, as in a shutdown:
Nova deletes an instance without one.
"""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address

import pulumi
import yaml

from components.host import Host, Login, StepError, UnreachableError, run_now
from model.rendering import (
    kubernetes_leave_script,
    kubernetes_remove_script,
    kubernetes_stop_api_server_script,
)
from model.settings import Settings
from model.topology import Role, host_names

DRAIN = 60
"""Seconds that pods have to end."""


class DepartureError(Exception):
    """Why a host does not leave; its instance is then kept."""


class Departure:
    """The hooks, and what they need to know when they run."""

    def __init__(self, settings: Settings, login: Login, *, running: bool) -> None:
        self._settings = settings
        self._login = login
        self._running = running
        """Whether there is a cluster to leave."""
        self._ends = False
        # One lock for each role: a worker waits for other workers to rejoin, which needs the control plane to go on.
        self._one_at_a_time = {role: asyncio.Lock() for role in (Role.CONTROL_PLANE, Role.WORKER)}
        self._left: tuple[str, ...] = ()
        """The hosts that have left in this run."""
        self._kept: str | None = None
        """One that could not. The engine then starts nothing more, but goes on with the deletions that are waiting."""
        self.control_plane: list[Host] = []
        """The hosts that stay, or are replaced; known when the first hook runs."""
        self._hooks = {
            role: pulumi.ResourceHook(f"leave-cluster-{role}", self._leaves_as(role)) for role in self._one_at_a_time
        }
        self._end_hook = pulumi.ResourceHook("cluster-ends", self._end)

    def of_instances(self, role: Role) -> pulumi.ResourceHookBinding | None:
        """The hooks of a role's instances; None for load balancers, which are in no cluster."""
        hook = self._hooks.get(role)
        return pulumi.ResourceHookBinding(before_delete=[hook]) if hook else None

    def of_the_end(self) -> pulumi.ResourceHookBinding:
        """The hooks of a resource that is deleted only with the whole cluster, and before its instances."""
        return pulumi.ResourceHookBinding(before_delete=[self._end_hook])

    def _end(self, _args: pulumi.ResourceHookArgs) -> None:
        self._ends = True

    def _leaves_as(self, role: Role) -> pulumi.ResourceHookFunction:
        async def leave(args: pulumi.ResourceHookArgs) -> None:
            # An instance that Nova could not build has no address, and has never been a node.
            address = (args.old_outputs or {}).get("accessIpV4")
            if self._running and not self._ends and address:
                async with self._one_at_a_time[role]:
                    if self._kept:
                        raise DepartureError(f"{args.name} stays, because {self._kept} could not leave the cluster")
                    try:
                        user_data = await pulumi.Output.from_input((args.old_inputs or {}).get("userData")).future()
                        await self._leave(role, args.name, str(address), user_data or "")
                    except DepartureError:
                        self._kept = args.name
                        raise
                    self._left += (args.name,)

        return leave

    async def _leave(self, role: Role, name: str, address: str, user_data: str) -> None:
        others = [host for host in self.control_plane if host.name != name]
        if not others and role is Role.CONTROL_PLANE:
            raise DepartureError(
                f"{name} is the cluster's only control-plane host, and has all its data: set controlPlaneCount to 3 "
                "first, or destroy the cluster with `pulumi destroy --run-program --ignore-protect`"
            )
        script = kubernetes_leave_script(
            name,
            IPv4Address(address),
            control_plane=role is Role.CONTROL_PLANE,
            # A majority of the control plane that there will be; all other workers that there will be.
            healthy_others=(
                self._settings.control_plane_count // 2 + 1
                if role is Role.CONTROL_PLANE
                else max(self._settings.worker_count - 1, 0)
            ),
            # Those that the configuration no longer has do not come back.
            returning=[it for it in host_names(self._settings, role) if it in self._left],
            wait=self._settings.ssh_timeout,
            drain=DRAIN,
        )
        cordoned = "cordoned" in await _ask_one(others, name, script)
        remove = kubernetes_remove_script(
            name,
            IPv4Address(address),
            control_plane=role is Role.CONTROL_PLANE,
            cordoned=cordoned,
            wait=self._settings.ssh_timeout,
        )
        if role is Role.WORKER:
            await _ask_one(others, name, remove)
            return
        target, host_key = f"{self._settings.control_plane_user}@{address}", _host_key(user_data)
        try:
            await run_now(self._login, name, target, host_key, kubernetes_stop_api_server_script())
        except UnreachableError as error:  # it may have vanished
            pulumi.log.info(f"{name} leaves without ending its API server first: {error}")
        except StepError as error:
            pulumi.log.warn(f"{name} leaves without ending its API server first: {error}")
        try:
            await _ask_one(others, name, remove)
        except DepartureError as error:
            try:
                # The kubelet starts the API server again.
                await run_now(self._login, name, target, host_key, "systemctl start kubelet\n")
            except (UnreachableError, StepError) as cause:
                raise DepartureError(
                    f"{error}; its API server may be stopped: run `systemctl start kubelet` on {name} ({cause})"
                ) from None
            raise


async def _ask_one(others: Sequence[Host], name: str, script: str) -> str:
    """Run a script on the first host that answers, and return what it prints."""
    failures: list[str] = []
    for host in others:
        try:
            return await host.run_now(script)
        except UnreachableError as error:
            failures.append(str(error))
        except StepError as error:
            raise DepartureError(str(error)) from None
    raise DepartureError(
        f"{name} could not leave the cluster: no other control-plane host answered: {'; '.join(failures)}"
    )


def _host_key(user_data: str) -> str:
    """The public key with which an instance was created. For a host that is shrunk away, nothing else has it."""
    config: dict[str, dict[str, str]] = yaml.safe_load(user_data) or {}
    return next((key for name, key in config.get("ssh_keys", {}).items() if name.endswith("_public")), "")
