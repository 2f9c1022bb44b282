"""The end-to-end tests' stories, and `python -m tests.e2e.stories [--extended]`, which runs them all.

A story is a list of modules that share a stack or instances and run one after the other. Two stories run beside each
other, and a test that measures an interruption has the lab to itself meanwhile. When a story destroys its stack, which
is mostly waiting, the next one begins.

Tests marked `extended` run only with --extended, to keep `make test` short: they take long, and a quicker test
or a cheaper tier shows most of the same.
"""

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import typer

from dev.lab.progress import console
from dev.lab_stack import Stack, cluster_config

STORIES = {
    "restart": ("test_lab_restart",),
    "cluster": ("test_cluster_on_bare_hosts", "test_cluster_on_debian_13", "test_cluster"),
    "lab": ("test_cloud", "test_networks", "test_containers"),
    "bastion": ("test_bastion",),
    "takeover": ("test_takeover",),
    "pair": ("test_system", "test_faults", "test_maintenance", "test_end"),
    "watched": ("test_monitoring", "test_support", "test_interruptions", "test_tenant_network", "test_guard_rails"),
    "preflight": ("test_preflight",),
}
"""In the order in which they begin. The first one stops the lab: it runs alone, and with --extended only. While a
cluster is created, requests are late, so what begins beside it allows that. Before the last one come those that take
longest, so that these end at about the same time."""
TOGETHER = 2
"""With three, the lab's two processors are so busy that requests are late where none may fail."""


class Story:
    """A process of pytest; each of its lines is shown with the time and the story's name."""

    def __init__(self, name: str, began: float, *, extended: bool) -> None:
        self.name = name
        self._extended = extended
        self._began = began
        self.status = 1
        self.seconds = 0.0
        self.destroying = Event()
        """Set when it destroys its stack, and at the latest when it ends."""
        self.summary: list[str] = []

    def run(self) -> None:
        """Run it to its end; `summary` is what pytest prints last: what failed, and how long each test took."""
        started = time.monotonic()
        files = [f"tests/e2e/{module}.py" for module in STORIES[self.name]]
        options = ["-s", "-v", "--durations=0", "--durations-min=1"]
        if not self._extended:
            options += ["-m", "not extended"]
        command = [sys.executable, "-u", "-m", "pytest", *options, *files]
        try:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
                assert process.stdout
                for line in process.stdout:
                    if "::test_destroy_leaves_nothing" in line:
                        self.destroying.set()
                    show(f"{time.monotonic() - self._began:5.0f} s {self.name:>9} | {line.rstrip()}")
                    if self.summary or re.match(r"=+ (ERRORS|FAILURES|warnings summary|slowest durations)", line):
                        self.summary.append(line.rstrip())
        finally:
            self.destroying.set()
        self.status = process.returncode
        self.seconds = time.monotonic() - started

    def __str__(self) -> str:
        return f"{self.name}: {'FAILED' if self.status else 'passed'} after {self.seconds:.0f} s"


def show(text: str) -> None:
    """Print a text as it is."""
    console.print(text, markup=False)


def main(*, extended: bool = False) -> None:
    """Run all stories; what failed and how long each took comes last. Ends with status 1 if a test failed."""
    began = time.monotonic()
    show("deleting the demo's cluster, if there is one: it would slow down the tests; `make demo` builds it again")
    Stack().destroy(cluster_config(), refresh=True)
    restart, *others = [Story(name, began, extended=extended) for name in STORIES]
    if extended:
        restart.run()
    with ThreadPoolExecutor(len(others)) as running, ThreadPoolExecutor(TOGETHER) as places:

        def begin(story: Story) -> None:
            running.submit(story.run)
            story.destroying.wait()

        list(places.map(begin, others))
    stories = [restart, *others] if extended else others
    for story in stories:
        show(f"\n---- {story}\n" + "\n".join(story.summary))
    show("\n" + "\n".join(map(str, stories)))
    show(f"all: {time.monotonic() - began:.0f} s")
    sys.exit(any(story.status for story in stories))


if __name__ == "__main__":
    typer.run(main)
