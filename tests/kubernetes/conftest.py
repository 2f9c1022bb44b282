"""What the lab builds of Kubernetes, served on the loopback address by the servers that the lab uses, or nearly so."""

import functools
import http.server
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import pytest

from dev.lab import packages
from dev.lab.apt import HostApt
from dev.lab.kubernetes import mirror, repository
from dev.lab.kubernetes.programs import ensure as build_programs
from dev.lab.settings import LabSettings
from operate.stack.files import ROOT

_REGISTRY = ROOT / "build/docker-registry/usr/bin/docker-registry"
_REGISTRY_CONFIGURATION = ROOT / "dev/lab/cloud/rootfs/etc/docker/registry/config.yml"


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder that the lab serves."""
    packages.ensure()
    return mirror.ensure(LabSettings.from_environ(), HostApt.read())


@pytest.fixture(scope="session")
def programs() -> Mapping[str, Path]:
    """The folders with the programs in its packages and images, by Go module."""
    return build_programs(LabSettings.from_environ())


@pytest.fixture(scope="session")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of all packages."""
    root = tmp_path_factory.mktemp("unpacked")
    for package in (built / "apt" / repository.PATH).glob("*/*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    return root


@pytest.fixture(scope="session")
def package_server(built: Path) -> Iterator[str]:
    """The URL of a server of the packages."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=built / "apt")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def registry(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of Debian's registry, configured as in the lab."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {"REGISTRY_HTTP_ADDR": address, "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(built / "registry")}
    log = tmp_path_factory.mktemp("registry") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [_REGISTRY, "serve", _REGISTRY_CONFIGURATION],
            env={**os.environ, **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 20
        while not _answers(f"http://{address}/v2/"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  (our own server)
        return response.status == HTTPStatus.OK
    return False
