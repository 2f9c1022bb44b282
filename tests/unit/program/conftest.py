"""For tests that run the whole program against mocks."""

import pytest
from pulumi.runtime.proto.source_pb2 import StackTrace


@pytest.fixture(autouse=True)
def no_positions_in_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK looks for each resource's, through all of pytest's frames: a sixth of a run's time."""
    monkeypatch.setattr("pulumi.runtime.resource._get_stack_trace", StackTrace)


@pytest.fixture(params=[False, True], ids=["update", "preview"])
def preview(request: pytest.FixtureRequest) -> bool:
    return request.param
