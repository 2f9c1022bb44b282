"""What the end-to-end tests share: a stack on the lab with its stand-in API servers, `./ha` on it, and its state."""

import asyncio
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import asyncssh
import openstack
import yaml

from dev.lab.progress import console
from dev.lab_faults import LinkCut
from dev.lab_stack import CLOUD, Change, Outputs, Stack, environment
from dev.standin.apiserver import BACKEND_HEADER
from dev.standin.hosts import StandIns
from operate.drill.faults import DrillFault, Site
from operate.drill.result import Measured
from operate.drill.run import Drill, problems_of
from operate.hosts.look import look
from operate.hosts.pair import Pair, PairError, wait_for
from operate.hosts.ssh import Access, on_all
from operate.probe import Probe
from operate.stack.applied import AppliedStack, read_stack
from operate.stack.engine import PULUMI, StackError
from operate.stack.files import ROOT
from operate.stack.resources import recorded_ids
from tests.watches import download, ends_after, upload, watch

# Where nothing may be dropped, a request has this long: both cores may be booting instances meanwhile.
PATIENCE_SECONDS = 2.0
# During moves on purpose: connections, and a limit below TCP's first repetition of a lost SYN (1 s, RFC 6298).
HELD, SLOWEST_SECONDS = 100, 0.9
# Longer than a move takes, in each direction, with a pause (seconds) after each megabyte.
MEGABYTES, PAUSE_SECONDS = 150, 0.3
NO_ENV: Mapping[str, str] = MappingProxyType({})


class Ended(subprocess.CompletedProcess[str]):
    """A command that has ended."""

    @property
    def words(self) -> str:
        """Everything it printed, with single spaces: how lines are wrapped does not matter."""
        return " ".join((self.stdout + self.stderr).split())


def run(*command: str | Path, stdin: str = "", env: Mapping[str, str] = NO_ENV) -> Ended:
    """Run a command in the environment that Pulumi needs, to its end."""
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment(), **env},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    shown = " ".join(str(it).removeprefix(f"{ROOT}/") for it in command)
    console.print(f"$ {shown}: status {done.returncode} after {time.monotonic() - began:.1f} s", markup=False)
    if "--json" not in command:
        console.print(done.stdout + done.stderr, markup=False)
    return Ended(done.args, done.returncode, done.stdout, done.stderr)


def ha(*arguments: str | Path, stack: str, stdin: str = "", env: Mapping[str, str] = NO_ENV) -> Ended:
    """`./ha` as a user runs it."""
    return run(ROOT / "ha", *arguments, "--stack", stack, stdin=stdin, env=env)


def start(*command: str | Path, env: Mapping[str, str] = NO_ENV) -> subprocess.Popen[str]:
    """Start a command in a session of its own, so that a signal can go to all its processes, as a terminal sends it."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment(), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def clouds_yaml(file: Path, **auth: str) -> Path:
    """A copy of the lab's clouds.yaml in which the tests' cloud logs in differently."""
    clouds = yaml.safe_load(Path(environment()["OS_CLIENT_CONFIG_FILE"]).read_text())
    clouds["clouds"][CLOUD]["auth"] |= auth
    file.write_text(yaml.safe_dump(clouds))
    return file


def findings(result: Ended) -> dict[str, dict[str, str]]:
    """What `./ha preflight --json` found, by what it looked at."""
    groups = json.loads(result.stdout)["groups"]
    return {finding["looked_at"]: finding for group in groups for finding in group["findings"]}


class System:
    """A stack of the lab that tests share, and what they ask of it. Tests that change it leave it whole."""

    def __init__(self, name: str, cluster: str, **config: object) -> None:
        self.cluster = cluster
        self.config: dict[str, object] = {"clusterName": cluster, "controlPlaneCount": 1, "workerCount": 0} | config
        self.stack = Stack(name)
        self.outputs: Outputs
        self.access: Access
        self.pair: Pair
        # Linux itself chooses from 32768 on.
        self._ports = count(20_000)

    @property
    def name(self) -> str:
        """The stack's."""
        return self.stack.name

    def up(self, *, refresh: bool = False, **config: object) -> list[Change]:
        """Bring it up with a change that lasts; with `refresh` the cloud is asked first what is there still."""
        began = time.monotonic()
        changes = [*self.stack.up(self.config | config, refresh=refresh)]
        self.config |= config
        console.print(f"up took {time.monotonic() - began:.1f} s and changed {len(changes)} resources")
        applied = self.applied()
        # Hosts may be booting, so a failed connection is tried again, as `./ha` does not.
        self.outputs, self.access = applied.outputs, replace(applied.access, patience=Access.patience)
        self.pair = Pair(self.outputs, recorded_ids(self.name), openstack.connect(cloud=CLOUD))
        return changes

    def kill_up(self, resource: str, seconds: float = 0) -> None:
        """Start an `up` of what is configured, and kill all of it (SIGKILL) `seconds` after it begins a resource."""
        with start(PULUMI, "up", "--yes", "--skip-preview", "--non-interactive", "--stack", self.name) as process:
            assert process.stdout
            assert any(f"{resource} creating" in line for line in process.stdout), f"up did not create {resource}"
            time.sleep(seconds)
            os.killpg(process.pid, signal.SIGKILL)

    def destroy(self) -> None:
        """Delete all that it made in the cloud."""
        self.stack.destroy(self.config)

    def delete_leftovers(self) -> None:
        """Delete what a run that was killed has left, even if the lab was purged since, or Pulumi never knew of it."""
        self.stack.destroy(self.config, refresh=True)
        for it, delete in self._left():
            delete(it)
        assert self.left_in_the_cloud() == []

    def configure(self, **config: object) -> None:
        """Write a change into the stack's file, and do nothing with it."""
        self.stack.configure(self.config | config)

    def has_no_changes(self) -> bool:
        """Whether a preview finds nothing to do; StackError if it does."""
        return not self.stack.preview(self.config, expect_no_changes=True)

    def refusal(self, **config: object) -> str:
        """What a preview with a change says, which must refuse it. The stack's file stays as it was."""
        try:
            self.stack.preview(self.config | config)
        except StackError as error:
            return str(error)
        finally:
            self.configure()
        raise AssertionError(f"the preview accepts {config}")

    def applied(self) -> AppliedStack:
        """As `./ha` reads it."""
        return read_stack(self.name)

    def ha(self, *arguments: str | Path, status: int = 0, stdin: str = "", env: Mapping[str, str] = NO_ENV) -> Ended:
        """`./ha` on this stack; it must end with `status`."""
        done = ha(*arguments, stack=self.name, stdin=stdin, env=env)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def bundle(self, path: Path, env: Mapping[str, str] = NO_ENV) -> tuple[Ended, dict[str, bytes]]:
        """A support bundle, and what is in it by name, without the folder that holds it all."""
        done = self.ha("support-bundle", "--output", path, env=env)
        assert path.stat().st_mode & 0o777 == 0o600
        with tarfile.open(path) as archive:
            members = {it.name.partition("/")[2]: archive.extractfile(it) for it in archive.getmembers()}
            return done, {name: file.read() for name, file in members.items() if file}

    def pulumi(self, *arguments: str) -> Ended:
        """Pulumi's CLI on this stack."""
        return run(PULUMI, *arguments, "--non-interactive", "--stack", self.name)

    # ---- stand-ins and clients -------------------------------------------------------------------------------------

    def stand_ins(self) -> StandIns:
        """Its API servers."""
        return StandIns(self.access, self.outputs.control_plane, self.outputs.vip)

    def serve(self) -> None:
        """Have an API server on every host of the control plane, and wait until each answers through the VIP."""
        self.stand_ins().install()
        self.wait_for_all_backends()

    def wait_for_all_backends(self) -> None:
        """Until each API server has answered through the VIP.

        A drill needs that: on a machine that is busy with other stories it may find no answers, and refuses to begin.
        """
        wanted = self.outputs.control_plane.keys()
        with Probe(self.outputs.endpoint, limit=60, backend_header=BACKEND_HEADER) as probe:
            wait_for(
                f"{', '.join(wanted)} answer", lambda: probe.report().backends.keys() == wanted and probe.steady > 1, 60
            )

    @contextmanager
    def probed(self) -> Generator[Probe]:
        """A probe with patience runs meanwhile; what it saw is printed."""
        with Probe(self.outputs.endpoint, timeout=PATIENCE_SECONDS, limit=600) as probe:
            yield probe
        console.print(probe.report().render())

    @contextmanager
    def undisturbed(self, lost: int = 0) -> Generator[None]:
        """At most `lost` requests fail meanwhile: those that are under way when the VIP moves.

        In addition, one in a hundred may be late, because the machine is busy.
        """
        with self.probed() as probe:
            yield
        report = probe.report()
        late = report.reasons.get("TimeoutError", 0)
        assert report.failures - late <= lost
        assert late <= report.requests / 100

    # ---- the load balancers ----------------------------------------------------------------------------------------

    def run(self, host: str, command: str, stdin: str = "") -> asyncssh.SSHCompletedProcess:
        """Run a command on a host, whatever its exit code."""
        addresses = {**self.outputs.load_balancers, **self.outputs.control_plane}

        async def log_in_and_run() -> asyncssh.SSHCompletedProcess:
            async with self.access.connect(addresses[host]) as connection:
                return await connection.run(command, input=stdin, check=False, timeout=120)

        return asyncio.run(log_in_and_run())

    def do(self, hosts: str | Iterable[str], command: str) -> None:
        """Run a command on hosts at the same time; it must succeed on each."""
        names = [hosts] if isinstance(hosts, str) else [*hosts]
        addresses = {**self.outputs.load_balancers, **self.outputs.control_plane}
        on_all([addresses[name] for name in names], lambda address: self.access.run(address, command))

    def write(self, host: str, path: str, text: str) -> None:
        """Give a file of a host another content."""
        assert self.run(host, f"sudo tee {path} >/dev/null", stdin=text).exit_status == 0

    def holders(self) -> list[str]:
        """The load balancers that have the VIP on an interface."""
        show = f"ip -oneline address show to {self.outputs.vip}/32"
        return [name for name in self.outputs.load_balancers if str(self.run(name, show).stdout).strip()]

    def holder_and_standby(self) -> tuple[str, str]:
        """Wait for exactly one holder; its name, and the other's."""
        holders: list[str] = []

        def one() -> bool:
            holders[:] = self.holders()
            return len(holders) == 1

        wait_for("one load balancer holds the VIP", one, 30)
        return holders[0], self.pair.peer_of(holders[0])

    def problems(self) -> list[str]:
        """What is wrong with the pair, as `./ha status` and a drill see it."""
        return problems_of(look(self.applied()))

    def wait_until_whole(self, seconds: float = 120) -> None:
        """Until nothing is wrong with the pair."""
        stack = self.applied()
        found: list[str] = []

        def whole() -> bool:
            found[:] = problems_of(look(stack))
            return not found

        try:
            wait_for("the pair is whole", whole, seconds)
        except PairError as error:
            raise AssertionError(f"{error}: {found}") from None

    def drill(self, *faults: type[DrillFault]) -> list[Measured]:
        """A drill with these faults, each of which must come to its end and be undone."""
        drill = Drill(self.applied(), faults, lambda line: console.print(line, markup=False))
        with drill.alone():
            result = drill.run(drill.plan(), max_outage=PATIENCE_SECONDS)
        assert result.ended_by is None, result.verdict
        for it in result.measured:
            console.print(f"{it.fault} on {it.host}: {it.longest_interruption:.2f} s", markup=False)
        return result.measured

    def move(self) -> None:
        """Move the VIP to the standby on purpose."""
        _, standby = self.holder_and_standby()
        assert f"{standby} holds the VIP" in self.ha("move", "--yes").words
        assert self.pair.holder() == standby

    def loses_nothing_in_moves(self, moves: int) -> None:
        """Move the VIP there and back: no connection is cut, be it busy, quiet or a transfer, and no request fails."""
        host = urlsplit(self.outputs.endpoint).hostname or ""
        # From ports that nothing else has used: for 30 s after a connection has ended, the tracker at a load balancer's
        # port drops what is in the middle of another one (ADR 45).
        held = [watch(host, next(self._ports)) for _ in range(HELD)]
        with self.probed() as probe:
            for _ in range(moves):
                self.move()
                assert sum(it.works() for it in held[: HELD // 2]) == HELD // 2
        report = probe.report()
        assert sum(it.works() for it in held) == HELD
        late = [it for it in report.samples if it.failure or it.ended - it.started > SLOWEST_SECONDS]
        took = max((it.ended - it.started for it in report.samples if it not in late), default=0)
        console.print(f"{moves} moves: {len(late)} of {report.requests} requests late, all others within {took:.3f} s")
        # A busy lab answers one late now and then.
        assert len(late) <= report.requests / 100
        # Alone: while so much passes, the lab's switches, which run in userspace, lose packets of the requests.
        with ThreadPoolExecutor(2) as background:
            received = background.submit(download, host, MEGABYTES << 20, next(self._ports), pause=PAUSE_SECONDS)
            sent = background.submit(upload, host, MEGABYTES, next(self._ports), pause=PAUSE_SECONDS)
            time.sleep(1)
            self.move()
            assert not received.done()
            assert not sent.done()
            assert received.result(120) == MEGABYTES << 20
            assert sent.result(120)

    def quiet_watches_end(self, count: int = 20) -> float:
        """Cut the holder off while clients hold connections on which nothing is sent.

        Returns after how many seconds all of them have noticed; fails if one has not.
        """
        watches = [watch(urlsplit(self.outputs.endpoint).hostname or "") for _ in range(count)]
        # Two of what the load balancers tell each other.
        time.sleep(2.5)
        fault, holder = LinkCut(Site(self.applied())), self.pair.holder()
        fault.inflict(holder, lambda: None)
        try:
            ends = [seconds for _, seconds in ends_after(watches, fault.seconds)]
            console.print(f"{len(ends)} of {count} quiet watches ended, the last after {max(ends, default=0):.2f} s")
            assert len(ends) == count
        finally:
            fault.undo(holder)
        self.wait_until_whole()
        return max(ends)

    # ---- the cloud -------------------------------------------------------------------------------------------------

    def left_in_the_cloud(self) -> list[str]:
        """Everything in the cloud that has the cluster's name."""
        return [f"{type(it).__name__} {it.name}" for it, _ in self._left()]

    def _left(self) -> list[tuple[Any, Callable[[Any], object]]]:
        """The same, each with what deletes it; nothing is in use any more when it is its turn."""
        cloud: Any = openstack.connect(cloud=CLOUD)
        compute, network = cloud.compute, cloud.network

        def delete_server(server: Any) -> None:
            compute.delete_server(server)
            compute.wait_for_delete(server, wait=120)

        everything = [
            *((it, delete_server) for it in compute.servers()),
            *((it, compute.delete_server_group) for it in compute.server_groups()),
            *((it, compute.delete_keypair) for it in compute.keypairs()),
            *((it, network.delete_port) for it in network.ports()),
            *((it, network.delete_security_group) for it in network.security_groups()),
        ]
        ours = (self.cluster, f"{self.cluster}-")
        return [it for it in everything if it[0].name == ours[0] or it[0].name.startswith(ours[1])]
