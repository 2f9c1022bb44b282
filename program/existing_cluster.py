"""Whether the stack has a cluster already: read from its state, before anything is registered."""

import time
from collections.abc import Iterable
from typing import Any

import pulumi

from model.kubernetes import ExistingCluster
from model.settings import Settings
from model.topology import Role, vip_port_name

TRIES, WAIT_SECONDS = 25, 0.2


def existing_cluster(settings: Settings) -> ExistingCluster | None:
    """What the stack's cluster was created with; None without a cluster.

    Raises `pulumi.RunError` with all problems, if the settings are not for this cluster.
    """
    # A function of the engine itself. The stack's outputs would be missing after a run that failed.
    stack = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    resources = _outputs(stack)
    _refuse_another_name(settings, resources)

    def printed(step: str) -> str:
        name = f"command:remote:Command::{settings.cluster_name}-{Role.CONTROL_PLANE}-0-kubernetes-{step}"
        return next((it["outputs"]["stdout"] for urn, it in resources.items() if urn.endswith(name)), "")

    created = printed("init")
    if not created:
        return None
    # Deleted before anything else of the cluster (components/certificates.py).
    certificate = f"command:local:Command::{settings.cluster_name}-admin-certificate"
    ending = not any(urn.endswith(certificate) for urn in resources)
    found = ExistingCluster.parse("\n".join((created, printed("network"))), ending=ending)
    if problems := found.problems(settings):
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise pulumi.RunError(f"the configuration does not fit the existing cluster:\n{lines}")
    return found


def _refuse_another_name(settings: Settings, resources: Iterable[str]) -> None:
    """With another name everything is created again, and then the engine fails at the old VIP's protected port."""
    ports = (urn.partition("openstack:networking/port:Port::")[2] for urn in resources)
    vips = [port for port in ports if port.endswith("-vip")]
    if vips and vip_port_name(settings) not in vips:
        had, now = vips[0].removesuffix("-vip"), settings.cluster_name
        raise pulumi.RunError(
            f"clusterName = {now!r}: this stack was created with {had!r}, and would be created again under the new "
            f"name; `pulumi config set clusterName {had}`, and use another stack for {now!r}"
        )


def _outputs(stack: str) -> dict[str, dict[str, Any]]:
    """The outputs of each resource in the stack's state, by URN."""
    for _ in range(TRIES):
        try:
            return _read(stack)
        except Exception as error:
            # The engine has registered the stack, and writes the state: in a file, it is empty for a moment.
            if "failed to load checkpoint: EOF" not in str(error):
                raise
        time.sleep(WAIT_SECONDS)
    return _read(stack)


def _read(stack: str) -> dict[str, dict[str, Any]]:
    return pulumi.runtime.invoke("pulumi:pulumi:readStackResourceOutputs", {"stackName": stack}).value["outputs"]
