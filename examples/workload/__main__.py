"""Deploys a workload to the cluster of another stack, with that stack's kubeconfig."""

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.apps.v1 import DeploymentSpecArgs
from pulumi_kubernetes.core.v1 import (
    CapabilitiesArgs,
    ContainerArgs,
    ContainerPortArgs,
    HTTPGetActionArgs,
    PodSecurityContextArgs,
    PodSpecArgs,
    PodTemplateSpecArgs,
    ProbeArgs,
    ResourceRequirementsArgs,
    SeccompProfileArgs,
    SecurityContextArgs,
    ServicePortArgs,
    ServiceSpecArgs,
    TopologySpreadConstraintArgs,
)
from pulumi_kubernetes.meta.v1 import LabelSelectorArgs, ObjectMetaArgs

# Kubernetes' own test image, as of 1.37.2. With `serve-hostname` it answers each request with its pod's name.
IMAGE = "registry.k8s.io/e2e-test-images/agnhost:2.66.1"
PORT = 9376
LABELS = {"app.kubernetes.io/name": "hello"}

# The output is a secret, so this stack encrypts it in its state, too.
cluster_stack = pulumi.StackReference(pulumi.Config().require("clusterStack"))
cluster = kubernetes.Provider("cluster", kubeconfig=cluster_stack.require_output("kubeconfig"))
# Without it, a resource would go to whatever cluster ~/.kube/config on this machine names.
on_cluster = pulumi.ResourceOptions(provider=cluster)

namespace = kubernetes.core.v1.Namespace(
    "namespace",
    # The API server refuses pods that are not locked down as below.
    metadata=ObjectMetaArgs(name="hello", labels={"pod-security.kubernetes.io/enforce": "restricted"}),
    opts=on_cluster,
)
metadata = ObjectMetaArgs(name="hello", namespace=namespace.metadata.name, labels=LABELS)

probe = HTTPGetActionArgs(path="/", port="http")
container = ContainerArgs(
    name="hello",
    image=IMAGE,
    args=["serve-hostname", f"--port={PORT}"],
    ports=[ContainerPortArgs(name="http", container_port=PORT)],
    readiness_probe=ProbeArgs(http_get=probe, period_seconds=2),
    liveness_probe=ProbeArgs(http_get=probe, period_seconds=10),
    resources=ResourceRequirementsArgs(requests={"cpu": "10m", "memory": "32Mi"}, limits={"memory": "64Mi"}),
    security_context=SecurityContextArgs(
        allow_privilege_escalation=False,
        capabilities=CapabilitiesArgs(drop=["ALL"]),
        read_only_root_filesystem=True,
    ),
)
kubernetes.apps.v1.Deployment(
    "deployment",
    metadata=metadata,
    spec=DeploymentSpecArgs(
        replicas=2,
        selector=LabelSelectorArgs(match_labels=LABELS),
        template=PodTemplateSpecArgs(
            metadata=ObjectMetaArgs(labels=LABELS),
            spec=PodSpecArgs(
                containers=[container],
                automount_service_account_token=False,
                security_context=PodSecurityContextArgs(
                    run_as_non_root=True,
                    run_as_user=65534,
                    seccomp_profile=SeccompProfileArgs(type="RuntimeDefault"),
                ),
                # After SIGTERM the image serves for another 60 s. Requests that still arrive need only the first few.
                termination_grace_period_seconds=5,
                topology_spread_constraints=[
                    TopologySpreadConstraintArgs(
                        max_skew=1,
                        topology_key="kubernetes.io/hostname",
                        # A cluster with one worker runs both replicas there.
                        when_unsatisfiable="ScheduleAnyway",
                        label_selector=LabelSelectorArgs(match_labels=LABELS),
                        # Otherwise a rolling update would count the old pods, too.
                        match_label_keys=["pod-template-hash"],
                    )
                ],
            ),
        ),
    ),
    opts=on_cluster,
)
# Inside the cluster only: http://hello.hello
kubernetes.core.v1.Service(
    "service",
    metadata=metadata,
    spec=ServiceSpecArgs(selector=LABELS, ports=[ServicePortArgs(name="http", port=80, target_port="http")]),
    opts=on_cluster,
)
