"""The cluster's steps on a host: what they do, what they refuse, and what an interrupted run leaves to the next."""

import subprocess
import time
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from model.kubernetes import Node
from model.rendering import (
    kubernetes_endpoint_script,
    kubernetes_init_script,
    kubernetes_join_script,
    kubernetes_leave_script,
    kubernetes_network_script,
    kubernetes_packages_script,
    kubernetes_ready_script,
    kubernetes_remove_script,
    kubernetes_stop_api_server_script,
    kubernetes_version_script,
)
from tests.golden.steps.sandbox import Sandbox
from tests.unit.cluster_example import example_cluster, example_endpoint, example_node

STATE = "var/lib/ha-api/kubernetes"
SOURCES = "etc/apt/sources.list.d"
BOOTSTRAP = "etc/kubernetes/bootstrap-kubelet.conf"
KUBEADM = r"""
case $* in
"config images list"*) printf 'registry.k8s.io/%s\n' kube-apiserver:v1.37.2 kube-proxy:v1.37.2 pause:3.10.2 ;;
"init phase certs apiserver "*) [ ! -e "$UNITS/no-certificate" ] && touch /etc/kubernetes/pki/apiserver.{crt,key} ;;
"init --config"* | "join --config"*)
    [ ! -e "$UNITS/kubeadm-fails" ] || { cat "$UNITS/kubeadm-fails"; exit 1; }
    mkdir -p /etc/kubernetes/manifests /var/lib/etcd/member
    echo "    server: https://198.51.100.100:6443" >/etc/kubernetes/kubelet.conf
    touch /etc/kubernetes/admin.conf /etc/kubernetes/manifests/kube-apiserver.yaml
    mkdir -p /etc/kubernetes/pki && touch /etc/kubernetes/pki/apiserver.{crt,key}
    [ ! -e "$UNITS/cut-off" ] || kill -9 0
    ;;
esac
"""
KUBECTL = r"""
case $* in
*"get pods --selector component=etcd"*) cat "$UNITS/etcd-pods" ;;
*"get node "*"--output name"*) cat "$UNITS/node" ;;
*"get node "*"--ignore-not-found"*) cat "$UNITS/node-ready" 2>/dev/null ;;
*"get nodes --selector node-role.kubernetes.io/control-plane"*) cat "$UNITS/control-plane" ;;
*"get nodes --selector"*) cat "$UNITS/workers" 2>/dev/null ;;
*"get node "*jsonpath*) printf 'True kubelet is posting ready status' ;;
*"get --raw"*) printf ok ;;
*"get configmap kube-proxy"*)
    printf '    server: %s\n' "$(cat "$UNITS/kube-proxy" 2>/dev/null || echo https://198.51.100.100:6443)"
    ;;
*"replace --filename -") sed -n 's/.*server: //p' >"$UNITS/kube-proxy" ;;
*"get deployment coredns"*) cat "$UNITS/coredns" 2>/dev/null || printf '3 3 2 2' ;;
esac
"""
# This host is no etcd member before it has joined, nor when it has left.
ETCD = r"""
[ ! -e "$UNITS/etcd-refuses" ] || { cat "$UNITS/etcd-refuses"; exit 1; }
case $* in
*" members"*) cat "$UNITS/etcd-members" ;;
*" healthy "*) [ ! -e "$UNITS/not-healthy" ] ;;
esac
"""
# The API at the VIP, and this host's own API server.
CURL = r"""
case "$*" in
*Release.key*) while [ "$1" != -o ]; do shift; done && touch "$2" ;;
*dump-header*)
    [ -e "$UNITS/api" ] || exit 7
    printf 'HTTP/2 200\r\ndate: %s\r\n' "$(date --utc --date="$(cat "$UNITS/api")" '+%a, %d %b %Y %T GMT')"
    ;;
*https://198.51.100.100*) [ -e "$UNITS/api" ] ;;
*https://198.51.100.2*) ;;
*http://127.0.0.1:10248/healthz*) [ -e "$UNITS/unhealthy" ] || printf ok ;;
esac
"""


@pytest.fixture
def host(tmp_path: Path) -> Sandbox:
    """A Debian host with containerd and kubeadm, and an API that answers at the VIP."""
    host = Sandbox(tmp_path)
    for folder in (SOURCES, "etc/apt/apt.conf.d", "var/log"):
        host.path(folder).mkdir(parents=True)
    host.path("etc/os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    host.path("etc/fstab").write_text("UUID=1 / ext4 defaults 0 1\nUUID=2 none swap sw 0 0\n")
    host.put("kubeadm", KUBEADM)
    host.put("kubectl", KUBECTL)
    host.put("curl", CURL)
    host.put("timedatectl", 'cat "$UNITS/synchronized" 2>/dev/null || echo yes')
    # etcd.py's.
    host.put("python3", ETCD)
    (host.units / "etcd-pods").write_text("https://198.51.100.21:2379\nhttps://198.51.100.22:2379\n")
    (host.units / "etcd-members").write_text("10001 k8s-cp-1 198.51.100.22 voter leader\n")
    (host.units / "node").write_text("node/k8s-worker-0\n")
    host.put("dpkg-query", 'cat "$UNITS/installed" 2>/dev/null')
    host.put("apt-cache", "printf ' kubeadm | %s-1.1 | http://mirror Packages\\n' 1.36.9 1.37.2 1.37.10 1.38.0")
    host.put("crictl", '[ "$1" != inspecti ]')
    host.put(
        "openssl",
        'cat "$UNITS/names" 2>/dev/null || echo "    DNS:kubernetes, IP Address:198.51.100.100, IP Address:127.0.0.1"',
    )
    for name in ("apt-get", "apt-mark", "swapoff", "modprobe"):
        host.put(name, "")
    (host.units / "api").write_text("now")
    return host


def failing(host: Sandbox, text: str) -> None:
    (host.units / "kubeadm-fails").write_text(text)


def called(host: Sandbox, *starts: str) -> list[str]:
    return [call for call in host.calls if call.startswith(starts)]


# ---- Version and packages --------------------------------------------------------------------------------------------


def version(host: Sandbox, wanted: str) -> str:
    done = host.run(kubernetes_version_script(example_node(kubernetesVersion=wanted).cluster.settings))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_minor_version_is_its_newest_patch(host: Sandbox):
    assert version(host, "1.37") == "version=1.37.10\n"
    assert version(host, "1.37.2") == "version=1.37.2\n"


def test_a_version_that_the_repository_does_not_have_is_reported_with_those_it_has(host: Sandbox):
    done = host.run(kubernetes_version_script(example_node(kubernetesVersion="1.37.3").cluster.settings))
    assert done.returncode == 1
    assert (
        "kubernetesVersion = 1.37.3: https://pkgs.k8s.io/core:/stable:/v1.37/deb has only 1.36.9 1.37.2" in done.stderr
    )


PUBLIC_KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQEN\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
MIRROR = {"kubernetesRepository": "http://mirror.example/deb/", "kubernetesRepositoryKey": PUBLIC_KEY}


def test_a_repository_and_its_key_come_from_the_configuration(host: Sandbox):
    assert host.run(kubernetes_version_script(example_node(**MIRROR).cluster.settings)).returncode == 0
    assert host.path(f"{SOURCES}/ha-api-kubernetes.sources").read_text() == (
        "Types: deb\nURIs: http://mirror.example/deb/\nSuites: /\nSigned-By: /etc/apt/keyrings/ha-api-kubernetes.asc\n"
    )
    assert host.path("etc/apt/keyrings/ha-api-kubernetes.asc").read_text() == PUBLIC_KEY
    assert not called(host, "curl")


def test_a_repository_that_cannot_be_used_is_reported_with_apt_s_reason(host: Sandbox):
    host.put("apt-get", 'echo "E: The repository is not signed. NO_PUBKEY 234654DA9A296436"; exit 100')
    done = host.run(kubernetes_version_script(example_node(**MIRROR).cluster.settings))
    assert done.returncode == 1
    assert "the Kubernetes packages of http://mirror.example/deb are unavailable" in done.stderr
    assert "NO_PUBKEY 234654DA9A296436" in done.stderr


def packages(*, control_plane: bool = True, of: Node | None = None, **changes: str) -> str:
    script = kubernetes_packages_script(of or example_node(control_plane, **MIRROR, **changes))
    # Whether this machine has the module is not the question.
    assert script.count("/proc/sys/net/bridge/bridge-nf-call-iptables") == 1
    return script.replace("/proc/sys/net/bridge/bridge-nf-call-iptables", "/etc/os-release")


def test_packages_are_pinned_and_held(host: Sandbox):
    done = host.run(packages())
    assert done.returncode == 0, done.stderr
    assert [it for it in called(host, "apt-get") if "kubeadm=1.37.2-* kubectl=1.37.2-* kubelet=1.37.2-*" in it]
    assert "apt-mark hold containerd kubeadm kubectl kubelet" in host.calls
    assert "swapoff --all" in host.calls
    assert "# ha-api: UUID=2 none swap" in host.path("etc/fstab").read_text()
    config = host.path("etc/containerd/config.toml").read_text()
    assert 'sandbox_image = "registry.k8s.io/pause:3.10.2"' in config
    assert "systemctl restart containerd" in host.calls


def make_node(host: Sandbox) -> None:
    """The host has joined the cluster, and its kubelet runs with what `packages` gives it."""
    assert host.run(packages()).returncode == 0
    host.path(STATE).mkdir(parents=True)
    for mark in ("started", "joined"):
        host.path(f"{STATE}/{mark}").touch()
    for service in ("containerd", "kubelet"):
        (host.units / service).touch()


def test_a_second_run_restarts_nothing(host: Sandbox):
    make_node(host)
    assert host.run(packages()).returncode == 0
    assert not called(host, "systemctl restart")
    assert host.run(packages(kubeletConfiguration='{"maxPods": 50}')).returncode == 0
    assert called(host, "systemctl restart") == ["systemctl restart kubelet"]


def test_what_a_run_that_was_cut_off_has_written_is_read_after_the_next(host: Sandbox):
    make_node(host)
    host.put("sysctl", "exit 1")  # between the files and the restarts
    host.put("kubeadm", KUBEADM.replace("pause:3.10.2", "pause:3.10.3"))
    script = packages(kubeletConfiguration='{"maxPods": 50}')
    assert host.run(script).returncode == 1
    assert not called(host, "systemctl restart")
    host.put("sysctl", "")
    assert host.run(script).returncode == 0
    assert called(host, "systemctl restart") == ["systemctl restart containerd", "systemctl restart kubelet"]


KUBELET_SAYS = 'E1128 run.go:72] "command failed" err="cannot unmarshal string into Go struct field maxPods"'


@pytest.mark.parametrize(
    "fault",
    [
        'rm -f "$UNITS/kubelet"',
        # Between two looks at it.
        'echo 1 >"$UNITS/restarts-of-kubelet"',
        'touch "$UNITS/unhealthy"',
    ],
    ids=["ends", "starts again and again", "does not answer"],
)
def test_a_configuration_that_the_kubelet_refuses_is_undone_with_its_reason(host: Sandbox, fault: str):
    drop_in = host.path("etc/kubernetes/kubelet.conf.d/60-ha-api.conf")
    make_node(host)
    good = drop_in.read_text()
    host.put("sleep", fault)
    host.put("journalctl", f"echo '{KUBELET_SAYS}'")
    done = host.run(packages(kubeletConfiguration='{"maxPods": "many"}').replace("SECONDS + 120", "SECONDS + 5"))
    assert done.returncode == 1
    assert "kubelet does not run with the new kubeletConfiguration, and was rolled back to the old one" in done.stderr
    assert "Go struct field maxPods" in done.stderr
    assert drop_in.read_text() == good
    assert host.path("var/lib/ha-api/read-by/kubelet").read_text() == good
    assert called(host, "systemctl restart") == ["systemctl restart kubelet"] * 2


def test_a_kubelet_that_stays_healthy_for_a_while_has_read_its_configuration(host: Sandbox):
    make_node(host)
    assert host.run(packages(kubeletConfiguration='{"maxPods": 50}')).returncode == 0
    assert len(called(host, "curl")) == len(called(host, "sleep")) == 15
    assert '"maxPods": 50' in host.path("var/lib/ha-api/read-by/kubelet").read_text()


def test_a_kubelet_without_a_cluster_is_not_restarted(host: Sandbox):
    """Until the host joins, its kubelet ends at once and starts again every 10 s, whatever its configuration is."""
    (host.units / "kubelet").touch()
    host.put("sleep", 'rm -f "$UNITS/kubelet"')
    done = host.run(packages())
    assert done.returncode == 0, done.stderr
    assert "systemctl restart kubelet" not in host.calls


def test_a_kubelet_that_does_not_start_is_quoted_when_a_host_cannot_join(host: Sandbox):
    failing(host, "error execution phase kubelet-start: timed out\n")
    host.put("journalctl", f"echo '{KUBELET_SAYS}'")
    refusal = join(host, control_plane=False)
    assert "error execution phase kubelet-start: timed out" in refusal
    assert "kubelet does not run" in refusal
    assert "Go struct field maxPods" in refusal


def test_a_worker_pulls_only_what_it_runs(host: Sandbox):
    assert host.run(packages(control_plane=False)).returncode == 0
    assert called(host, "crictl pull") == [
        "crictl pull registry.k8s.io/kube-proxy:v1.37.2", "crictl pull registry.k8s.io/pause:3.10.2",
    ]  # fmt: skip
    assert host.run(packages()).returncode == 0
    assert len(called(host, "crictl pull")) == 3


def test_an_image_that_cannot_be_pulled_is_reported(host: Sandbox):
    host.put("crictl", '[ "$1" = inspecti ] || echo "E: dial tcp: no route to host"; exit 1')
    done = host.run(packages())
    assert done.returncode == 1
    assert "the image registry.k8s.io/kube-apiserver:v1.37.2 could not be pulled (check registryMirror" in done.stderr
    assert "no route to host" in done.stderr


@pytest.mark.parametrize(
    ("version", "containerd", "refused"),
    [
        ("1.38.0", "1.6.20~ds1-1+deb12u3", True),
        ("1.38.0", "1.7.24~ds1-6", True),
        ("1.38.0", "2.0.0-1", False),
        ("1.37.2", "1.6.20~ds1-1+deb12u3", False),
    ],
)
def test_a_containerd_that_the_kubelet_refuses_is_reported_before_kubernetes_is_installed(
    host: Sandbox, version: str, containerd: str, refused: bool
):
    host.put("dpkg-query", f'case $* in *containerd) printf "{containerd}" ;; esac')
    node = example_node(**MIRROR)
    script = packages(of=replace(node, cluster=replace(node.cluster, version=version)))
    done = host.run(script)
    assert (done.returncode != 0) is refused, done.stderr
    assert (
        f"containerd {containerd} is too old for Kubernetes {version}, whose kubelet needs 2.0 or newer" in done.stderr
    ) is refused
    assert (not [it for it in called(host, "apt-get") if "kubelet=" in it]) is refused


def test_swap_stays_if_the_kubelet_accepts_it(host: Sandbox):
    assert host.run(packages(kubeletConfiguration='{"failSwapOn": false}')).returncode == 0
    assert "swapoff --all" not in host.calls
    assert "# ha-api" not in host.path("etc/fstab").read_text()


def test_a_mirror_that_is_not_wanted_any_more_is_removed(host: Sandbox):
    hosts = host.path("etc/containerd/certs.d/_default/hosts.toml")
    assert host.run(packages(registryMirror="http://registry.example:5000")).returncode == 0
    assert '[host."http://registry.example:5000"]' in hosts.read_text()
    assert host.run(packages()).returncode == 0
    assert not hosts.exists()


def test_a_node_of_another_version_is_not_touched(host: Sandbox):
    (host.units / "installed").write_text("1.36.9-1.1")
    host.path("etc/kubernetes").mkdir()
    host.path("etc/kubernetes/kubelet.conf").touch()
    done = host.run(packages())
    assert "a cluster that this program did not create" in done.stderr
    assert not called(host, "apt-get", "swapoff")
    host.path(STATE).mkdir(parents=True)
    host.path(f"{STATE}/started").touch()
    done = host.run(packages())
    assert done.returncode == 1
    assert "kubelet 1.36.9-1.1, and the cluster's version is 1.37.2" in done.stderr
    assert not called(host, "apt-get")


# ---- Init ------------------------------------------------------------------------------------------------------------


def init(host: Sandbox) -> str:
    """Run it where no cluster answers yet."""
    (host.units / "api").unlink(missing_ok=True)
    done = host.run(kubernetes_init_script(example_node()))
    return "" if done.returncode == 0 else done.stderr or "killed"


def test_the_cluster_is_created_with_the_stack_s_authorities_and_no_token(host: Sandbox):
    assert init(host) == ""
    assert host.path("etc/kubernetes/pki/ca.key").stat().st_mode & 0o777 == 0o600
    assert host.path("etc/kubernetes/pki/etcd/ca.crt").read_text() == example_node().cluster.authorities["etcd-ca"]
    assert "kubeadm init --config /etc/kubernetes/ha-api/init.yaml" in host.calls
    assert [
        it
        for it in called(host, "kubectl")
        if "delete secrets --field-selector type=bootstrap.kubernetes.io/token" in it
    ]


def test_it_is_created_once(host: Sandbox):
    assert init(host) == ""
    assert init(host) == ""
    assert not called(host, "kubeadm")


def test_an_interrupted_creation_starts_over(host: Sandbox):
    (host.units / "cut-off").touch()
    assert init(host)
    (host.units / "cut-off").unlink()
    assert init(host) == ""
    assert [it.split()[1] for it in called(host, "kubeadm")] == ["reset", "init"]
    assert init(host) == ""


def test_a_failed_creation_has_kubeadm_s_reason_and_can_be_repeated(host: Sandbox):
    failing(
        host,
        "[preflight] Some fatal errors occurred:\n\t[ERROR Mem]: the system RAM (900 MB) is less than the minimum\n",
    )
    assert "kubeadm could not create the cluster: [ERROR Mem]: the system RAM (900 MB)" in init(host)
    (host.units / "kubeadm-fails").unlink()
    assert init(host) == ""


def test_an_api_server_that_does_not_come_up_is_quoted(host: Sandbox):
    failing(host, "error: could not initialize a Kubernetes cluster\n")
    host.put(
        "crictl", "case $* in *exited*apiserver*) echo abc ;; *logs*abc*) echo unknown field in audit policy ;; esac"
    )
    assert "kube-apiserver stopped, and said last: unknown field in audit policy" in init(host)


@pytest.mark.parametrize("left", ["etc/kubernetes/kubelet.conf", "var/lib/etcd/member"])
@pytest.mark.parametrize("control_plane", [True, False])
def test_a_cluster_of_someone_else_is_not_touched(host: Sandbox, left: str, control_plane: bool):
    host.path(left).mkdir(parents=True)
    host.path(BOOTSTRAP).parent.mkdir(exist_ok=True)
    host.path(BOOTSTRAP).touch()
    node = example_node(control_plane)
    for script in (kubernetes_init_script(node), kubernetes_join_script(node)):
        done = host.run(script)
        assert done.returncode == 1
        assert "a cluster that this program did not create; set kubernetesVersion" in done.stderr
        assert not called(host, "kubeadm")
    assert host.path(left).exists()
    assert host.path(BOOTSTRAP).exists()


def test_no_second_cluster_is_created_beside_one_that_answers(host: Sandbox):
    done = host.run(kubernetes_init_script(example_node()))
    assert done.returncode == 1
    assert "a cluster with this stack's CA answers at 198.51.100.100" in done.stderr
    assert not called(host, "kubeadm init")


# ---- Join ------------------------------------------------------------------------------------------------------------


def join(host: Sandbox, *, control_plane: bool = True) -> str:
    script = kubernetes_join_script(example_node(control_plane))
    done = host.run(script.replace("SECONDS + 300", "SECONDS + 1").replace("SECONDS + 120", "SECONDS + 1"))
    return "" if done.returncode == 0 else done.stderr or "killed"


def test_a_control_plane_host_first_removes_what_its_predecessor_left(host: Sandbox):
    assert join(host) == ""
    etcd = "python3 /usr/local/lib/ha-api/etcd.py"
    assert f"{etcd} --endpoint https://198.51.100.22:2379 remove 198.51.100.21" in host.calls
    steps = [it for it in host.calls if " join " in it or " remove " in it or "delete node k8s-cp-0" in it]
    assert [it.split()[0] for it in steps] == ["kubectl", "python3", "kubeadm"]
    assert f"{etcd} healthy 198.51.100.21" in host.calls
    assert "systemctl enable --now ha-api-kubelet-certificates.timer" in host.calls


@pytest.mark.parametrize("control_plane", [True, False])
def test_a_member_does_not_join_again(host: Sandbox, control_plane: bool):
    assert join(host, control_plane=control_plane) == ""
    assert join(host, control_plane=control_plane) == ""
    assert not called(host, "kubeadm")


def test_the_first_host_finds_that_it_is_a_member(host: Sandbox):
    assert init(host) == ""
    assert join(host) == ""
    assert not called(host, "kubeadm")


@pytest.mark.parametrize("control_plane", [True, False])
def test_what_a_host_joins_with_is_gone_when_it_has(host: Sandbox, control_plane: bool):
    assert join(host, control_plane=control_plane) == ""
    assert not host.path("run/ha-api/discovery.conf").exists()


@pytest.mark.parametrize("control_plane", [True, False])
def test_what_a_host_joins_with_is_gone_when_it_could_not(host: Sandbox, control_plane: bool):
    """kubeadm copies it to the disk, and deletes it there only if the kubelet got a certificate."""
    host.put("kubeadm", f'{KUBEADM}\ncase $* in "join --config"*) touch /{BOOTSTRAP}; exit 1 ;; esac')
    assert "could not join" in join(host, control_plane=control_plane)
    assert not host.path("run/ha-api/discovery.conf").exists()
    assert not host.path(BOOTSTRAP).exists()


@pytest.mark.parametrize("control_plane", [True, False])
def test_what_a_run_that_was_killed_joined_with_goes_first_in_the_next(host: Sandbox, control_plane: bool):
    host.put("kubeadm", f'{KUBEADM}\ncase $* in "join --config"*) touch /{BOOTSTRAP}; kill -9 0 ;; esac')
    assert join(host, control_plane=control_plane) == "killed"
    assert host.path(BOOTSTRAP).exists()
    (host.units / "api").unlink()  # before anything is started over
    host.put("kubeadm", "exit 1")
    assert join(host, control_plane=control_plane)
    assert not host.path(BOOTSTRAP).exists()
    assert not host.path("run/ha-api/discovery.conf").exists()


def test_a_worker_gets_no_key_of_the_cluster_s(host: Sandbox):
    assert join(host, control_plane=False) == ""
    assert {it.name for it in host.path("etc/kubernetes/pki").iterdir()} == {
        "apiserver.crt",
        "apiserver.key",
    }  # kubeadm's


def endpoint_of_kubelet(host: Sandbox) -> str:
    server, url, *name = host.path("etc/kubernetes/kubelet.conf").read_text().split()
    assert (server, name) == ("server:", ["tls-server-name:", "kubernetes"])
    return url


def test_a_worker_s_kubelet_uses_its_own_haproxy_or_the_vip(host: Sandbox):
    def restarts(**changes: str) -> int:
        assert host.run(kubernetes_join_script(example_node(False, **changes))).returncode == 0
        return len(called(host, "systemctl restart kubelet"))

    assert restarts() == 1
    assert endpoint_of_kubelet(host) == "https://127.0.0.1:6443"
    assert restarts() == 0
    assert restarts(localApiEndpoint="false") == 1
    assert endpoint_of_kubelet(host) == "https://198.51.100.100:6443"


@pytest.mark.parametrize(
    ("answer", "endpoint"),
    [
        ("printf '198.51.100.100  STREAM api.example.com\\n198.51.100.100  DGRAM\\n'", "api.example.com"),
        ("echo '203.0.113.9 STREAM api.example.com'", "198.51.100.100"),
        ("printf '198.51.100.100 STREAM\\n203.0.113.9 STREAM\\n'", "198.51.100.100"),
        ("exit 2", "198.51.100.100"),
    ],
    ids=["the VIP", "another address", "both", "nothing"],
)
def test_a_kubelet_uses_the_endpoint_s_name_where_it_leads_to_the_vip(host: Sandbox, answer: str, endpoint: str):
    host.put("getent", answer)
    node = example_node(False, localApiEndpoint="false", endpointName="api.example.com")
    done = host.run(kubernetes_join_script(node))
    assert done.returncode == 0, done.stderr
    assert endpoint_of_kubelet(host) == f"https://{endpoint}:6443"
    assert called(host, "getent") == ["getent ahostsv4 api.example.com"]
    assert ("so the kubelet uses the address" in done.stderr) == (endpoint == "198.51.100.100")


def test_a_kubelet_that_was_not_restarted_is_restarted_by_the_next_run(host: Sandbox):
    host.put("systemctl", '[ "$*" != "restart kubelet" ]')
    assert "kubelet could not be restarted" in join(host, control_plane=False)
    host.put("systemctl", "")
    assert join(host, control_plane=False) == ""
    assert called(host, "systemctl restart kubelet")


# ---- A worker's own HAProxy ------------------------------------------------------------------------------------------


def endpoint(host: Sandbox, **changes: str) -> str:
    settings = example_cluster(**changes).settings
    script = kubernetes_endpoint_script(settings, example_endpoint(settings))
    done = host.run(script.replace("SECONDS + 15", "SECONDS + 1"))
    return "" if done.returncode == 0 else done.stderr


@pytest.fixture
def worker(host: Sandbox) -> Sandbox:
    host.put("ss", "echo LISTEN")
    # Another process after each reload.
    host.put("pgrep", 'grep -c "reload-or-restart haproxy" "$UNITS/calls" || true')
    host.put("dpkg", "echo '??5?????? c /etc/haproxy/haproxy.cfg'")
    return host


def test_a_worker_s_haproxy_is_started_and_reloaded_only_for_a_change(worker: Sandbox):
    assert endpoint(worker) == ""
    assert called(worker, "systemctl reload-or-restart haproxy")
    assert endpoint(worker) == ""
    assert not called(worker, "systemctl reload-or-restart haproxy")
    assert endpoint(worker, failoverProfile="fast") == ""
    assert called(worker, "systemctl reload-or-restart haproxy")


def test_a_reload_that_was_cut_off_is_done_by_the_next_run(worker: Sandbox):
    worker.put("systemctl", '[ "$1" != reload-or-restart ]')
    assert "HAProxy does not start" in endpoint(worker)
    worker.put("systemctl", "")
    assert endpoint(worker) == ""
    assert called(worker, "systemctl reload-or-restart haproxy")


def test_a_haproxy_of_someone_else_s_is_left_alone(worker: Sandbox):
    worker.path("etc/haproxy").mkdir()
    worker.path("etc/haproxy/haproxy.cfg").write_text("frontend ingress\n")
    assert "set localApiEndpoint to false" in endpoint(worker)
    assert worker.path("etc/haproxy/haproxy.cfg").read_text() == "frontend ingress\n"
    # The package's own is not.
    worker.put("dpkg", "")
    assert endpoint(worker) == ""


def test_a_haproxy_that_does_not_listen_is_reported(worker: Sandbox):
    worker.put("ss", "")
    assert "HAProxy does not serve 127.0.0.1:6443" in endpoint(worker)


def test_a_reload_that_failed_is_reported_and_repeated(worker: Sandbox):
    assert endpoint(worker) == ""
    worker.put("pgrep", "echo 17")
    for _ in range(2):
        assert "HAProxy does not serve" in endpoint(worker, failoverProfile="fast")
        assert called(worker, "systemctl reload-or-restart haproxy")


def test_a_configuration_that_haproxy_refuses_is_not_put_into_place(worker: Sandbox):
    assert endpoint(worker) == ""
    before = worker.path("etc/haproxy/haproxy.cfg").read_text()
    worker.put("haproxy", "exit 1")
    assert "continues with the old one" in endpoint(worker, failoverProfile="fast")
    assert worker.path("etc/haproxy/haproxy.cfg").read_text() == before


def test_a_haproxy_that_is_not_wanted_any_more_is_stopped_and_someone_else_s_stays(worker: Sandbox):
    assert endpoint(worker, localApiEndpoint="false") == ""
    assert not called(worker, "systemctl")
    assert endpoint(worker) == ""
    assert endpoint(worker, localApiEndpoint="false") == ""
    assert "systemctl --quiet disable --now haproxy" in worker.calls


def test_a_member_that_was_half_joined_leaves_etcd_before_its_data_goes(host: Sandbox):
    """Otherwise a member that votes already would take the majority of two with it."""
    (host.units / "cut-off").touch()
    assert join(host)
    (host.units / "cut-off").unlink()
    assert join(host) == ""
    order = [it for it in host.calls if it.startswith("kubeadm reset") or " remove " in it or "join --config" in it]
    assert [it.split()[0] for it in order] == ["python3", "kubeadm", "kubeadm"]
    assert host.path("etc/kubernetes/pki/ca.key").exists()


def test_data_stays_if_the_member_cannot_be_removed(host: Sandbox):
    (host.units / "cut-off").touch()
    assert join(host)
    (host.units / "cut-off").unlink()
    (host.units / "etcd-refuses").write_text("etcdserver: re-configuration failed due to not enough started members\n")
    assert "could not be removed: etcdserver: re-configuration failed" in join(host)
    assert not called(host, "kubeadm reset")


@pytest.mark.parametrize("control_plane", [True, False])
def test_a_clock_that_is_off_is_reported_before_the_host_joins(host: Sandbox, control_plane: bool):
    (host.units / "api").write_text("10 minutes ago")
    refusal = join(host, control_plane=control_plane)
    assert "clock is 600 s off" in refusal or "clock is 601 s off" in refusal
    assert not called(host, "kubeadm join")


def test_an_unsynchronised_clock_is_a_warning(host: Sandbox):
    (host.units / "synchronized").write_text("no\n")
    done = host.run(kubernetes_join_script(example_node(False)))
    assert done.returncode == 0
    assert "warning: this host's clock is not synchronized" in done.stderr


def test_an_api_that_does_not_answer_is_reported_before_the_host_joins(host: Sandbox):
    (host.units / "api").unlink()
    assert "the API does not answer at https://198.51.100.100:6443" in join(host)


@pytest.mark.parametrize("control_plane", [True, False])
def test_a_refused_join_has_kubeadm_s_reason(host: Sandbox, control_plane: bool):
    failing(host, "I1128 preflight\nerror execution phase kubelet-start: timed out waiting for the condition\n")
    assert "kubeadm could not join the cluster: error execution phase kubelet-start" in join(
        host, control_plane=control_plane
    )


def test_a_worker_waits_until_its_predecessor_is_not_ready_any_more(host: Sandbox):
    refused = 'a Node with name "k8s-worker-0" and status "Ready" already exists in the cluster'
    kubeadm = f"[ $(grep -c 'kubeadm join' $UNITS/calls) -ge 3 ] || {{ echo '{refused}'; exit 1; }}"
    host.put("kubeadm", f"{kubeadm}\n{KUBEADM}")
    done = host.run(kubernetes_join_script(example_node(False)))
    assert done.returncode == 0, done.stderr
    assert host.calls.count("sleep 5") == 2


def test_a_member_that_does_not_serve_fails_the_step_and_says_why(host: Sandbox):
    host.put("curl", CURL.replace("*https://198.51.100.2*) ;;", "*https://198.51.100.2*) exit 7 ;;"))
    assert "after 300 s its API server does not answer /readyz" in join(host)


MEMBERS = "10000 k8s-cp-0 198.51.100.21 voter unhealthy\n10001 k8s-cp-1 198.51.100.22 voter leader\n"


def test_a_member_whose_run_was_killed_while_it_was_leaving_starts_its_kubelet(host: Sandbox):
    assert join(host) == ""
    assert join(host) == ""
    assert "systemctl start kubelet" in host.calls


def test_a_worker_that_has_left_and_was_kept_joins_again(host: Sandbox):
    """Nova could not delete it, or the run was killed: its Node is gone."""
    assert join(host, control_plane=False) == ""
    (host.units / "node").write_text("")
    host.put("kubeadm", f'{KUBEADM}\ncase $* in "join --config"*) echo node/k8s-worker-0 >"$UNITS/node" ;; esac')
    assert join(host, control_plane=False) == ""
    assert [it.split()[1] for it in called(host, "kubeadm")] == ["reset", "join"]
    # With the addresses that the Node had.
    assert called(host, "ip link delete") == ["ip link delete cni0", "ip link delete flannel.1"]
    assert join(host, control_plane=False) == ""
    assert not called(host, "kubeadm")


def test_a_control_plane_host_that_has_left_and_was_kept_joins_again(host: Sandbox):
    assert join(host) == ""
    host.put("kubeadm", f'{KUBEADM}\ncase $* in "join --config"*) rm "$UNITS/not-healthy" ;; esac')
    (host.units / "not-healthy").touch()
    assert join(host) == ""
    etcd = [it.partition("etcd.py ")[2] for it in called(host, "python3")]
    assert "--endpoint https://198.51.100.22:2379 members" in etcd
    order = [it for it in host.calls if it.startswith("kubeadm reset") or " remove " in it or "join --config" in it]
    assert [it.split()[0] for it in order] == ["python3", "kubeadm", "kubeadm"]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("etcd-members", MEMBERS),
        ("etcd-members", ""),
        ("etcd-refuses", "no etcd member answers\n"),
        ("etcd-pods", "https://198.51.100.21:2379\n"),
        ("etcd-pods", ""),
    ],
    ids=["it is a member", "no list", "no answer", "it is the only member", "nobody is known"],
)
def test_a_member_that_does_not_serve_is_not_reset_unless_other_members_say_that_it_is_none(
    host: Sandbox, name: str, answer: str
):
    assert join(host) == ""
    (host.units / "not-healthy").touch()
    (host.units / name).write_text(answer)
    assert "this host has joined the cluster, but after 300 s" in join(host)
    assert not called(host, "kubeadm")
    assert host.path(f"{STATE}/joined").exists()


@pytest.mark.parametrize("control_plane", [True, False])
def test_a_member_is_not_reset_while_the_api_does_not_answer(host: Sandbox, control_plane: bool):
    assert join(host, control_plane=control_plane) == ""
    (host.units / "not-healthy").touch()
    (host.units / "node").write_text("")
    host.put("kubectl", "exit 1")
    assert ("after 300 s" in join(host)) if control_plane else (join(host, control_plane=False) == "")
    assert not called(host, "kubeadm")


def test_a_worker_has_joined_when_it_has_a_node(host: Sandbox):
    """The next run would take one without for a worker that has left."""
    (host.units / "node").write_text("")
    assert "kubelet has not registered its Node" in join(host, control_plane=False)
    assert not host.path(f"{STATE}/joined").exists()


NAMES = {"endpointName": "api.example.com", "apiServerNames": '["*.example.org"]'}


def test_a_new_name_is_certified_on_a_member(host: Sandbox):
    assert join(host) == ""
    script = kubernetes_join_script(example_node(**NAMES))
    assert host.run(script).returncode == 0
    assert called(host, "kubeadm") == ["kubeadm init phase certs apiserver --config /etc/kubernetes/ha-api/init.yaml"]
    assert "api.example.com" in host.path("etc/kubernetes/ha-api/init.yaml").read_text()
    (host.units / "names").write_text(
        "DNS:*.example.org, DNS:api.example.com, IP Address:198.51.100.100, IP Address:127.0.0.1"
    )
    assert host.run(script).returncode == 0
    assert not called(host, "kubeadm")


def test_a_certificate_with_an_ipv6_address_is_renewed_once(host: Sandbox):
    """OpenSSL has its own way of writing such an address."""
    assert join(host) == ""
    self_signed = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=a"]
    names = "subjectAltName=IP:2001:db8::5,IP:198.51.100.100,IP:127.0.0.1"
    certificate = host.path("etc/kubernetes/pki/apiserver.crt")
    subprocess.run([*self_signed, "-addext", names, "-keyout", "/dev/null", "-out", certificate], check=True)
    host.put("openssl", 'exec /usr/bin/openssl "$@"')
    for address, renewals in (("2001:db8::5", 0), ("2001:db8::6", 1)):
        script = kubernetes_join_script(example_node(apiServerNames=f'["{address}"]'))
        assert host.run(script).returncode == 0
        assert len(called(host, "kubeadm init phase certs apiserver")) == renewals


def test_a_certificate_that_cannot_be_renewed_stays(host: Sandbox):
    assert join(host) == ""
    host.path("etc/kubernetes/pki/apiserver.crt").write_text("the old one")
    (host.units / "no-certificate").touch()
    done = host.run(kubernetes_join_script(example_node(**NAMES)))
    assert done.returncode == 1
    assert "could not be renewed with the name api.example.com; the old one is in place" in done.stderr
    assert host.path("etc/kubernetes/pki/apiserver.crt").read_text() == "the old one"


@pytest.mark.parametrize("left", ["apiserver.key", ""], ids=["the certificate was moved", "both were moved"])
def test_a_renewal_that_was_cut_off_is_done_by_the_next_run(host: Sandbox, left: str):
    assert join(host) == ""
    pki = host.path("etc/kubernetes/pki")
    (pki / "old.cutoff").mkdir()
    for name in ("apiserver.crt", "apiserver.key"):
        if name != left:
            (pki / name).rename(pki / "old.cutoff" / name)
    host.put("openssl", "cat /etc/kubernetes/pki/apiserver.crt && echo 'DNS:kubernetes, IP Address:198.51.100.100'")
    assert join(host) == ""
    assert {it.name for it in pki.glob("apiserver.*")} == {"apiserver.crt", "apiserver.key"}
    assert not [*pki.glob("old.*")]


# ---- The cluster -----------------------------------------------------------------------------------------------------


def test_the_plugin_is_applied_and_dns_spread(host: Sandbox):
    host.put("kubectl", 'cat >>"$UNITS/applied"')
    done = host.run(kubernetes_network_script(example_cluster()))
    assert (done.returncode, done.stdout) == (0, "networkPlugin=flannel\n")
    assert "kind: DaemonSet" in (host.units / "applied").read_text()
    assert [
        it for it in called(host, "kubectl") if "patch deployment coredns" in it and "requiredDuringScheduling" in it
    ]
    host.put("kubectl", "")
    done = host.run(kubernetes_network_script(example_cluster(networkPlugin="none")))
    assert (done.returncode, done.stdout) == (0, "networkPlugin=none\n")
    assert not [it for it in called(host, "kubectl") if " apply " in it]


@pytest.mark.parametrize(
    ("changes", "endpoint"),
    [({}, "https://127.0.0.1:6443"), ({"localApiEndpoint": "false"}, "https://198.51.100.100:6443")],
)
def test_kube_proxy_gets_the_endpoint_and_restarts_if_it_is_another(
    host: Sandbox, changes: dict[str, str], endpoint: str
):
    """Again in each run, since an earlier one may have been cut off: the same annotation restarts nothing."""
    for _ in range(2):
        assert host.run(kubernetes_network_script(example_cluster(**changes))).returncode == 0
        assert (host.units / "kube-proxy").read_text() == f"{endpoint}\n"
        (patch,) = [it for it in called(host, "kubectl") if "patch daemonset kube-proxy" in it]
        assert f'"openstack-ha-api/endpoint": "{endpoint}"' in patch


def test_without_kube_proxy_there_is_nothing_to_point(host: Sandbox):
    host.put("kubectl", f"case $* in *configmap*) ;; *) {KUBECTL} ;; esac")
    assert host.run(kubernetes_network_script(example_cluster())).returncode == 0
    assert not [it for it in called(host, "kubectl") if "kube-proxy --patch" in it or "replace" in it]


def test_a_plugin_that_is_refused_is_reported(host: Sandbox):
    host.put("kubectl", 'echo "error validating data" >&2; exit 1')
    done = host.run(kubernetes_network_script(example_cluster()))
    assert done.returncode == 1
    assert "the network plugin could not be installed: error validating data" in done.stderr


def ready(host: Sandbox, **changes: str) -> str:
    script = kubernetes_ready_script(example_node(**changes).cluster.settings)
    done = host.run(script.replace("SECONDS + 300", "SECONDS + 1"))
    return "" if done.returncode == 0 else done.stderr


def test_the_cluster_is_ready_with_its_nodes_kubelets_and_dns(host: Sandbox):
    assert ready(host) == ""
    assert [it for it in called(host, "kubectl") if "label node k8s-worker-0 node-role.kubernetes.io/worker=" in it]
    # When the workers can take it.
    calls = [it for it in called(host, "kubectl") if "proxy/healthz" in it or "patch deployment coredns" in it]
    assert "patch" in calls[-1] and "DoesNotExist" in calls[-1]
    assert ready(host, workerCount="0") == ""
    assert not [it for it in called(host, "kubectl") if "patch deployment coredns" in it]


@pytest.mark.parametrize(
    ("case", "answer", "reason"),
    [
        (
            "*get\\ node\\ k8s-cp-1\\ *",
            "printf 'False container runtime network not ready'",
            "k8s-cp-1 is not Ready: container",
        ),
        ("*/nodes/k8s-worker-0/proxy*", "printf 'x509: unknown authority'", "do not reach the kubelet of k8s-worker-0"),
        ("*deployment\\ coredns*", "printf '3 3 2 1'", "CoreDNS does not run on 2 hosts"),
        ("*deployment\\ coredns*", "printf '2 3 2 2'", "CoreDNS does not run on 2 hosts"),
    ],
)
def test_what_is_not_ready_is_named(host: Sandbox, case: str, answer: str, reason: str):
    host.put("kubectl", f"case $* in {case}) {answer} ;; *) {KUBECTL} ;; esac")
    assert reason in ready(host)


@pytest.mark.parametrize(
    ("count", "taint", "ends"),
    [("1", "gpu:NoExecute", True), ("1", "a/b=c:NoSchedule", True), ("1", "gpu:PreferNoSchedule", False),
     ("3", "gpu:NoExecute", False)],
)  # fmt: skip
def test_dns_on_one_host_is_enough_where_it_tolerates_the_taints_of_one_alone(
    host: Sandbox, count: str, taint: str, ends: bool
):
    (host.units / "coredns").write_text("3 3 1 1")
    said = ready(host, controlPlaneCount=count, workerCount="2", workerTaints=f'["{taint}"]')
    assert (said == "") is ends, said


def leave(
    host: Sandbox, *, control_plane: bool = True, returning: tuple[str, ...] = (), wait: int = 0, warns: bool = False
) -> str:
    script = kubernetes_leave_script(
        "k8s-cp-1",
        IPv4Address("198.51.100.22"),
        control_plane=control_plane,
        healthy_others=2,
        returning=returning,
        wait=wait,
        drain=60,
    )
    left = host.run(script.replace("-lt 30", "-lt 1"))
    if left.returncode:
        return f"{left.returncode}: {left.stderr}"
    calls = (host.units / "calls").read_text()
    cordoned = "cordoned" in left.stdout
    removed = host.run(
        kubernetes_remove_script(
            "k8s-cp-1", IPv4Address("198.51.100.22"), control_plane=control_plane, cordoned=cordoned, wait=wait
        )
    )
    (host.units / "calls").write_text(calls + (host.units / "calls").read_text())
    if removed.returncode:
        return f"{removed.returncode}: {removed.stderr}"
    return left.stderr + removed.stderr if warns else ""


def order(host: Sandbox) -> list[str]:
    words = {"spare", "drain", "remove", "delete"}
    return [
        word
        for call in host.calls
        for word in call.split()
        if word in words and call.startswith(("kubectl", "python3"))
    ]


def test_a_worker_whose_node_appears_after_it_has_joined_is_waited_for(host: Sandbox):
    missing = "{ echo 'nodes \"k8s-worker-0\" not found' >&2; exit 1; }"
    appears = f"[ $(grep -c 'label node' $UNITS/calls) -ge 3 ] || {missing}"
    host.put("kubectl", f"case $* in *label*) {appears} ;; *) {KUBECTL} ;; esac")
    assert ready(host) == ""
    host.put("kubectl", f"case $* in *label*) {missing} ;; *) {KUBECTL} ;; esac")
    assert 'k8s-worker-0 could not be labelled as a worker: nodes "k8s-worker-0" not found' in ready(host)


@pytest.fixture
def member(host: Sandbox) -> Sandbox:
    host.path(STATE).mkdir(parents=True)
    host.path(f"{STATE}/joined").touch()
    host.path("usr/local/lib/ha-api").mkdir(parents=True)
    host.path("usr/local/lib/ha-api/etcd.py").write_text("#!/usr/bin/env python3\n")
    host.path("usr/local/lib/ha-api/etcd.py").chmod(0o755)
    (host.units / "node-ready").write_text("True")
    (host.units / "control-plane").write_text("".join(f"k8s-cp-{it} 198.51.100.2{it + 1} True\n" for it in range(3)))
    (host.units / "workers").write_text("k8s-cp-1 True\nk8s-worker-0 True\nk8s-worker-1 True\n")
    return host


def test_a_host_is_drained_removed_from_etcd_and_deleted_in_this_order(member: Sandbox):
    assert leave(member) == ""
    assert order(member) == ["spare", "drain", "remove", "delete"]
    assert leave(member, control_plane=False) == ""
    assert order(member) == ["drain", "delete"]


def test_a_host_that_vanished_is_not_drained(member: Sandbox):
    for ready_status in ("Unknown", ""):
        (member.units / "node-ready").write_text(ready_status)
        assert leave(member) == ""
        assert order(member) == ["spare", "remove", "delete"]


def test_a_host_whose_pods_do_not_end_leaves_all_the_same(member: Sandbox):
    member.put("kubectl", f"case $* in *drain*) exit 1 ;; *) {KUBECTL} ;; esac")
    assert leave(member) == ""
    assert order(member)[-1] == "delete"


def test_a_member_that_etcd_needs_does_not_leave(member: Sandbox):
    member.put("python3", "case $* in *spare*) echo 1 other etcd members are healthy; exit 1 ;; esac")
    refusal = leave(member)
    assert "k8s-cp-1 does not leave, because etcd would lose its majority" in refusal
    assert "1 other etcd members are healthy" in refusal
    assert set(order(member)) == {"spare"}


def test_a_member_that_joins_is_waited_for(member: Sandbox):
    member.put("python3", 'case $* in *spare*) [ "$(grep -c spare "$UNITS/calls")" -ge 3 ] ;; esac')
    assert leave(member, wait=60) == ""
    assert order(member) == ["spare", "spare", "spare", "drain", "remove", "delete"]


def not_serving(member: Sandbox, address: str) -> None:
    member.put("curl", f"case $* in *https://{address}:6443/readyz*) exit 7 ;; *) {CURL} ;; esac")


def test_a_host_stays_while_the_one_before_it_votes_in_etcd_and_does_not_serve_yet(member: Sandbox):
    not_serving(member, "198.51.100.21")
    refusal = leave(member)
    assert "k8s-cp-1 does not leave, because 2 other hosts need an API server that is ready" in refusal
    assert "only these have one: k8s-cp-2;" in refusal
    assert set(order(member)) == {"spare"}


def test_a_host_stays_while_another_one_s_node_is_not_ready(member: Sandbox):
    nodes = member.units / "control-plane"
    nodes.write_text(nodes.read_text().replace("198.51.100.21 True", "198.51.100.21 False"))
    assert "only these have one: k8s-cp-2;" in leave(member)
    assert set(order(member)) == {"spare"}
    # Nor is its own, without a network plugin.
    (member.units / "node-ready").write_text("False")
    assert leave(member) == ""


def test_a_host_stays_while_one_that_left_in_the_same_run_does_not_serve_again(member: Sandbox):
    """Also if so many others do that a majority would be left."""
    with (member.units / "control-plane").open("a") as nodes:
        nodes.write("k8s-cp-3 198.51.100.24 True\n")
    not_serving(member, "198.51.100.21")
    assert leave(member) == ""
    refusal = leave(member, returning=("k8s-cp-0",))
    assert "those that were replaced in this run too; only these have one: k8s-cp-2 k8s-cp-3" in refusal


def test_a_host_that_vanished_leaves_while_another_one_does_not_serve(member: Sandbox):
    not_serving(member, "198.51.100.21")
    (member.units / "node-ready").write_text("Unknown")
    assert leave(member) == ""


def test_a_worker_waits_until_the_others_are_ready_and_leaves_all_the_same(member: Sandbox):
    assert leave(member, control_plane=False) == ""
    (member.units / "workers").write_text("k8s-cp-1 True\nk8s-worker-0 Unknown\nk8s-worker-1 True\n")
    warning = leave(member, control_plane=False, warns=True)
    assert "warning: k8s-cp-1 leaves, although not all other workers are Ready" in warning
    assert order(member) == ["drain", "delete"]


def test_a_worker_stays_if_one_that_left_before_it_in_the_same_run_is_not_back(member: Sandbox):
    """What keeps that one away, such as an image that does not work, would keep every worker away."""
    for others in ("", "k8s-worker-0 False\n"):
        # Enough others, on the way to fewer workers.
        (member.units / "workers").write_text(f"k8s-cp-1 True\n{others}k8s-worker-1 True\nk8s-worker-2 True\n")
        refusal = leave(member, control_plane=False, returning=("k8s-worker-0",))
        assert "1: " in refusal
        assert "k8s-cp-1 does not leave, because k8s-worker-0 left in this run, to be replaced" in refusal
        assert order(member) == []


def test_a_worker_does_not_wait_for_one_that_is_back(member: Sandbox):
    assert leave(member, control_plane=False, returning=("k8s-worker-0",)) == ""
    (member.units / "workers").write_text("k8s-cp-1 True\nk8s-worker-0 True\nk8s-worker-1 Unknown\n")
    warning = leave(member, control_plane=False, returning=("k8s-worker-0",), warns=True)
    assert "warning: k8s-cp-1 leaves, although not all other workers are Ready" in warning


def test_without_a_network_plugin_a_worker_that_is_back_is_not_ready_and_the_next_one_leaves(member: Sandbox):
    (member.units / "node-ready").write_text("False")
    (member.units / "workers").write_text("k8s-cp-1 False\nk8s-worker-0 False\nk8s-worker-1 False\n")
    assert "leaves, although" in leave(member, control_plane=False, returning=("k8s-worker-0",), warns=True)
    assert order(member) == ["delete"]


def test_a_host_that_was_replaced_has_the_time_of_its_four_steps_to_come_back(member: Sandbox):
    """Each of them may take as long as `wait`."""
    member.put("sleep", "exec /usr/bin/sleep 0.2")
    member.put("python3", "case $* in *spare*) exit 1 ;; esac")
    (member.units / "workers").write_text("k8s-cp-1 True\nk8s-worker-1 True\n")
    for control_plane in (True, False):
        started = time.monotonic()
        assert "does not leave" in leave(member, control_plane=control_plane, returning=("k8s-worker-0",), wait=1)
        assert time.monotonic() - started > 2.5


def test_a_host_that_has_not_joined_itself_says_so_as_if_it_were_unreachable(member: Sandbox):
    """A first host that is being replaced answers before it is in the cluster; the next one is."""
    member.path(f"{STATE}/joined").unlink()
    assert leave(member) == "255: it is not in the cluster itself\n"
    assert order(member) == []


def test_a_node_is_deleted_once_etcd_has_a_leader_again(member: Sandbox):
    member.put(
        "kubectl",
        f"case $* in *'delete node'*) [ $(grep -c 'delete node' $UNITS/calls) -ge 3 ] ;; *) {KUBECTL} ;; esac",
    )
    assert leave(member, wait=60) == ""
    assert order(member)[2:] == ["remove", "delete", "delete", "delete"]
    member.put("kubectl", f"case $* in *'delete node'*) echo no leader >&2; exit 1 ;; *) {KUBECTL} ;; esac")
    assert "the Node k8s-cp-1 could not be deleted: no leader" in leave(member)


@pytest.mark.parametrize("control_plane", [True, False])
def test_a_host_that_was_drained_and_does_not_leave_gets_pods_again(member: Sandbox, control_plane: bool):
    member.put("kubectl", f"case $* in *'delete node'*) exit 1 ;; *) {KUBECTL} ;; esac")
    assert "could not be deleted" in leave(member, control_plane=control_plane)
    assert called(member, "kubectl")[-1].endswith("uncordon k8s-cp-1")
    member.put("kubectl", KUBECTL)
    assert leave(member, control_plane=control_plane) == ""
    assert not [it for it in called(member, "kubectl") if "uncordon" in it]


def test_a_host_that_etcd_does_not_remove_gets_pods_again_unless_it_had_none(member: Sandbox):
    member.put("python3", "case $* in *remove*) exit 1 ;; esac")
    assert "could not be removed from etcd" in leave(member)
    assert called(member, "kubectl")[-1].endswith("uncordon k8s-cp-1")
    (member.units / "node-ready").write_text("True true")
    assert "could not be removed from etcd" in leave(member)
    assert not [it for it in called(member, "kubectl") if "uncordon" in it]


def test_a_host_that_leaves_ends_its_api_server_and_keeps_its_etcd(member: Sandbox):
    member.put("crictl", "case $* in *ps*kube-apiserver*) echo 7e ;; esac")
    done = member.run(kubernetes_stop_api_server_script())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    stopped = [it for it in member.calls if it.startswith(("systemctl", "crictl", "python3"))]
    assert [it.split()[0] for it in stopped] == ["systemctl", "crictl", "crictl", "python3"]
    assert "stop kubelet" in stopped[0]
    assert stopped[2].endswith("stop --timeout 20 7e")
    assert stopped[3].endswith("etcd.py yield")


def test_another_host_is_asked_where_the_api_or_etcd_does_not_answer(member: Sandbox):
    """With ssh's own status for a host that cannot be reached."""
    (member.units / "etcd-refuses").write_text("no leader\n")
    assert leave(member) == "255: its etcd member does not answer: no leader\n"
    assert order(member) == []
    member.put("kubectl", "echo no route; exit 1")
    assert leave(member) == "255: the API does not answer: no route\n"
    assert order(member) == []
