"""The stack that the demo and the end-to-end tests build on the lab, driven through Pulumi's Automation API.

State and passphrase are kept in the user's state folder. The configuration is written to `Pulumi.<stack>.yaml` in the
project, where a plain `pulumi` finds it too; git ignores it for stacks whose names begin with `lab`.
"""

import functools
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from pulumi import automation
from pulumi.automation.events import DiagnosticEvent, EngineEvent, ResourcePreEvent

from dev.lab.files import create_private, write_private
from dev.lab.kubernetes import programs, repository, versions
from dev.lab.progress import console
from dev.lab.settings import LabSettings
from model.settings import SECRET_KEYS
from operate.hosts.ssh import Access
from operate.stack.applied import Outputs
from operate.stack.engine import StackError
from operate.stack.files import ROOT

PROJECT = "openstack-ha-api"
CLOUD = "lab"
USER = "debian"
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One resource that an operation creates, updates, deletes or replaces (`op`, as the engine names it)."""

    op: str
    type: str
    name: str


@dataclass(frozen=True, kw_only=True)
class SshKey:
    """A key pair for the instances, in OpenSSH's formats."""

    private_file: Path
    public: str

    @property
    def private(self) -> str:
        """The private key; a secret."""
        return self.private_file.read_text()


def state_folder() -> Path:
    """The project's folder in the user's state folder; made, and readable by the user alone."""
    folder = LabSettings.from_environ().state.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def ssh_key() -> SshKey:
    """The demo's key pair, created once."""
    file = state_folder() / "id_ed25519"
    if not file.exists():
        new = Ed25519PrivateKey.generate()
        create_private(file, new.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode())
    key = load_ssh_private_key(file.read_bytes(), password=None)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return SshKey(private_file=file, public=public)


@functools.cache
def pulumi_path() -> str:
    """What to put before PATH to find Pulumi, which is installed or built first where it is missing.

    Raises StackError where neither works.
    """
    command = [ROOT / "toolchain" / "install", "--print-bin-dir"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise StackError(f"Pulumi is unavailable: toolchain/install ended with status {result.returncode} (see above)")
    return result.stdout.strip()


def environment() -> dict[str, str]:
    """What a plain `pulumi` needs in its environment to work on these stacks."""
    state = state_folder()
    backend = state / "pulumi"
    backend.mkdir(mode=0o700, exist_ok=True)
    passphrase = state / "pulumi-passphrase"
    if not passphrase.exists():
        create_private(passphrase, secrets.token_urlsafe())
    # The language host takes the first python on PATH, which has to be the one with the program's packages.
    path = [str(ROOT / ".venv" / "bin"), pulumi_path(), os.environ.get("PATH", os.defpath)]
    return {
        "PATH": os.pathsep.join(path),
        "PULUMI_BACKEND_URL": f"file://{backend}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "OS_CLIENT_CONFIG_FILE": str(LabSettings.from_environ().clouds_yaml),
        "OS_CLOUD": CLOUD,
    }


def lab_config() -> dict[str, object]:
    """The program's configuration on the lab, but for the secret key."""
    host = f"{LabSettings.from_environ().instance_gateway}/32"
    config: dict[str, object] = {
        "network": "provider",
        "subnet": "provider-v4",
        "adminCidrs": [host],
        "apiAllowedCidrs": [host],
        "publicKey": ssh_key().public,
        # Bare hosts: stand-ins take the place of API servers.
        "kubernetesVersion": "",
    }
    for role in ("loadBalancer", "controlPlane", "worker"):
        config |= {f"{role}Flavor": "lab.small", f"{role}Image": "debian-12"}
    return config


def cluster_config() -> dict[str, object]:
    """What turns the bare hosts into a cluster: its packages and images come from the lab, as on a site of its own."""
    lab = LabSettings.from_environ()
    return {
        "controlPlaneFlavor": "lab.large",
        "workerFlavor": "lab.medium",
        "kubernetesVersion": versions.MINOR,
        "kubernetesRepository": f"{lab.packages_url}/{repository.PATH}",
        "kubernetesRepositoryKey": lab.packages_key.read_text(),
        "registryMirror": lab.registry_url,
        "registryMirrorCa": lab.registry_authority.read_text(),
    }


def kubectl_path() -> Path:
    """The kubectl that the lab has built."""
    return programs.ensure(LabSettings.from_environ())["kubernetes"] / "kubectl"


class Stack:
    """A stack of the program on the lab. The lab must be up.

    `name` begins with `lab`, for the sake of the file with its configuration; `config` adds to `lab_config`, or
    overrides it. Every method raises StackError with the engine's own errors and the file with its whole output.
    """

    def __init__(self, name: str = "lab", config: Mapping[str, object] | None = None) -> None:
        if not name.startswith("lab"):
            raise ValueError(f"the stack's name must begin with 'lab', not {name!r}: git would see its configuration")
        self.name = name
        self._config = config or {}
        self._log = state_folder() / "log" / f"pulumi-{name}.log"
        self._log.parent.mkdir(exist_ok=True)
        self._environment = environment()
        # Automation looks for the CLI on this process's PATH, whatever environment it gets later.
        os.environ["PATH"] = self._environment["PATH"]
        options = automation.LocalWorkspaceOptions(env_vars=self._environment)
        try:
            self._stack = automation.create_or_select_stack(name, work_dir=str(ROOT), opts=options)
        except automation.CommandError as error:
            raise StackError(f"Pulumi has no stack {name}, and cannot make it:\n{error}") from error

    def up(self, config: Mapping[str, object] | None = None, *, refresh: bool = False) -> Sequence[Change]:
        """Bring the stack up, with `config` on top of the stack's own; returns what was changed.

        With `refresh` the cloud is asked first what is there still: after a purge of the lab, nothing is.
        """
        self.configure(config or {})
        return self._operate("up", functools.partial(self._stack.up, refresh=refresh))

    def preview(
        self, config: Mapping[str, object] | None = None, *, expect_no_changes: bool = False
    ) -> Sequence[Change]:
        """What `up` would change; StackError if that is something and `expect_no_changes`."""
        self.configure(config or {})
        preview = functools.partial(self._stack.preview, expect_no_changes=expect_no_changes)
        return self._operate("preview", preview)

    def destroy(self, config: Mapping[str, object] | None = None, *, refresh: bool = False) -> Sequence[Change]:
        """Delete all that the stack made in the cloud; returns what was deleted. The stack itself remains, empty.

        `config` is what it was brought up with, on top of the stack's own: a cluster's program takes part in its end.
        With `refresh` the cloud is asked first what is there still: after a purge of the lab, nothing is.
        """

        def destroy(**options: Any) -> None:
            resources: list[Mapping[str, Any]] = (self._stack.export_stack().deployment or {}).get("resources") or []
            # Hooks are part of the program, which protects the VIP, and Automation has no --ignore-protect.
            if any("BeforeDelete" in it.get("resourceHooks", {}) for it in resources):
                self.configure(config or {})
                self._stack.destroy(run_program=True, exclude_protected=True, refresh=refresh, **options)
            # The VIP's port is protected, so a plain destroy refuses; this one is intended.
            unprotect = ["state", "unprotect", "--all", "--yes", "--stack", self.name]
            self._stack.workspace.pulumi_command.run(unprotect, cwd=str(ROOT), additional_env=self._environment)
            self._stack.destroy(refresh=refresh, **options)

        return self._operate("destroy", destroy)

    def cancel(self) -> None:
        """Take away the lock of an operation that was killed."""
        self._stack.cancel()

    def outputs(self) -> Outputs:
        """The outputs of the last `up`."""
        return Outputs.parse({name: output.value for name, output in self._stack.outputs().items()})

    def kubeconfig(self) -> Path:
        """A file with the administrator's kubeconfig, readable by the user alone; StackError without a cluster."""
        outputs = self._stack.outputs()
        if "kubeconfig" not in outputs:
            raise StackError(f"the stack {self.name} has no cluster: bring it up first")
        file = state_folder() / f"kubeconfig-{self.name}"
        write_private(file, str(outputs["kubeconfig"].value))
        return file

    def access(self) -> Access:
        """How the stack's hosts are logged in to."""
        return Access(user=USER, private_key=ssh_key().private, known_hosts=self.outputs().known_hosts)

    def configure(self, config: Mapping[str, object]) -> None:
        """Write the stack's file, with `config` on top of the stack's own."""
        try:
            settings = self._stack.workspace.stack_settings(self.name)
        except FileNotFoundError:  # a new clone, with the state of another
            settings = automation.StackSettings()
        values = self._values(config) | {"sshPrivateKey": ssh_key().private}
        settings.config = {f"{PROJECT}:{key}": value for key, value in values.items() if key not in SECRET_KEYS}
        self._stack.workspace.save_stack_settings(self.name, settings)
        # Automation would pass secrets as arguments, which every user of this machine can see.
        for key in SECRET_KEYS & values.keys():
            done = subprocess.run(
                ["pulumi", "config", "set", "--stack", self.name, "--secret", key],
                cwd=ROOT,
                env=os.environ | self._environment,
                input=str(values[key]),
                text=True,
                capture_output=True,
                check=False,
            )
            if done.returncode:
                raise StackError(f"pulumi cannot encrypt {key} for the stack {self.name}:\n{done.stderr.strip()}")

    def _values(self, config: Mapping[str, object] | None) -> dict[str, object]:
        return lab_config() | dict(self._config) | dict(config or {})

    def _operate(self, title: str, operation: Callable[..., Any]) -> Sequence[Change]:
        """Run an operation of the engine; a second time if a dead process's lock was in its way."""
        changes: list[Change] = []
        errors: list[str] = []
        began = time.monotonic()

        def on_event(event: EngineEvent) -> None:
            if event.resource_pre_event:
                change = change_of(event.resource_pre_event)
                if change:
                    changes.append(change)
                    console.print(
                        f"  {time.monotonic() - began:4.0f} s  {change.op} {change.name} [dim]{change.type}[/]"
                    )
            elif event.diagnostic_event:
                message = error_of(event.diagnostic_event)
                if message:
                    errors.append(message)

        def on_output(line: str) -> None:
            with self._log.open("a") as log:
                print(line, file=log)

        on_output(f"=== {time.strftime('%Y-%m-%dT%H:%M:%S%z')} {title} {self.name}")
        run = functools.partial(operation, on_event=on_event, on_output=on_output, on_error=on_output, color="never")
        try:
            try:
                _run_to_its_end(run)
            except automation.ConcurrentUpdateError:
                self._take_lock_from_the_dead()
                _run_to_its_end(run)
        except automation.CommandError as error:
            reason = "\n".join(dict.fromkeys(errors)) or str(error)
            raise StackError(f"pulumi {title} failed:\n{reason}\nIts whole output: {self._log}") from error
        return changes

    def _take_lock_from_the_dead(self) -> None:
        """Remove the locks of processes that are gone; StackError if one is not, or is of another machine."""
        backend = Path(self._environment["PULUMI_BACKEND_URL"].removeprefix("file://"))
        for file in (backend / ".pulumi" / "locks").rglob(f"{self.name}/*.json"):
            lock = json.loads(file.read_text())
            if is_of_a_dead_process(lock):
                continue
            raise StackError(
                f"the stack {self.name} is being worked on by process {lock['pid']} of {lock['username']} on "
                f"{lock['hostname']}: wait for it to end; if it has ended, remove {file}"
            )
        console.print("  an operation before was killed: taking its lock away")
        self.cancel()


def is_of_a_dead_process(lock: Mapping[str, Any]) -> bool:
    """Whether no Pulumi runs any more that could have made a lock (its file's content)."""
    try:
        runs = Path("/proc", str(lock["pid"]), "comm").read_text().strip() == "pulumi"
    except OSError:  # it has ended
        runs = False
    return lock["hostname"] == os.uname().nodename and not runs  # of another machine's processes nothing is known here


def _run_to_its_end(operation: Callable[[], object]) -> None:
    """Run an operation of the engine; on Ctrl-C wait until it has noted what it began, or the cloud keeps orphans."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        running = executor.submit(operation)
        try:
            running.result()
        except KeyboardInterrupt:
            # The terminal has interrupted Pulumi too.
            console.print("  interrupted: Pulumi ends what it had begun; another Ctrl-C loses track of it")
            running.exception()
            raise


def change_of(event: ResourcePreEvent) -> Change | None:
    """What a step of the engine changes; None when that is nothing."""
    step = event.metadata
    if step.op in ("same", "read", "refresh"):
        return None
    return Change(op=str(step.op.value), type=step.type, name=step.urn.rpartition("::")[2])


def error_of(event: DiagnosticEvent) -> str | None:
    """The error in an engine event; None if the event has none, or only repeats another event's error."""
    # The bridge to Terraform's provider logs each error that the engine then reports. At the end the engine reports
    # that the run failed.
    repeated = event.message.startswith("sdk-v2/") or event.message.strip() == "update failed"
    if event.severity != "error" or repeated or "program exited with non-zero exit code" in event.message:
        return None
    return event.message.strip()
