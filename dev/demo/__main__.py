"""`python -m dev.demo`: from nothing to a highly available endpoint on the lab, and its failover measured.

Every phase checks what is done already, so an interrupted run can be continued, and a second run is quick.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import typer
from openstack.exceptions import SDKException
from rich.table import Table
from rich.text import Text

from dev.lab.errors import LabError
from dev.lab.progress import console, phase
from dev.lab_faults import LinkCut
from dev.lab_stack import USER, Outputs, Stack, StackError, environment, pulumi_path, ssh_key, state_folder
from dev.standin.apiserver import BACKEND_HEADER
from dev.standin.hosts import StandIns
from operate.commands.drill import show_result
from operate.drill.faults import HAProxyKilled, InstanceStopped
from operate.drill.result import DrillResult
from operate.drill.run import Drill
from operate.hosts.pair import Pair, PairError, wait_for
from operate.hosts.ssh import HostError
from operate.probe import Mark, Probe, ProbeReport
from operate.stack.applied import read_stack
from operate.stack.files import ROOT
from operate.stack.resources import recorded_ids

PYTHON = ".venv/bin/python"
# Seconds; generous, because the lab shares the machine with everything else on it.
MAX_OUTAGE = 2.0
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def demo(context: typer.Context) -> None:
    """Set everything up, break the load balancer that holds the VIP, measure, and show how to go on."""
    if context.invoked_subcommand:
        return
    began = time.monotonic()
    _lab_up()
    with phase("Pulumi's CLI and plugins"):
        pulumi_path()
    stack = Stack()
    with phase("pulumi up", expected=180):
        stack.up(refresh=True)
    outputs = stack.outputs()
    os.environ |= environment()
    applied = read_stack(stack.name)
    pair = Pair(outputs, recorded_ids(stack.name), applied.configuration.cloud())
    with phase("both load balancers answer", expected=5):
        # Undo what a killed run left behind.
        for name in outputs.load_balancers:
            pair.set_port(name, up=True)
            pair.start(name)
        pair.wait_until_whole()
    with phase("stand-in API servers on the control plane", expected=10):
        StandIns(stack.access(), outputs.control_plane, outputs.vip).install()
    with phase(f"{outputs.endpoint}/readyz answers from all stand-ins", expected=10):
        _wait_for_all_backends(outputs)
    drill = Drill(applied, (HAProxyKilled, InstanceStopped, LinkCut), console.print)
    with phase("failover: three faults, one after the other", expected=75), drill.alone():
        result = drill.run(drill.plan(), max_outage=MAX_OUTAGE)
    _show(outputs, result)
    if result.left or result.ended_by:
        raise PairError(result.verdict)
    console.print(f"\n[bold]Done in {time.monotonic() - began:.0f} s.[/]")


@app.command("shell-env")
def shell_env() -> None:
    """Print what a shell has to `eval` to use `pulumi` and `openstack` on the demo's stack."""
    for name, value in environment().items():
        print(f"export {name}={shlex.quote(value)}")  # noqa: T201 for a shell, not for a reader


@app.command()
def down() -> None:
    """Delete everything that the demo created in the cloud; the lab stays up (`make lab-down` stops it)."""
    _lab_up()
    with phase("pulumi destroy", expected=60):
        Stack().destroy()


def _lab_up() -> None:
    # A separate process: it shows its own phases and its own final message.
    result = subprocess.run([sys.executable, "-m", "dev.lab", "up"], cwd=ROOT, check=False)
    if result.returncode:
        raise LabError("The lab did not come up, see above.")


def _wait_for_all_backends(outputs: Outputs) -> None:
    with Probe(outputs.endpoint, interval=0.2, timeout=2, limit=180, backend_header=BACKEND_HEADER) as probe:
        wait_for(
            f"stand-ins answer through {outputs.endpoint}: {', '.join(outputs.control_plane)}",
            lambda: probe.report().backends.keys() == outputs.control_plane.keys() and probe.steady >= 1,
            120,
        )


def _show(outputs: Outputs, result: DrillResult) -> None:
    hosts = Table("host", "role", "address", title="What was built", title_justify="left")
    roles = {
        "load balancer": outputs.load_balancers,
        "control plane": outputs.control_plane,
        "worker": outputs.workers,
    }
    for role, members in roles.items():
        for name, address in members.items():
            hosts.add_row(name, role, address)
    hosts.add_row("the VIP", f"held by {result.measured[-1].after}", outputs.vip)
    console.print()
    console.print(hosts)
    for it in result.measured:
        marks = [Mark(at=at, label=label) for at, label in ((it.inflicted, it.title), (it.undone, "undone")) if at]
        report = ProbeReport(duration=it.duration, samples=it.samples, marks=marks, longest_stall=it.longest_stall)
        console.print()
        console.print(report.render(min(console.width, 100)))
    console.print()
    show_result(result, console)
    console.print(
        f"""
[bold]How to go on[/]
  ask the endpoint                           curl --insecure {outputs.endpoint}/readyz
  log in to a host                           ssh -F {_ssh_config(outputs)} {next(iter(outputs.load_balancers))}
  the environment for pulumi and openstack   eval "$({PYTHON} -m dev.demo shell-env)"
  then, for instance                         pulumi stack --stack lab; pulumi up --stack lab; pulumi cancel --stack lab
  measure while you break something          {PYTHON} -m operate.probe {outputs.endpoint} --seconds 30
  delete all of it from the cloud            {PYTHON} -m dev.demo down
  stop the lab, or delete it                 make lab-down; make lab-purge"""
    )


def _ssh_config(outputs: Outputs) -> Path:
    """Write what `ssh -F` needs to log in to the hosts by name."""
    known_hosts, file = state_folder() / "known_hosts", state_folder() / "ssh_config"
    known_hosts.write_text(outputs.known_hosts)
    hosts = {**outputs.load_balancers, **outputs.control_plane, **outputs.workers}
    file.write_text(
        "".join(f"Host {name}\n  HostName {address}\n" for name, address in hosts.items())
        + f"Host *\n  User {USER}\n  IdentityFile {ssh_key().private_file}\n"
        + f"  IdentitiesOnly yes\n  UserKnownHostsFile {known_hosts}\n  StrictHostKeyChecking yes\n"
    )
    return file


def main() -> None:
    """Run the command line; errors that the user can fix are shown without a traceback."""
    try:
        app()
    except (StackError, PairError, HostError, LabError, SDKException) as error:
        console.print(Text.assemble(("Error: ", "red"), str(error)))
        sys.exit(1)


if __name__ == "__main__":
    main()
