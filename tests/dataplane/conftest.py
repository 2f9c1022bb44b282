"""Our pair in the bench's world, whole at the beginning of each test, and a client."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.world import World
from tests.dataplane.benched import OURS
from tests.dataplane.client import Client


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(CONFIGURATIONS[OURS].files, tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def world(built: World) -> World:
    built.repair()
    return built


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with closing(Client(world)) as client:
        yield client
