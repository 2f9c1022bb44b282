"""`python -m dev.lab`: the commands that start, stop, show and delete the lab."""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dev.lab import configuration, foreign_image, host_network, image, kvm, packages, rootfs
from dev.lab.apt import HostApt
from dev.lab.certificate import RegistryCertificate
from dev.lab.cloud import IMAGE, Cloud, answers, api_urls, wait_for, write_clouds_yaml
from dev.lab.configuration import ConfiguredFile, Passwords
from dev.lab.container import Container
from dev.lab.errors import LabError
from dev.lab.kubernetes import mirror, repository
from dev.lab.progress import console, phase
from dev.lab.settings import LabSettings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A real OpenStack on this machine (docs/lab.md).",
)
_LOOK = "`python -m dev.lab status` shows what runs; logs are in {log}."


@app.command()
def up() -> None:
    """Start the lab, after building what is missing. Continues where an interrupted run stopped."""
    settings = _settings()
    with _locked(settings):
        packages.ensure()
        apt = HostApt.read()
        host_network.assert_free(settings, apt.addresses())
        _assert_same_kind(settings)
        # Side by side: compiling uses every processor, but installing packages uses one and waits for the network.
        with ThreadPoolExecutor() as pool:
            building = pool.submit(mirror.ensure, settings, apt)
            base = rootfs.ensure(settings, apt)
            guest = image.ensure(IMAGE, settings, apt)
            kubernetes = building.result()
        passwords = Passwords.load(settings.state)
        certificate = RegistryCertificate.load(settings)
        files = configuration.render(settings, passwords, certificate)
        container = Container(settings)
        wanted = configuration.digest(files, base.name, kubernetes.name)
        if container.pid() is not None and wanted != _configured(settings):
            console.print("The lab's configuration has changed since it started: restarting it.")
            _stop(settings, container)
        if container.pid() is None:
            if settings.virt_type == "kvm":
                kvm.assert_usable(base, guest)
            _start(settings, base, kubernetes, files, wanted)
        host_network.configure(settings)
        write_clouds_yaml(settings, passwords)
        settings.registry_authority.write_text(certificate.authority)
        shutil.copyfile(repository.key_in(kubernetes / "apt"), settings.packages_key)
        _complete(settings, container, passwords, guest, apt)
    console.print(f"[bold]The lab is up.[/] To use it:\n{_exports(settings)}")


@app.command()
def down() -> None:
    """Stop the lab and remove its links and rules from this host. Keeps instances and data for the next `up`."""
    settings = _settings()
    with _locked(settings), phase("stopping the lab", expected=15):
        _stop(settings, Container(settings))


@app.command()
def purge() -> None:
    """Stop the lab and delete its data: databases, instances, images, passwords. The cache of builds stays."""
    settings = _settings()
    with _locked(settings), phase("deleting the lab", expected=15):
        _stop(settings, Container(settings))
        shutil.rmtree(settings.state)


@app.command()
def status() -> None:
    """Show whether the lab runs, its APIs, agents and instances, and how to use it."""
    settings = _settings()
    container = Container(settings)
    uptime = container.uptime()
    if uptime is None:
        kept = "it has data" if settings.clouds_yaml.exists() else "it has no data"
        console.print(f"The lab is not running ({kept}). Start it with `make lab-up`.")
        return
    table = Table(show_header=False, box=None)
    table.add_row("running for", str(timedelta(seconds=round(uptime))))
    table.add_row("instances are", str(settings.virt_type))
    table.add_row("memory of the services", f"{container.memory() / 2**30:.2f} GiB")
    for kind, url in api_urls(settings).items():
        table.add_row(f"{kind} API", f"{url} {'answers' if answers(url) else '[red]does not answer[/]'}")
    source = f"{settings.packages_url}/{repository.PATH}/"
    state = "answers" if answers(f"{source}InRelease") else "[red]does not answer[/]"
    table.add_row("Kubernetes' packages", f"{source} {state}, key in {settings.packages_key}")
    table.add_row(
        "Kubernetes' images", f"{settings.registry_url}, certificate authority in {settings.registry_authority}"
    )
    if settings.clouds_yaml.exists() and answers(settings.auth_url):
        cloud = Cloud(settings)
        for name, alive in sorted(cloud.agents().items()):
            table.add_row(name, "alive" if alive else "[red]not alive[/]")
        for server in cloud.instances():
            addresses = ", ".join(port["addr"] for ports in server.addresses.values() for port in ports)
            table.add_row(f"instance {server.name}", f"{server.status} {addresses}")
    console.print(table)
    console.print(f"To use it:\n{_exports(settings)}")


@app.command()
def add_image(
    name: Annotated[str, typer.Argument(help="the image's name in the cloud")],
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a cloud image, qcow2 or raw")],
) -> None:
    """Upload a downloaded cloud image, adapted so that the lab's kind of instance boots it."""
    settings = _settings()
    with _locked(settings):
        _assert_up(settings)
        base = rootfs.ensure(settings, HostApt.read())
        foreign_image.add(Cloud(settings), settings, base, name, file)


@app.command()
def add_debian_13() -> None:
    """Build and upload the image `debian-13`, made like `debian-12`. Does nothing if the lab has it already."""
    settings = _settings()
    with _locked(settings):
        _assert_up(settings)
        name = "debian-13"
        folder = image.ensure(name, settings, HostApt.read())
        with phase(f"adding the image {name}", expected=5):
            Cloud(settings).seed_image(name, folder)


@app.command()
def build_kubernetes() -> None:
    """Build Kubernetes' packages and images, which `up` does as well. Does nothing if they are there."""
    settings = _settings()
    packages.ensure()
    console.print(f"Kubernetes is in {mirror.ensure(settings, HostApt.read())}")


@app.command()
def clean_cache() -> None:
    """Delete what was built: the cloud's root file system, the guest images, Kubernetes and its signing key."""
    settings = _settings()
    with _locked(settings):
        if Container(settings).pid() is not None:
            raise LabError("The running lab uses the cache: stop it first, with `make lab-down`.")
        shutil.rmtree(settings.cache, ignore_errors=True)


def _settings() -> LabSettings:
    if os.geteuid() != 0:
        raise LabError("The lab creates network links and mounts: run it as root.")
    return LabSettings.from_environ()


def _assert_up(settings: LabSettings) -> None:
    if not answers(settings.auth_url):
        raise LabError("The lab is not running: start it with `make lab-up`.")


@contextmanager
def _locked(settings: LabSettings) -> Generator[None]:
    """Lets one command at a time change the lab. The lock ends with the process, even if it is killed."""
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (settings.state.parent / "lab.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("Another command is changing the lab: waiting for it to finish.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _kind(settings: LabSettings) -> dict[str, str]:
    """The settings that databases and instances depend on, and that therefore cannot change."""
    return {
        "LAB_VIRT": settings.virt_type,
        "LAB_API_CIDR": str(settings.api_network),
        "LAB_INSTANCE_CIDR": str(settings.instance_network),
        "LAB_TENANT_CIDR": str(settings.tenant_network),
    }


def _assert_same_kind(settings: LabSettings) -> None:
    path = settings.state / "kind.json"
    if path.exists() and (kept := json.loads(path.read_text())) != _kind(settings):
        was = " ".join(f"{name}={value}" for name, value in kept.items())
        raise LabError(
            f"The lab on this machine was created with {was}. Keep these, or delete it with `make lab-purge`."
        )


def _configured(settings: LabSettings) -> str | None:
    path = settings.state / "configured"
    return path.read_text() if path.exists() else None


def _start(settings: LabSettings, base: Path, kubernetes: Path, files: list[ConfiguredFile], digest: str) -> None:
    container = Container(settings)
    # Remove what a killed lab or a reboot of the machine left behind.
    _stop(settings, container)
    with phase("booting the container", expected=2):
        upper = settings.state / "upper"
        upper.mkdir(exist_ok=True)
        configuration.install(files, upper, base)
        (settings.state / "kind.json").write_text(json.dumps(_kind(settings)))
        (settings.state / "configured").write_text(digest)
        container.start(base, kubernetes)


def _stop(settings: LabSettings, container: Container) -> None:
    if host_network.owner() in (None, settings.state):  # otherwise the links are another lab's
        container.stop()
        host_network.remove(settings)


def _complete(settings: LabSettings, container: Container, passwords: Passwords, guest: Path, apt: HostApt) -> None:
    """Turns a booted container into a cloud that boots instances. Skips what an earlier run has done."""
    marks = settings.state / "upper/var/lib/lab"
    hint = _LOOK.format(log=settings.state / "upper/var/log")
    first = not (marks / "identity-seeded").exists()
    # In a container that was already running, this starts services that failed.
    container.run("systemctl", "start", "--no-block", "multi-user.target", check=False)
    with phase("waiting for Keystone", expected=35 if first else 15):
        wait_for(lambda: answers(settings.auth_url), 300, "Keystone did not answer", hint)
    if first:
        with phase("users, projects and endpoints", expected=8):
            Cloud(settings).seed_identity(passwords)
            container.run("touch", "/var/lib/lab/identity-seeded")

    def wait_for_api(kind: str) -> None:
        url = api_urls(settings)[kind]
        wait_for(lambda: answers(url), 300, f"The {kind} API did not answer", hint)

    # Glance is there before Nova is.
    with phase("image", expected=10 if first else 2):
        wait_for_api("image")
        Cloud(settings).seed_image(IMAGE, guest)
    with phase("waiting for the other APIs", expected=15 if first else 10):
        for kind in api_urls(settings):
            wait_for_api(kind)
    cloud = Cloud(settings)  # not earlier: a client keeps the catalog of its login
    with phase("flavors and networks", expected=8 if first else 2):
        cloud.seed_resources(apt)
    with phase("waiting for the hypervisor and the agents", expected=30):
        wait_for(lambda: cloud.agents().get("nova-compute", False), 300, "nova-compute did not come up", hint)
        if not (marks / "host-mapped").exists():
            container.run("runuser", "-u", "nova", "--", "nova-manage", "cell_v2", "discover_hosts")
            container.run("touch", "/var/lib/lab/host-mapped")
        wait_for(cloud.can_boot_instances, 300, "The cloud could not boot instances", hint)


def _exports(settings: LabSettings) -> str:
    return f"export OS_CLIENT_CONFIG_FILE={settings.clouds_yaml} OS_CLOUD=lab"


def main() -> None:
    """Runs the command line; an error that the user can fix is shown without a traceback."""
    try:
        app()
    except LabError as error:
        console.print(f"[red]Error:[/] {escape(str(error))}")
        sys.exit(1)


if __name__ == "__main__":
    main()
