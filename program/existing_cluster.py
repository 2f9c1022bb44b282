"""Whether the stack has a cluster already, and of which version: read from its state, before anything is registered."""

from typing import Any

import pulumi

from model.kubernetes import cluster_problem
from model.settings import Settings
from model.topology import Role

STEP = "command:remote:Command"


def version_of_existing_cluster(settings: Settings) -> str | None:
    """The version that the stack's cluster was created with; None without a cluster.

    Raises `pulumi.RunError` if the settings are not for this cluster.
    """
    # A function of the engine itself. The stack's outputs would be missing after a run that failed.
    result = pulumi.runtime.invoke("pulumi:pulumi:readStackResourceOutputs", {"stackName": pulumi.get_stack()})
    resources: dict[str, dict[str, Any]] = result.value["outputs"]
    first = f"{settings.cluster_name}-{Role.CONTROL_PLANE}-0"
    created, asked = (
        next((it for urn, it in resources.items() if urn.endswith(f"{STEP}::{first}-kubernetes-{step}")), None)
        for step in ("init", "version")
    )
    if created is None or asked is None:
        return None
    running = str(asked["outputs"]["stdout"]).rpartition("version=")[2].strip()
    if problem := cluster_problem(settings, running):
        raise pulumi.RunError(problem)
    return running
