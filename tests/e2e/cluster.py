"""A stack with a cluster, and what the end-to-end tests ask of it."""

import subprocess
import time
from itertools import pairwise
from pathlib import Path

from dev.cluster_faults import wait_until_whole
from dev.lab_stack import kubectl_path
from tests.e2e.harness import System


class Cluster:
    """The stack with the cluster, and the kubectl of its administrator."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.kubeconfig = system.stack.kubeconfig()

    def command(self, *arguments: str) -> list[str | Path]:
        """kubectl's command line."""
        return [kubectl_path(), "--kubeconfig", self.kubeconfig, *arguments]

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What kubectl prints; it must succeed."""
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def nodes(self) -> dict[str, tuple[str, str, str]]:
        """By name: status, role and version."""
        rows = [line.split() for line in self.kubectl("get", "nodes", "--no-headers").splitlines()]
        return {name: (status, role, version) for name, status, role, _, version in rows}

    def members(self) -> set[str]:
        """The names of etcd's members, all of which are well."""
        return {it.name for it in wait_until_whole(self.system.applied()).members}

    def longest_gap_in_a_pod(self, since: float) -> float:
        """For how long (seconds) the pod on one worker has had no answer from the Service, since a time (Unix)."""
        lines = [line.split() for line in self.kubectl("logs", "client").splitlines()]
        answered = [float(at) for at, what in lines if what == "answered" and float(at) > since]
        return max(later - earlier for earlier, later in pairwise([since, *answered, time.time()]))
