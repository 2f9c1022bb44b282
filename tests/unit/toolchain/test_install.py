"""toolchain/install, with stand-ins for everything that it would download, build or run."""

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.waiting import wait_until

INSTALL = Path(__file__).parents[3] / "toolchain/install"

# A CLI that prints its version and installs plugins into its home.
CLI = """#!/bin/bash
case "$1 $2" in
"version ") echo v{version} ;;
"plugin install")
    folder=${{PULUMI_HOME:-$HOME/.pulumi}}/plugins/resource-$4-v$5
    mkdir -p "$folder"
    install -m 755 /dev/null "$folder/pulumi-resource-$4" ;;
esac
"""

# A curl that downloads a vendor's installer. The installer records its arguments.
CURL_THAT_DOWNLOADS = """#!/bin/bash
while (($#)); do
    if [[ $1 == --output ]]; then
        cat >"$2" 2>/dev/null <<'INSTALLER'
echo "$@" >"$HOME/asked"
while [ $# -gt 0 ]; do
    [ "$1" = --install-root ] && { mkdir -p "$2/bin"; cp "$HOME/vendor-cli" "$2/bin/pulumi"; }
    shift
done
INSTALLER
    fi
    shift
done
"""

CURL_THAT_FAILS = "#!/bin/bash\necho 'curl: (6) Could not resolve host' >&2\nexit 6\n"

# A Go that builds at once, or when a file in $HOME is gone, or badly because of another one, and records what it built.
GO = """#!/bin/bash
case $1 in
env) echo go1.99.0 ;;
list) echo "$HOME/sdk" ;;
build)
    while [[ -e $HOME/build-waits ]]; do /bin/sleep 0.05; done
    [[ -e $HOME/build-fails ]] && { echo "undefined: nonsense" >&2; exit 1; }
    while (($#)); do [[ $1 == -o ]] && output=$2; shift; done
    echo "${output##*/}" >>"$HOME/built"
    cp "$HOME/vendor-cli" "$output" ;;
esac
"""

PARTS = ["pulumi", "pulumi-language-python", "pulumi-resource-command", "pulumi-resource-openstack"]


@dataclass
class Machine:
    """A home and a PATH with only what a test puts there."""

    home: Path

    def put(self, name: str, content: str) -> None:
        """Put a program on PATH."""
        program = self.home / "bin" / name
        program.write_text(content)
        program.chmod(0o755)

    @property
    def environment(self) -> Mapping[str, str]:
        return {"HOME": str(self.home), "PATH": f"{self.home}/bin:/usr/bin:/bin", "LC_ALL": "C"}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [INSTALL, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def install(self) -> tuple[str, str]:
        """Run it. Returns what to prepend to PATH, and the messages."""
        process = self.start("--print-bin-dir")
        out, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        return out.strip(), said

    def built(self) -> list[str]:
        note = self.home / "built"
        return sorted(note.read_text().split()) if note.exists() else []

    def wait_until_building(self) -> None:
        """Until a run builds the first part."""
        log = ".cache/openstack-ha-api/.toolchain.*/phase.log"
        wait_until("it builds", lambda: bool(list(self.home.glob(log))))

    def leftovers(self) -> list[Path]:
        return list((self.home / ".cache/openstack-ha-api").glob(".toolchain.*"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with Go, from which the vendor's site is unreachable."""
    machine = Machine(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "vendor-cli").write_text(CLI.format(version="3.259.0"))
    (tmp_path / "vendor-cli").chmod(0o755)
    script = tmp_path / "sdk/python/cmd/pulumi-language-python-exec"
    script.parent.mkdir(parents=True)
    script.touch()
    machine.put("go", GO)
    machine.put("curl", CURL_THAT_FAILS)
    # Between two looks at whether a build has ended.
    machine.put("sleep", "#!/bin/sh\nexec /bin/sleep 0.02\n")
    return machine


@pytest.mark.parametrize("version", ["3.259.0", "3.300.1"])
def test_a_cli_on_path_of_a_fitting_version_is_used_with_its_plugins(machine: Machine, version: str) -> None:
    machine.put("pulumi", CLI.format(version=version))
    for plugin in ("openstack 5.5.3", "command 1.2.1"):
        subprocess.run(
            [machine.home / "bin/pulumi", "plugin", "install", "resource", *plugin.split()],
            env=machine.environment,
            check=True,
        )
    assert machine.install() == (f"{machine.home}/bin", "")
    assert machine.built() == []


def test_a_cli_on_path_downloads_missing_plugins(machine: Machine) -> None:
    machine.put("pulumi", CLI.format(version="3.259.0"))
    machine.put("curl", CURL_THAT_DOWNLOADS)
    assert machine.install()[0] == f"{machine.home}/bin"
    assert machine.built() == []
    assert machine.install() == (f"{machine.home}/bin", "")


def test_a_cli_that_cannot_download_plugins_gets_those_built_here_with_a_message(machine: Machine) -> None:
    machine.put("pulumi", CLI.format(version="3.259.0"))
    front, said = machine.install()
    plugins, cli = front.split(":")
    assert cli == f"{machine.home}/bin"
    assert (Path(plugins) / "pulumi-resource-openstack").exists()
    assert machine.built() == PARTS[2:]
    assert "plugins cannot be downloaded" in said
    assert len(machine.install()[1].splitlines()) == 1


def test_plugins_are_built_here_if_only_their_download_fails(machine: Machine) -> None:
    refuses = "echo 'error: 403 HTTP error fetching plugin' >&2; exit 1"
    machine.put("pulumi", CLI.format(version="3.259.0").replace('"plugin install")', f'"plugin install") {refuses}'))
    machine.put("curl", CURL_THAT_DOWNLOADS)
    front, said = machine.install()
    assert (Path(front.split(":")[0]) / "pulumi-resource-openstack").exists()
    assert machine.built() == PARTS[2:]
    assert "403 HTTP error fetching plugin" in said


@pytest.mark.parametrize("version", ["3.258.9", "2.300.0", "4.0.0"])
def test_a_cli_of_another_version_is_named_and_the_vendors_is_installed(machine: Machine, version: str) -> None:
    machine.put("pulumi", CLI.format(version=version))
    machine.put("curl", CURL_THAT_DOWNLOADS)
    front, said = machine.install()
    assert f"its version is {version}" in said
    assert front == f"{machine.home}/.cache/openstack-ha-api/pulumi-3.259.0/bin"
    assert (machine.home / "asked").read_text().startswith("--version 3.259.0 --install-root ")
    assert machine.built() == []


def test_everything_is_built_once_if_the_vendors_site_is_unreachable(machine: Machine) -> None:
    front, said = machine.install()
    assert "the vendor's site is unreachable" in said
    assert machine.built() == PARTS
    home = Path(front).parent / "home"
    assert (home / "plugins/resource-openstack-v5.5.3/pulumi-resource-openstack").exists()
    assert (home / "plugins/resource-command-v1.2.1/pulumi-resource-command").exists()
    machine.put("curl", '#!/bin/bash\ntouch "$HOME/asked"\nexit 6\n')
    assert machine.install() == (front, "")
    assert not (machine.home / "asked").exists(), "it takes 5 s to give up"
    assert machine.built() == PARTS


def test_the_built_cli_uses_the_users_own_login(machine: Machine) -> None:
    front, _ = machine.install()
    shows = '#!/bin/bash\necho "$PULUMI_HOME $PULUMI_CREDENTIALS_PATH"\n'
    (Path(front).parent / "libexec/pulumi").write_text(shows)
    shown = subprocess.run([f"{front}/pulumi"], env=machine.environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [f"{Path(front).parent}/home", f"{machine.home}/.pulumi"]


def test_two_concurrent_runs_build_once(machine: Machine) -> None:
    (machine.home / "build-waits").touch()
    first = machine.start()
    machine.wait_until_building()
    second = machine.start()
    assert second.stderr
    assert "waiting for another run" in second.stderr.readline()
    (machine.home / "build-waits").unlink()
    for run in (first, second):
        run.communicate(timeout=60)
        assert run.returncode == 0
    assert machine.built() == PARTS


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_can_be_repeated(machine: Machine, end: signal.Signals) -> None:
    (machine.home / "build-waits").touch()
    run = machine.start()
    machine.wait_until_building()
    os.killpg(run.pid, end)
    run.communicate(timeout=20)
    assert run.returncode != 0
    if end != signal.SIGKILL:
        assert machine.leftovers() == []
    (machine.home / "build-waits").unlink()
    machine.install()
    assert machine.leftovers() == []


def test_a_failed_build_shows_the_reason_and_the_next_run_continues(machine: Machine) -> None:
    (machine.home / "build-fails").touch()
    run = machine.start("--print-bin-dir")
    out, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert out == ""
    assert "undefined: nonsense" in said
    assert "Pulumi CLI 3.259.0 failed after" in said
    (machine.home / "build-fails").unlink()
    machine.install()


def test_clean_deletes_everything(machine: Machine) -> None:
    machine.install()
    subprocess.run([INSTALL.parent / "clean"], env=machine.environment, check=True)
    cache = machine.home / ".cache/openstack-ha-api"
    assert [entry.name for entry in cache.iterdir()] == ["toolchain.lock"]
