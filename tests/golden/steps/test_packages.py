"""`prepare` and `install`: APT's sources and locks, cloud-init's verdict, and what a failure leaves behind."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from model.rendering import install_script, prepare_script
from model.settings import SECRET_KEYS, Settings
from tests.golden.steps.sandbox import Sandbox
from tests.unit.example import example_values

SOURCES = "etc/apt/sources.list.d"
VENDOR = f"{SOURCES}/haproxy.list"
LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 2262 (apt-get)"


def settings(**changes: str) -> Settings:
    return Settings.parse(example_values(**changes), encrypted=SECRET_KEYS | {"aptProxy"})


def prepare(**changes: str) -> str:
    return prepare_script(settings(**changes), IPv4Address("198.51.100.11"))


@pytest.fixture
def host(tmp_path: Path) -> Sandbox:
    """A Debian host that has nothing installed, and can install everything."""
    host = Sandbox(tmp_path)
    for folder in (SOURCES, "etc/apt/apt.conf.d", "var/log"):
        host.path(folder).mkdir(parents=True)
    host.path("etc/os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    host.put("apt-get", "")
    host.put("dpkg-query", "echo 3.0.11")
    host.put("cloud-init", "")
    # The vendor's key goes to /usr/share, which is the machine's own.
    host.put("curl", "")
    host.put("mv", "")
    return host


# What APT says of each file in its sources that names a branch that does not exist.
READS_SOURCES = f"""
case $* in *update*)
    ! grep -rl backports-2.1 /{SOURCES} || {{ echo "E: The repository does not have a Release file."; exit 100; }}
esac"""


def test_a_list_of_a_branch_that_is_gone_does_not_fail_the_next_update(host: Sandbox):
    host.put("apt-get", READS_SOURCES)
    stale = "deb https://haproxy.debian.net bookworm-backports-2.1 main\n"
    host.path(VENDOR).write_text(stale)
    done = host.run(install_script(settings(haproxyBranch="3.0")))
    assert done.returncode == 0, done.stderr
    assert "bookworm-backports-3.0" in host.path(VENDOR).read_text()


def test_a_branch_that_does_not_exist_leaves_no_list(host: Sandbox):
    host.put("apt-get", READS_SOURCES)
    done = host.run(install_script(settings(haproxyBranch="2.1")))
    assert done.returncode == 1
    assert "check aptMirror, aptProxy, haproxyBranch" in done.stderr
    assert "does not have a Release file" in done.stderr
    assert not host.path(VENDOR).exists()


@pytest.mark.parametrize(
    ("installed", "state", "gives"),
    [("2.6.12", "MASTER 1", True), ("2.6.12", "BACKUP 1", False), ("3.0.10", "MASTER 1", False), ("2.6.12", "", False)],
    ids=["holder", "standby", "holder with that branch", "new host"],
)
def test_a_holder_gives_the_vip_up_before_another_haproxy_restarts(
    host: Sandbox, installed: str, state: str, *, gives: bool
):
    host.put("dpkg-query", f"echo {installed}")
    host.put("systemctl", "")
    host.put("python3", "exit 1")
    if state:
        for path, text in (("run/ha-api/vrrp_state", state), ("usr/local/lib/ha-api/handover.py", "")):
            host.path(path).parent.mkdir(parents=True, exist_ok=True)
            host.path(path).write_text(text + "\n")
    done = host.run(install_script(settings(haproxyBranch="3.0")))
    assert done.returncode == 0, done.stderr
    # Without a peer that can pass connections on, the VIP moves all the same.
    assert ("its connections are cut" in done.stderr) == gives
    steps = [it for it in host.calls if ("keepalived" in it and "systemctl" in it) or "haproxy=3.0.*" in it]
    expected = ["systemctl restart keepalived"] * gives + ["haproxy=3.0.*"] * (not installed.startswith("3.0"))
    assert [
        next(word for word in ("systemctl restart keepalived", "haproxy=3.0.*") if word in it) for it in steps
    ] == expected


@pytest.mark.parametrize(
    "name", ["haproxy.list", "vbernat-ubuntu-haproxy-3_0-jammy.list", "vbernat-ubuntu-haproxy-3_0-noble.sources"]
)
def test_without_a_branch_the_list_is_removed(host: Sandbox, name: str):
    host.path(f"{SOURCES}/{name}").write_text("deb https://haproxy.debian.net bookworm-backports-3.0 main\n")
    host.path(f"{SOURCES}/debian.sources").write_text("the image's\n")
    assert host.run(install_script(settings())).returncode == 0
    assert [it.name for it in host.path(SOURCES).iterdir()] == ["debian.sources"]


def test_why_the_vendor_s_key_could_not_be_fetched_is_reported(host: Sandbox):
    host.put("curl", 'echo "curl: (22) The requested URL returned error: 403" >&2; exit 22')
    done = host.run(install_script(settings(haproxyBranch="3.0")))
    assert done.returncode == 1
    assert "the key of haproxy.debian.net could not be fetched: curl: (22)" in done.stderr
    assert "403" in done.stderr


def test_a_lock_of_apt_is_waited_for(host: Sandbox):
    host.put("apt-get", f'n=$(grep -c "^apt-get" "$UNITS/calls"); [ $n -ge 4 ] || {{ echo "{LOCKED}"; exit 100; }}')
    done = host.run(install_script(settings()))
    assert done.returncode == 0, done.stderr
    assert host.calls.count("sleep 5") == 3


def test_who_holds_a_lock_of_apt_for_too_long_is_reported(host: Sandbox):
    host.put("apt-get", f'echo "{LOCKED}"; exit 100')
    script = install_script(settings())
    assert script.count("SECONDS + 300") == 1
    done = host.run(script.replace("SECONDS + 300", "SECONDS + 1"))
    assert done.returncode == 1
    assert "process 2262 (apt-get)" in done.stderr
    assert "aptMirror" not in done.stderr


def test_another_error_of_apt_is_not_repeated(host: Sandbox):
    host.put("apt-get", 'echo "E: Failed to fetch http://mirror/debian"; exit 100')
    done = host.run(install_script(settings()))
    assert done.returncode == 1
    assert "APT could not reach a package archive" in done.stderr
    assert "sleep 5" not in host.calls


def test_the_archive_of_ubuntu_is_added_through_the_proxy(host: Sandbox):
    host.path("etc/os-release").write_text("ID=ubuntu\nVERSION_CODENAME=jammy\n")
    host.put("add-apt-repository", 'echo "add $https_proxy $http_proxy $no_proxy" >>"$UNITS/calls"')
    done = host.run(
        install_script(
            settings(haproxyBranch="3.0", aptProxy="http://[2001:db8::1]:3128", aptNoProxy='["mirror.example"]')
        )
    )
    assert done.returncode == 0, done.stderr
    assert "add http://[2001:db8::1]:3128 http://[2001:db8::1]:3128 mirror.example" in host.calls


def proxy_file(host: Sandbox) -> Path:
    return host.path("etc/apt/apt.conf.d/80-ha-api-proxy")


def test_apt_s_proxy_has_exceptions_and_can_be_removed(host: Sandbox):
    assert host.run(prepare(aptProxy="http://me:50%25@proxy:3128", aptNoProxy='["mirror.example"]')).returncode == 0
    assert proxy_file(host).read_text().splitlines() == [
        'Acquire::http::Proxy "http://me:50%25@proxy:3128";',
        'Acquire::https::Proxy "http://me:50%25@proxy:3128";',
        'Acquire::http::Proxy::mirror.example "DIRECT";',
        'Acquire::https::Proxy::mirror.example "DIRECT";',
    ]
    assert proxy_file(host).stat().st_mode & 0o777 == 0o600
    assert host.run(prepare()).returncode == 0
    assert not proxy_file(host).exists()


# cloud-init 22.4 (Debian 12), and 24 (Ubuntu 24.04).
OLD = """status: error
time: Wed, 05 Nov 2025 10:00:00 +0000
detail:
('scripts-vendor', RuntimeError('Runparts: 1 failures'))"""
NEW = """status: error
extended_status: error - done
boot_status_code: enabled-by-generator
last_update: Wed, 05 Nov 2025 10:00:00 +0000
detail: DataSourceOpenStackLocal
errors:
\t- ('scripts_vendor', RuntimeError('Runparts: 1 failures'))
recoverable_errors: {}"""


@pytest.mark.parametrize("said", [OLD, NEW])
def test_a_failure_of_cloud_init_is_a_warning_with_its_reason(host: Sandbox, said: str):
    host.put("cloud-init", f"[ $2 = --wait ] || cat <<'END'\n{said}\nEND\nexit 1")
    done = host.run(prepare())
    assert done.returncode == 0, done.stderr
    assert done.stdout == "interface=ens3\n"
    assert "RuntimeError('Runparts: 1 failures')" in done.stderr
    assert "last_update" not in done.stderr
    assert "/var/log/cloud-init-output.log" in done.stderr


def test_recoverable_errors_of_cloud_init_are_none(host: Sandbox):
    host.put("cloud-init", "exit 2")
    done = host.run(prepare())
    assert (done.returncode, done.stderr) == (0, "")


def test_a_host_without_its_port_s_address_is_refused(host: Sandbox):
    host.put("ip", "")
    done = host.run(prepare())
    assert done.returncode == 1
    assert "no interface has 198.51.100.11" in done.stderr
