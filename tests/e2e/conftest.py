"""The order of the tests, their stacks, and the lab that they share with the other stories (stories.py)."""

import fcntl
import os
from collections import defaultdict
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dev.lab.cloud import NETWORK, TENANT_NETWORK, TENANT_SUBNET, connect
from dev.lab.container import Container
from dev.lab.settings import LabSettings
from dev.lab_stack import environment, state_folder
from tests.e2e.harness import System
from tests.e2e.instances import Instance, Instances
from tests.e2e.stories import STORIES

_seconds: defaultdict[str, float] = defaultdict(float)
_kept: list[ExitStack] = []
"""The lab, kept by one test for the next."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "measures: it measures an interruption, and nothing else runs meanwhile")
    config.addinivalue_line("markers", "extended: `make e2e-extended` runs it, `make test` has no time for it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = [module for modules in STORIES.values() for module in modules]
    items.sort(key=lambda item: order.index(item.path.stem))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, bool, bool]:
    # Tests that measure keep the lab from one to the next. Else the other stories would have to end their test and wait
    # before each of them.
    if _kept:
        lock = _kept.pop()
    else:
        lock = ExitStack()
        lock.enter_context(lab(alone=_measures(item)))
    try:
        return (yield)
    finally:
        if _measures(item) and nextitem and _measures(nextitem):
            _kept.append(lock)
        else:
            lock.close()


def _measures(item: pytest.Item) -> bool:
    return item.get_closest_marker("measures") is not None


@contextmanager
def lab(*, alone: bool) -> Generator[None]:
    """Have the lab to oneself, or with others."""
    folder = state_folder()
    with (folder / "e2e.turn").open("w") as turn, (folder / "e2e.lab").open("w") as held:
        # Who waits to be alone holds the turn meanwhile, so that nobody else begins.
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(held, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[Path(report.fspath).stem] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for module, seconds in sorted(_seconds.items(), key=lambda it: -it[1]):
        terminalreporter.write_line(f"{seconds:5.0f} s  {module}")


@pytest.fixture(scope="session", autouse=True)
def cloud(settings: LabSettings) -> Generator[None]:
    """What openstacksdk and Pulumi, in this process, need to find the lab. No daemon of the lab may crash meanwhile."""
    os.environ |= environment()
    container = Container(settings)
    assert container.pid() is not None, "the lab does not run: start it with `make lab-up`"
    yield
    shown = container.run("systemctl", "show", "--property=Id,NRestarts,Result", "*.service")
    units = [dict(line.split("=", 1) for line in unit.splitlines()) for unit in shown.split("\n\n")]
    assert len(units) > 20
    assert [it for it in units if (it["NRestarts"], it["Result"]) != ("0", "success")] == []


@pytest.fixture(scope="session")
def settings() -> LabSettings:
    """The lab's."""
    return LabSettings.from_environ()


@pytest.fixture(scope="session")
def member(settings: LabSettings) -> Any:
    """The lab's client of the ordinary project member."""
    return connect(settings, "lab")


@pytest.fixture(scope="session")
def made(member: Any, tmp_path_factory: pytest.TempPathFactory) -> Generator[Instances]:
    """Makes instances without the program."""
    instances = Instances(member, tmp_path_factory.mktemp("ssh"))
    yield instances
    instances.remove()


@pytest.fixture(scope="session")
def instances(made: Instances) -> list[Instance]:
    """Two on the flat network."""
    two = [made.make(name) for name in ("0", "1")]
    for instance in two:
        instance.wait_for_ssh()
    return two


@pytest.fixture(scope="session")
def system() -> Generator[System]:
    """The stack on which interruptions are measured: at first with one API server's host, and nothing listens there."""
    system = System("lab-e2e", "e2e")
    system.delete_leftovers()
    system.up()
    yield system
    system.stack.destroy()


@pytest.fixture(scope="module")
def pair(system: System) -> Generator[System]:
    """The same, serving with three API servers; a module that leaves it otherwise fails."""
    if len(system.outputs.control_plane) != 3:
        system.up(controlPlaneCount=3)
    system.serve()
    system.wait_until_whole()
    yield system
    assert system.problems() == []


@pytest.fixture(scope="session")
def watched() -> Generator[System]:
    """A stack behind a router, serving with one API server; its load balancers run Debian 13."""
    system = System(
        "lab-watched",
        "watched",
        network=TENANT_NETWORK,
        subnet=TENANT_SUBNET,
        floatingNetwork=NETWORK,
        loadBalancerImage="debian-13",
    )
    system.delete_leftovers()
    system.configure()
    # Nothing is taken away from a stack that does not exist yet.
    assert system.ha("guard").stdout == "No guard rail stops this.\n"
    system.up()
    system.serve()
    system.wait_until_whole()
    yield system
    system.stack.destroy()
