"""`python -m dev.demo`: from nothing to a highly available Kubernetes cluster on the lab, and its failures measured.

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

from dev.cluster_faults import ClusterMeasured, leader, measure, table, wait_until_whole
from dev.lab.errors import LabError
from dev.lab.progress import console, phase
from dev.lab_faults import LinkCut
from dev.lab_stack import (
    USER,
    Outputs,
    Stack,
    StackError,
    cluster_config,
    environment,
    kubectl_path,
    pulumi_path,
    ssh_key,
    state_folder,
)
from operate.drill.faults import DrillFault, HAProxyKilled, InstanceStopped
from operate.hosts.cluster import ClusterReport
from operate.hosts.pair import Pair, PairError
from operate.hosts.ssh import HostError
from operate.stack.applied import read_stack
from operate.stack.files import ROOT
from operate.stack.resources import recorded_ids

PYTHON = ".venv/bin/python"
PAIR_FAULTS = (HAProxyKilled, InstanceStopped, LinkCut)
MASTER_FAULTS = (InstanceStopped, LinkCut)
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def demo(context: typer.Context) -> None:
    """Set everything up, stop control-plane hosts and load balancers while a client works, and show how to go on."""
    if context.invoked_subcommand:
        return
    began = time.monotonic()
    _lab_up()
    with phase("Pulumi's CLI and plugins"):
        pulumi_path()
    stack = _stack()
    with phase("pulumi up", expected=300):
        stack.up(refresh=True)
    outputs = stack.outputs()
    os.environ |= environment()
    applied = read_stack(stack.name)
    pair = Pair(outputs, recorded_ids(stack.name), applied.configuration.cloud())
    with phase("every load balancer, node and etcd member is well", expected=5):
        # Undo what a killed run left behind.
        for name in (*outputs.load_balancers, *outputs.control_plane):
            pair.set_port(name, up=True)
            pair.start(name)
        cluster = wait_until_whole(applied)
    measured: list[ClusterMeasured] = []

    def measure_on(host: str, kind: type[DrillFault]) -> None:
        with phase(f"{host}: {kind.title}, while a client reads, writes and watches", expected=40):
            measured.append(measure(applied, stack.kubeconfig(), kind, host))

    for kind in PAIR_FAULTS:
        measure_on(pair.holder(), kind)
    for kind in MASTER_FAULTS:
        measure_on(leader(wait_until_whole(applied)), kind)
    _show(outputs, cluster, measured)
    console.print(f"\n[bold]Done in {time.monotonic() - began:.0f} s.[/]")


@app.command("shell-env")
def shell_env() -> None:
    """Print what a shell has to `eval` to use `pulumi`, `kubectl`, `openstack` and `./ha` on the demo's stack."""
    variables = environment()
    variables["PATH"] = os.pathsep.join([str(kubectl_path().parent), variables["PATH"]])
    variables["KUBECONFIG"] = str(_stack().kubeconfig())
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")  # noqa: T201 for a shell, not for a reader


@app.command()
def down() -> None:
    """Delete everything that the demo created in the cloud; the lab stays up (`make lab-down` stops it)."""
    _lab_up()
    with phase("pulumi destroy", expected=60):
        _stack().destroy()


def _stack() -> Stack:
    return Stack(config=cluster_config())


def _lab_up() -> None:
    # A separate process: it shows its own phases and its own final message.
    result = subprocess.run([sys.executable, "-m", "dev.lab", "up"], cwd=ROOT, check=False)
    if result.returncode:
        raise LabError("The lab did not come up, see above.")


def _show(outputs: Outputs, cluster: ClusterReport, measured: list[ClusterMeasured]) -> None:
    hosts = Table("host", "role", "address", title="What was built", title_justify="left")
    for name, address in outputs.load_balancers.items():
        hosts.add_row(name, "load balancer", address)
    addresses = {**outputs.control_plane, **outputs.workers}
    for node in cluster.nodes:
        state = "Ready" if node.ready else "not Ready"
        hosts.add_row(node.name, f"{node.role}, {node.version}, {state}", addresses[node.name])
    hosts.add_row("the VIP", "", outputs.vip)
    faults = table(measured)
    faults.title = "Longest time without an answer, and failed requests"
    for it in (hosts, faults):
        console.print()
        console.print(it)
    console.print(
        f"""
[bold]How to go on[/]
  the environment for the commands below     eval "$({PYTHON} -m dev.demo shell-env)"
  use the cluster                            kubectl get nodes
  look at it                                 ./ha status --stack lab
  change it                                  pulumi up --stack lab
  log in to a host                           ssh -F {_ssh_config(outputs)} {next(iter(outputs.load_balancers))}
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
