"""The example of a second stack against mocks, in preview and in update."""

import asyncio
import runpy
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks, set_all_config, set_mocks
from pulumi.runtime.settings import reset_options

from dev.review.recording_cloud import SECRET_SIGNATURE
from operate.stack.files import ROOT

STACK = "organization/openstack-ha-api/dev"
KUBECONFIG = "apiVersion: v1\nkind: Config\n"
PROVIDER = "pulumi:providers:kubernetes"


def program() -> None:
    runpy.run_path(str(ROOT / "examples" / "workload" / "__main__.py"))


class RecordingMonitor(mocks.MockMonitor):
    """Keeps the registrations as the engine gets them."""

    def __init__(self, engine: "RecordingEngine") -> None:
        super().__init__(engine)
        self.engine = engine

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - gRPC's spelling
        self.engine.registrations[request.type] = request
        return super().RegisterResource(request)  # pyright: ignore[reportUnknownMemberType]


@dataclass
class RecordingEngine(pulumi.runtime.Mocks):
    """Has the outputs of one other stack, and creates everything."""

    preview: bool
    registrations: dict[str, Any] = field(default_factory=dict[str, Any])

    def new_resource(self, args: Any) -> tuple[str | None, dict[Any, Any]]:
        if args.typ == "pulumi:pulumi:StackReference":
            assert args.inputs["name"] == STACK
            # As the engine answers: values in clear, and the names of the secret ones.
            outputs = {"kubeconfig": KUBECONFIG, "endpoint": "https://198.51.100.100:6443"}
            return args.name, {"name": STACK, "outputs": outputs, "secretOutputNames": ["kubeconfig"]}
        return None if self.preview else f"id-of-{args.name}", args.inputs

    def call(self, args: Any) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise NotImplementedError(args.token)


@pytest.fixture(params=[False, True], ids=["update", "preview"])
def engine(request: pytest.FixtureRequest) -> RecordingEngine:
    engine = RecordingEngine(preview=request.param)
    with asyncio.Runner() as runner:
        runner.get_loop()  # becomes the thread's, which the SDK uses
        reset_options()
        set_mocks(engine, project="workload", stack="test", preview=engine.preview, monitor=RecordingMonitor(engine))
        set_all_config({"workload:clusterStack": STACK}, [])
        mocks.test(program)()  # pyright: ignore[reportUnknownMemberType]
    return engine


def test_the_provider_gets_the_other_stack_s_kubeconfig_as_a_secret(engine: RecordingEngine):
    kubeconfig = dict(engine.registrations[PROVIDER].object["kubeconfig"])
    assert kubeconfig["value"] == KUBECONFIG
    assert SECRET_SIGNATURE in kubeconfig


def test_every_resource_is_created_by_that_provider(engine: RecordingEngine):
    provider = engine.registrations.pop(PROVIDER)
    resources = {kind: it for kind, it in engine.registrations.items() if kind.startswith("kubernetes:")}
    assert sorted(resources) == [
        "kubernetes:apps/v1:Deployment", "kubernetes:core/v1:Namespace", "kubernetes:core/v1:Service",
    ]  # fmt: skip
    for resource in resources.values():
        urn, _, _ = resource.provider.rpartition("::")  # the provider's id
        assert urn.endswith(f"{PROVIDER}::{provider.name}")
