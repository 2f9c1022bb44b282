"""What all tests in network namespaces share. Each file has worlds of its own, so files can run at the same time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

import pytest

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.results import Run
from dev.bench.world import World
from tests.dataplane.benched import OURS, Runs, beside_the_seed, ours
from tests.dataplane.client import Client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files that run the bench take longest: they begin first, so that all processes end at about the same time.
    items.sort(key=lambda item: not (isinstance(item, pytest.Function) and "faults" in item.fixturenames))


@pytest.fixture(scope="module")
def faults(request: pytest.FixtureRequest) -> Sequence[str]:
    """The FAULTS of the module."""
    return request.module.FAULTS  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] partly typed


@pytest.fixture(scope="module")
def runs(faults: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What the faults cost with our configuration and with the seed's."""
    return beside_the_seed(tmp_path_factory.mktemp("bench"), faults)


@pytest.fixture(scope="module")
def our_runs(faults: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    """What the faults cost with our configuration; by fault."""
    return ours(tmp_path_factory.mktemp("bench"), faults)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Our pair, its API servers and a client."""
    with World(CONFIGURATIONS[OURS].files, tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def world(built: World) -> World:
    """The same, whole at the beginning of each test."""
    built.repair()
    return built


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    """Who holds connections to it."""
    with closing(Client(world)) as client:
        yield client
