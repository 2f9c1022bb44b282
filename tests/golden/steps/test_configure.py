"""`configure` on a load balancer: what is in force after a refusal, a failure and a cut at any moment."""

import re
from collections.abc import Collection
from dataclasses import replace
from hashlib import sha256
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from model.load_balancers import LOAD_BALANCER_FILES, Frontend, LoadBalancerHost, LoadBalancerPair
from model.rendering import HostFile, configure_script, load_balancer_files
from model.settings import FrontendSettings, Settings
from operate.hosts.on_host import DRAINED
from tests.golden.steps.sandbox import Sandbox
from tests.unit.example import example_values

HAPROXY = "etc/haproxy/haproxy.cfg"
# With all files a run takes three times as long.
FEW = (HAPROXY, "etc/keepalived/keepalived.conf", "etc/keepalived/notify.sh", "etc/sysctl.d/60-ha-api.conf")
ZONE = "etc/firewalld/zones/public.xml"
LIMITS = "etc/haproxy/ha-api/new-connections.nft"
STATE = "var/lib/ha-api"
HOST = LoadBalancerHost(
    name="k8s-lb-0",
    address=IPv4Address("198.51.100.11"),
    peer_address=IPv4Address("198.51.100.12"),
    interface="ens3",
    pair=LoadBalancerPair.from_settings(
        Settings.parse(example_values()),
        vip=IPv4Address("198.51.100.100"),
        control_plane={"k8s-cp-0": IPv4Address("127.0.0.21")},
        workers={},
    ),
)


def files(note: str, host: LoadBalancerHost = HOST, *, paths: Collection[str] = FEW) -> tuple[HostFile, ...]:
    """Some of a host's files; HAProxy's begins with a note, and has an id of its own."""
    number = sha256(note.encode()).hexdigest()[:16]

    def noted(file: HostFile) -> HostFile:
        return replace(
            file, text=f"# {note}\n{re.sub('X-Configuration-Id [0-9a-f]+', f'X-Configuration-Id {number}', file.text)}"
        )

    chosen = (file for file in load_balancer_files(host) if file.path in paths)
    return tuple(noted(file) if file.path == HAPROXY else file for file in chosen)


def in_a_hurry(text: str, seconds: str = r"15|16|17|18|19") -> str:
    """A script in which what takes that many seconds takes one."""
    text, found = re.subn(rf"deadline=\$\(\(SECONDS \+ ({seconds})\)\)", "deadline=$((SECONDS + 1))", text)
    assert found == 1
    return text


def script(note: str, host: LoadBalancerHost = HOST) -> str:
    return in_a_hurry(configure_script(host, files(note, host)))


@pytest.fixture
def host(tmp_path: Path) -> Sandbox:
    """A new host, on which the package has started HAProxy."""
    sandbox = Sandbox(tmp_path)
    (sandbox.units / "haproxy").touch()
    sandbox.path(HAPROXY).parent.mkdir(parents=True)
    sandbox.path(HAPROXY).write_text("# the package's\n")
    (sandbox.units / "running-id").write_text("")
    return sandbox


@pytest.fixture
def serving(host: Sandbox) -> Sandbox:
    """A host whose first configuration serves; clients use it."""
    done = host.run(script("first"))
    assert done.returncode == 0, done.stderr
    host.listening = ["127.0.0.1:6443"]
    return host


def proven(host: Sandbox) -> str:
    """The note in HAProxy's last proven file."""
    return host.path(f"{STATE}/proven/{HAPROXY}").read_text().splitlines()[0]


def installed(host: Sandbox) -> str:
    return host.path(HAPROXY).read_text().splitlines()[0]


def as_an_older_version_left_it(host: Sandbox) -> Path:
    """`proven` as a folder, and the stage of the last run; returns the stage."""
    state = host.path(STATE)
    (state / "proven").unlink()
    (state / "proven.1").rename(state / "proven")
    stage = state / "stage"
    host.copy(state / "proven", stage)
    return stage


def test_a_new_host_is_configured_and_the_package_s_haproxy_restarted(host: Sandbox):
    every = files("first", paths=LOAD_BALANCER_FILES)
    done = host.run(in_a_hurry(configure_script(HOST, every)))
    assert done.returncode == 0, done.stderr
    assert proven(host) == installed(host) == "# first"
    for file in every:
        assert host.path(file.path).read_text() == file.text
        assert host.path(file.path).stat().st_mode & 0o777 == file.mode
    assert "systemctl stop haproxy" in host.calls
    assert not host.path(f"{STATE}/stage").exists()


def test_a_change_is_reloaded_and_becomes_the_proven_one(serving: Sandbox):
    done = serving.run(script("second"))
    assert done.returncode == 0, done.stderr
    assert f"1 files changed: {HAPROXY}" in done.stdout
    assert proven(serving) == installed(serving) == "# second"
    assert "systemctl reload haproxy" in serving.calls
    assert "systemctl stop haproxy" not in serving.calls
    assert [it.name for it in serving.path(STATE).iterdir() if "proven." in it.name] == ["proven.2"]


def test_a_host_whose_keepalived_was_started_is_not_drained_any_more(serving: Sandbox):
    drained = serving.path(str(DRAINED))
    for note, ends in (("refused", False), ("second", True)):
        drained.write_text("ada, new kernel\n")
        serving.run(script(note))
        assert drained.exists() is not ends


def test_a_change_that_does_not_serve_is_undone_and_its_stage_stays(serving: Sandbox):
    done = serving.run(script("hopeless"))
    assert done.returncode == 1
    assert "the change was rolled back, and the old configuration serves: HAProxy does not answer" in done.stderr
    assert proven(serving) == installed(serving) == "# first"
    assert "# hopeless" in serving.path(f"{STATE}/stage/{HAPROXY}").read_text()


def test_a_refused_change_changes_nothing(serving: Sandbox):
    done = serving.run(script("refused"))
    assert done.returncode == 1
    assert "HAProxy refuses the new configuration, nothing was changed" in done.stderr
    assert proven(serving) == installed(serving) == "# first"


def test_a_copy_that_was_refused_is_for_root_alone(serving: Sandbox):
    """That of keepalived.conf may hold the VRRP password."""
    copy = serving.path(f"{STATE}/under-test")
    copy.write_text("of a version of the step that let everybody read it\n")
    copy.chmod(0o644)
    assert serving.run(script("refused")).returncode == 1
    assert copy.stat().st_mode & 0o777 == 0o600


def test_what_runs_after_a_run_that_was_cut_off_while_it_undid_its_change_is_reloaded(serving: Sandbox):
    """The old files are back in place, but nothing was reloaded yet."""
    stage = serving.path(STATE) / "stage"
    serving.copy(serving.path(STATE) / "proven.1", stage)
    for path in (HAPROXY, "etc/keepalived/keepalived.conf"):
        (stage / path).write_text(f"# cut off\n{(stage / path).read_text()}")
    (serving.units / "running-id").write_text("cut off")
    done = serving.run(script("first"))
    assert done.returncode == 0, done.stderr
    assert "systemctl reload haproxy" in serving.calls
    assert "systemctl reload keepalived" in serving.calls


# What removes or renames anything.
CHANGING = ("ln", "mv", "rm", "sync")
PARTS = 4  # of the moments; the tests run at the same time


@pytest.mark.parametrize("first", range(1, PARTS + 1))
def test_a_run_that_is_cut_off_at_any_moment_leaves_a_whole_tree_and_a_serving_haproxy(
    serving: Sandbox, tmp_path: Path, first: int
):
    number = first
    while True:
        host = serving.clone(tmp_path / str(number))
        host.kill_at(number, *CHANGING)
        cut = host.run(script("second"))
        host.kill_at(0)
        if cut.returncode == 0:
            break
        assert cut.returncode == -9, cut.stderr
        # Whatever reads the proven tree meanwhile finds all of it.
        tree = host.path(f"{STATE}/proven")
        assert {str(it.relative_to(tree)) for it in tree.rglob("*") if it.is_file()} == {it.path for it in files("")}
        assert proven(host) in ("# first", "# second")
        again = host.run(script("third"))
        assert again.returncode == 0, (number, again.stderr)
        assert proven(host) == installed(host) == "# third"
        assert "systemctl stop haproxy" not in host.calls
        number += PARTS
    assert number > 8, "the run was cut off nowhere"


@pytest.mark.parametrize("cut", ["copying", "deleting", "moving", "done"])
def test_a_host_of_an_older_version_is_taken_over_wherever_it_was_cut_off(serving: Sandbox, cut: str):
    """It replaced the folder `proven`: cp -a stage proven.new, rm -rf proven, mv proven.new proven."""
    stage = as_an_older_version_left_it(serving)
    state = serving.path(STATE)
    text = serving.path(HAPROXY).read_text().replace("# first", "# second")
    for file in (stage / HAPROXY, serving.path(HAPROXY)):
        file.write_text(text)
    if cut != "done":
        serving.copy(stage, state / "proven.new")
    if cut == "copying":
        (state / "proven.new/etc/sysctl.d/60-ha-api.conf").unlink()
    if cut == "deleting":
        (state / "proven" / HAPROXY).unlink()
    if cut == "moving":
        serving.delete(state / "proven")
    done = serving.run(script("hopeless"))
    assert "the change was rolled back" in done.stderr
    expected = "# second" if cut in ("deleting", "moving") else "# first"
    assert proven(serving) == installed(serving) == expected
    assert not (state / "proven.new").exists()
    assert "systemctl stop haproxy" not in serving.calls


def test_a_host_that_serves_is_not_stopped_when_its_proven_tree_is_gone(serving: Sandbox):
    for path in serving.path(STATE).glob("proven*"):
        serving.delete(path)
    done = serving.run(script("second"))
    assert done.returncode == 0, done.stderr
    assert proven(serving) == installed(serving) == "# second"
    assert "systemctl stop haproxy" not in serving.calls


def test_a_file_that_cannot_be_replaced_fails_the_step_and_is_no_proven_one(serving: Sandbox):
    serving.mounts = ["/etc/keepalived/notify.sh"]
    changed = tuple(
        replace(file, text=f"{file.text}# changed\n") if file.path.startswith("etc/keepalived/") else file
        for file in files("second")
    )
    done = serving.run(configure_script(HOST, changed))
    assert done.returncode == 1
    assert "cannot replace /etc/keepalived/notify.sh" in done.stderr
    assert "the change was rolled back, and the old configuration serves" in done.stderr
    assert proven(serving) == installed(serving) == "# first"
    assert "# changed" not in serving.path("etc/keepalived/keepalived.conf").read_text()
    assert [*serving.path("etc").rglob("*.ha-api-new")] == []


def test_a_file_that_cannot_be_deleted_fails_the_step(serving: Sandbox):
    more = (*files("first"), HostFile(path="etc/haproxy/ha-api/ca.pem", mode=0o644, text="a certificate\n"))
    assert serving.run(configure_script(HOST, more)).returncode == 0
    serving.mounts = ["/etc/haproxy/ha-api/ca.pem"]
    done = serving.run(script("second"))
    assert done.returncode == 1
    assert "cannot replace /etc/haproxy/ha-api/ca.pem" in done.stderr
    assert proven(serving) == installed(serving) == "# first"


def test_an_interface_that_has_another_name_now_is_reported_with_the_remedy(serving: Sandbox):
    serving.put("ip", 'echo "2: enp3s0    inet 198.51.100.11/24 brd 198.51.100.255 scope global enp3s0"')
    done = serving.run(script("second"))
    assert done.returncode == 1
    assert "198.51.100.11 is on the interface enp3s0" in done.stderr
    assert "`pulumi up --replace '**::k8s-lb-0-prepare'`" in done.stderr
    assert installed(serving) == "# first"


def test_checks_use_no_proxy(serving: Sandbox):
    assert serving.run(script("second")).returncode == 0
    queries = [call for call in serving.calls if call.startswith("curl ")]
    assert len(queries) > 2
    assert all(call.startswith("curl --disable --noproxy * ") for call in queries)


def with_servers(*addresses: str) -> LoadBalancerHost:
    servers = tuple((f"cp-{address}", IPv4Address(address)) for address in addresses)
    return replace(HOST, pair=replace(HOST.pair, api_servers=servers))


# 203.0.113.1 has no route here, so it never answers; nobody listens on the others, so they refuse.
DEAD = "203.0.113.1"


def test_a_dead_api_server_that_haproxy_knows_is_not_waited_for(host: Sandbox):
    assert host.run(script("first", with_servers("127.0.0.21", DEAD))).returncode == 0
    assert "sleep 1" not in host.calls, "on a new host no client waits"
    host.listening = ["127.0.0.1:6443"]
    done = host.run(script("second", with_servers("127.0.0.21", "127.0.0.22", DEAD)))
    assert done.returncode == 0
    assert "sleep 1" not in host.calls
    assert "no answer" not in done.stderr


def test_a_new_api_server_that_does_not_answer_is_waited_for_and_then_reported(serving: Sandbox):
    done = serving.run(in_a_hurry(script("second", with_servers("127.0.0.21", DEAD)), "120"))
    assert done.returncode == 0, done.stderr
    assert f"no answer within 120 s from new API servers ({DEAD}:6443)" in done.stderr
    assert DEAD in serving.path(HAPROXY).read_text()


def with_frontend(name: str, port: int) -> LoadBalancerHost:
    """The host with a frontend whose only server never answers."""
    frontend = Frontend(
        settings=FrontendSettings.model_validate({"name": name, "port": port}),
        servers=(("k8s-worker-0", IPv4Address(DEAD)),),
    )
    return replace(HOST, pair=replace(HOST.pair, frontends=(frontend,)))


def with_zone(note: str, host: LoadBalancerHost) -> str:
    return in_a_hurry(configure_script(host, files(note, host, paths=(*FEW, ZONE))))


def test_a_frontend_is_a_reload_of_haproxy_and_a_port_opened_in_the_firewall_that_runs(host: Sandbox):
    host.put("firewall-cmd", '[[ "$*" != *--list-ports ]] || echo "8404/tcp 6443/tcp 8405/tcp 9100/tcp"')
    assert host.run(with_zone("first", HOST)).returncode == 0
    host.listening = ["127.0.0.1:6443"]
    done = host.run(with_zone("second", with_frontend("ingress", 443)))
    assert done.returncode == 0, done.stderr
    assert "systemctl reload haproxy" in host.calls
    assert "firewall-cmd --quiet --zone=public --add-port=443/tcp" in host.calls
    assert not [call for call in host.calls if "--reload" in call or "--remove-port" in call]
    # Its server is not one of the API's, and may not be installed yet.
    assert "sleep 1" not in host.calls
    host.put("firewall-cmd", '[[ "$*" != *--list-ports ]] || echo "8404/tcp 6443/tcp 8405/tcp 9100/tcp 443/tcp"')
    assert host.run(with_zone("third", HOST)).returncode == 0
    assert "firewall-cmd --quiet --zone=public --remove-port=443/tcp" in host.calls


def test_the_limit_of_new_connections_leaves_the_kernel_with_the_last_frontend(host: Sandbox):
    host.put("nft", "")

    def limited(note: str, host: LoadBalancerHost) -> str:
        return in_a_hurry(configure_script(host, files(note, host, paths=(*FEW, LIMITS))))

    delete = "nft delete table inet ha_api_frontends"
    assert host.run(limited("first", with_frontend("ingress", 443))).returncode == 0
    assert host.path(LIMITS).exists()
    assert delete not in host.calls
    host.listening = ["127.0.0.1:6443"]
    assert host.run(limited("second", HOST)).returncode == 0
    assert delete in host.calls


def test_firewalld_is_reloaded_if_its_zone_was_changed_manually(host: Sandbox):
    assert host.run(with_zone("first", HOST)).returncode == 0
    host.listening = ["127.0.0.1:6443"]
    zone = host.path(ZONE)
    zone.write_text(zone.read_text().replace('value="112"', 'value="113"'))
    assert host.run(with_zone("first", HOST)).returncode == 0
    assert "firewall-cmd --quiet --reload" in host.calls


def test_firewalld_is_reloaded_if_somebody_opened_a_range(host: Sandbox):
    """It has merged our ports into it, and would close them with it."""
    host.put("firewall-cmd", '[[ "$*" != *--list-ports ]] || echo "6000-9100/tcp"')
    assert host.run(with_zone("first", HOST)).returncode == 0
    host.listening = ["127.0.0.1:6443"]
    assert host.run(with_zone("second", with_frontend("ingress", 443))).returncode == 0
    assert "firewall-cmd --quiet --reload" in host.calls
    assert not [call for call in host.calls if "-port=" in call]


@pytest.mark.parametrize("refused", ["--list-ports", "--add-port=443/tcp"])
def test_firewalld_is_reloaded_if_it_does_not_open_a_port(host: Sandbox, refused: str):
    host.put("firewall-cmd", f'[[ "$*" != *{refused} ]]')
    assert host.run(with_zone("first", HOST)).returncode == 0
    host.listening = ["127.0.0.1:6443"]
    assert host.run(with_zone("second", with_frontend("ingress", 443))).returncode == 0
    assert "firewall-cmd --quiet --reload" in host.calls


def test_firewalld_is_reloaded_if_more_than_ports_has_changed(host: Sandbox):
    assert host.run(with_zone("first", HOST)).returncode == 0
    host.listening = ["127.0.0.1:6443"]
    moved = replace(with_frontend("ingress", 443), peer_address=IPv4Address("198.51.100.13"))
    assert host.run(with_zone("second", moved)).returncode == 0
    assert "firewall-cmd --quiet --reload" in host.calls
    assert not [call for call in host.calls if "-port=" in call]


def test_a_new_api_server_is_waited_for_until_it_refuses(serving: Sandbox):
    # Three time-outs, then a refusal.
    tries = 'n=$(grep -c "^timeout" "$UNITS/calls"); [ $n -ge 4 ] || exit 124; echo "Connection refused"; exit 1'
    serving.put("timeout", tries)
    done = serving.run(script("second", with_servers("127.0.0.21", "198.51.100.22")))
    assert done.returncode == 0, done.stderr
    assert serving.calls.count("sleep 1") == 3
    assert "no answer" not in done.stderr
