"""Nothing that is secret is left in a text, in whatever way it came into it."""

import base64
import json
import time
from urllib.parse import quote

import pytest

from dev.standin.certificate import self_signed
from operate.support.redaction import REDACTED, SHORTEST_LINE, redact_json, redactor

SECRET = "s3cr&t<x"  # noqa: S105
PAIR = self_signed("client", [])
CLIENT = (PAIR.certificate + PAIR.key).decode()
KEY_LINES = [line for line in PAIR.key.decode().splitlines() if len(line) >= SHORTEST_LINE and line[:5] != "-----"]
redact = redactor([SECRET, CLIENT])


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"keepalived: password {SECRET} is wrong",
        json.dumps({"vrrpPassword": SECRET}),
        '{"vrrpPassword": "s3cr\\u0026t\\u003cx"}',
        "<value>s3cr&amp;t&lt;x</value>",
        f"GET /?p={quote(SECRET, safe='')}",
        base64.b64encode(SECRET.encode()).decode(),
        "\x00\ufffd" + SECRET + "\ufffd",
    ],
)
def test_a_secret_is_removed_in_every_encoding(text: str):
    clean = redact(text)
    assert REDACTED in clean
    assert not any(part in clean for part in ("s3cr", "&t<x", base64.b64encode(SECRET.encode()).decode()))


@pytest.mark.parametrize(
    "text",
    [
        CLIENT,
        json.dumps(CLIENT),
        CLIENT.replace("\n", "\r\n"),
        "".join(f"Nov 25 05:00:00 lb-0 vrrp[1]: {line}\n" for line in CLIENT.splitlines()),
        "\n".join(KEY_LINES),
        "\n".join(reversed(KEY_LINES)),
    ],
)
def test_a_configured_private_key_is_removed_line_by_line_too(text: str):
    clean = redact(text)
    assert not any(line in clean for line in KEY_LINES)


OTHER = self_signed("stranger", []).key.decode()
OTHER_LINES = OTHER.splitlines()[1:-1]


@pytest.mark.parametrize(
    "text",
    [
        OTHER,
        json.dumps(OTHER),
        "".join(f"Nov 25 05:00:00 lb-0 cloud-init[1]: {line}\n" for line in OTHER.splitlines()),
        # One end is gone: a journal begins, or ends, in its middle.
        "\n".join(OTHER.splitlines()[1:]),
        "\n".join(OTHER.splitlines()[:-1]),
        OTHER.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY"),
    ],
)
def test_unknown_private_keys_are_removed(text: str):
    clean = redactor([])(f"before\n{PAIR.certificate.decode()}\n{text}\n")
    assert not any(line in clean for line in OTHER_LINES)


def test_text_around_a_private_key_is_kept():
    assert redactor([])(f"before\n{OTHER}after\n") == f"before\n{REDACTED}\nafter\n"


BASIC = base64.b64encode(b"admin:hunter2").decode()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        # keepalived.conf and haproxy.cfg, also with an administrator's changes
        ("        auth_type PASS\n        auth_pass hunter2 with more\n    }", "auth_type PASS"),
        ('        auth_pass\t"hunter2 hunter3"\n    }', "\n    }"),
        ("    stats auth admin:hunter2\n    stats enable", "\n    stats enable"),
        ("    user admin insecure-password hunter2", "user admin"),
        ("    user ada password $6$abc$hunter2hunter2", "user ada"),
        (f'    http-request set-header Authorization "Basic {BASIC}"\nlisten x', "\nlisten x"),
        (f"    http-check send uri /readyz hdr Authorization 'Basic {BASIC}'", "uri /readyz"),
        (f"    option httpchk GET /readyz HTTP/1.1\\r\\nAuthorization:\\ Basic\\ {BASIC}", "GET /readyz"),
        ("    http-request add-header X-Api-Key hunter2", "add-header X-Api-Key "),
        ("    setenv SMTP_PASS hunter2", "setenv SMTP_PASS "),
        # journals
        ("lb-0 app[1]: password: correct hunter2\nlb-0 next", "\nlb-0 next"),
        ("lb-0 app[1]: started, token=hunter2 and hunter3", "started, token="),
        ("Environment=LANG=C AWS_SECRET_ACCESS_KEY=hunter2/abc", "LANG=C AWS_SECRET_ACCESS_KEY="),
        ('{"vrrpPassword": "my \\"hunter2"}', "vrrpPassword"),
        (json.dumps({"m": json.dumps({"a": json.dumps({"token": "my hunter2", "b": 1})})}), '{"m": "'),
        ("export API_KEY='hunter2'\nUSER=ada", "\nUSER=ada"),
        ("db-passwd := hunter2", "db-passwd :"),
        ("Secret Access Key = hunter2", "Secret Access Key = "),
        ("password:\n  hunter2", "password:"),
        (f"Proxy-Authorization: Basic {BASIC}", "Proxy-Authorization "),
        (f"the proxy refuses Basic {BASIC} of the client", "of the client"),
        ("curl -H 'bearer hunter2hunter2' https://a", "https://a"),
        ("http://user:hunter2@proxy:3128/", "@proxy:3128/"),
        ("http://user:hun@hunter2@proxy:3128/", "@proxy:3128/"),
        ("https://hunter2hunter2hunter2@git.example.com/a.git", "@git.example.com/a.git"),
        ("eyJhbGciOiJSUzI1NiJ9.eyJhunter2hunter2.c2lnbmF0dXJl", REDACTED),
        ("kubeadm join --token abcdef.hunter2hunter2hu --v=5", "--v=5"),
        # logs of a cluster
        ("kubeadm join --certificate-key hunter2hunter2 --v=5", "kubeadm join --certificate-key "),
        ("kubeadm join --control-plane --certificate-key hunter2hunter2 --v=5", "--v=5"),
        ("exec: [kubeadm join --token hunter2 --v=5]", "--v=5]"),
        ('{"args":["kubeadm","--token","hunter2","--v=5"]}', '"--v=5"]}'),
        ("[upload-certs] Using certificate key:\nhunter2hunter2\nnext", "\nnext"),
        ("I1125 cp-0 kubeadm[1]: Using certificate key:\nI1125 cp-0 kubeadm[1]: hunter2\nnext", "\nnext"),
        ('E1125 05:00:00 "Unhandled" err="not valid:\\nabcdef.hunter2hunter2hu\\nagain"', "\\nagain"),
        ('"a \\"line:\\\\nabcdef.hunter2hunter2hu\\\\nagain"', "again"),
        ('"not valid:\\neyJhbGciOiJSUzI1NiJ9.eyJhunter2hunter2.c2lnbmF0dXJl\\nagain"', "\\nagain"),
        ('"request:\\nBearer hunter2hunter2\\nagain"', "\\nagain"),
        ("E1125 05:00:00 1 secret_manager.go:75] token=hunter2", "secret_manager.go:75] token="),
        ("the bootstrap token abcdef.hunter2hunter2hu has expired", "has expired"),
        ("    client-key-data: LS0tLS1CRUdJTiBSU0Ehunter2==\n    user: admin", "\n    user: admin"),
        ('{"client-key-data":"LS0tLS1CRUdJTiBFQyBhunter2=="}\nnext', "\nnext"),
        ("data [LS0tLS1CRUdJTiBFQyBhunter2==] of it", "] of it"),
        ("        - name: key1\n          secret: hunter2hunter2hunter2=\n    - identity: {}", "- identity: {}"),
        ("found gAAAAABhunter2hunter2hunter2==", "found "),
        ("LS0tLS1CRUdJTiBQUklWQVRFhunter2==", REDACTED),
        ("ada:$y$j9T$salt$hunter2hunter2", "ada:"),
        # consoles
        (
            "[15.1] cloud-init[612]: Set the following 'random' passwords\r\n[15.1] cloud-init[612]: root:hunter2\r\n"
            "[15.2] eth0: link up\r\n[15.3] cloud-init[612]: debian:hunter3\r\n[16.0] login: ready\r\n",
            "eth0: link up",
        ),
        ("[15.1] cloud-init[612]: debian:hunter2abcdefghijklm\r\nDebian GNU/Linux 12", "Debian GNU/Linux 12"),
        ("login as 'cirros' user. default password: 'hunter2'. use 'sudo' for root.", "login as 'cirros' user."),
    ],
)
def test_whatever_looks_like_a_secret_is_removed(text: str, kept: str):
    clean = redactor([])(text)
    assert "hunter" not in clean
    assert BASIC not in clean
    assert REDACTED in clean
    assert kept in clean
    assert redactor([])(clean) == clean, "twice is the same"


@pytest.mark.parametrize(
    "text",
    [
        PAIR.certificate.decode(),
        "2026-11-25T04:53:30 lb-0 vrrp[1627]: VI_1 is now BACKUP with priority 200",
        "Server apiserver/k8s-cp-0 is DOWN, reason: Layer4 timeout. 0 active and 0 backup servers left.",
        "see https://www.haproxy.org/ and http://198.51.100.10:8404/healthz",
        "ssh debian@198.51.100.11",
        "6.1.0-18-amd64 2.2.7-1+b2 net.ipv4.ip_nonlocal_bind = 1",
        "publicKey: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGw4 ada@example.com",
        "keyPair: dev-key, bastionHostKey: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGw4",
        "ci-info: | ssh-ed25519 | 5a:d5:ee:f1:2c:68:bd:11 | - | ada@example.com |",
        "-----BEGIN SSH HOST KEY KEYS-----\nssh-ed25519 AAAAC3NzaC1lZDI1 root@lb\n-----END SSH HOST KEY KEYS-----",
        "    server k8s-cp-0 198.51.100.21:6443 check fall 2 verify required ca-file /etc/haproxy/ha-api/ca.pem",
        "    http-request return status 200 hdr X-Configuration-Id 0123abc if { path /healthz }",
        'tcp LISTEN 0 4096 0.0.0.0:6443 0.0.0.0:* users:(("haproxy",pid=812,fd=7))',
        "10: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 link/ether fa:16:3e:00:00:31 brd ff:ff:ff:ff:ff:ff",
        "passwd\t1:4.13+dfsg1-1+deb12u1\nlibsecret-1-0\t0.20.5-3",
        "haproxy_process_frontend_ssl_key_rate 0",
        "lb-0 keepalived[1]: (VI_1) Entering MASTER STATE",
        # logs of a cluster
        "8e9e05c52164694d k8s-cp-0 198.51.100.20 voter leader",
        "k8s-cp-0   Ready   control-plane   5d   v1.37.2   198.51.100.20   <none>   Debian GNU/Linux 13 (trixie)",
        "64f1a3b2c9d0e   registry.k8s.io/etcd@sha256:71170330936954286be203a7737459f2838dd71cc79f8ffaac91548a9e079b8f",
        '2026-11-25T05:00:00Z stderr F {"level":"warn","msg":"apply request took too long","took":"120ms"}',
        'kubelet[812]: E1125 05:00:00 pod_workers.go:1301] "Error syncing pod" pod="kube-system/etcd-k8s-cp-0"',
        "the certificate key will be deleted in two hours -- keep it",
        'E1125 05:00:00 1 authentication.go:75] "Unable to authenticate the request" err="[x509: it has expired]"',
        "kubeadm join --kubeconfig /etc/kubernetes/admin.conf --node-ip 198.51.100.20",
    ],
)
def test_ordinary_text_is_kept(text: str):
    assert redactor([])(text) == text


def test_json_stays_json_without_the_values_of_names_that_may_be_a_secret_s():
    values = {
        "openstack-ha-api:vrrpPassword": {"secret": True},
        "fault": {"message": "failed with password: hunter2", "code": 500, "adminPass": "hunter2", "details": None},
        "credentials": ["hunter2", {"id": "a", "token": 12345678}],
        "ports": [{"name": "lb-0", "mac_address": "fa:16:3e:00:00:31"}],
        SECRET: f"{SECRET}!",
        "number": 87654321,
    }
    assert json.loads(redact_json(json.dumps(values), redactor([SECRET, "87654321"]))) == {
        "openstack-ha-api:vrrpPassword": {"secret": True},
        "fault": {
            "message": f"failed with password: {REDACTED}", "code": 500, "adminPass": REDACTED, "details": None,
        },
        "credentials": [REDACTED, {"id": "a", "token": REDACTED}],
        "ports": [{"name": "lb-0", "mac_address": "fa:16:3e:00:00:31"}],
        REDACTED: f"{REDACTED}!",
        "number": REDACTED,
    }  # fmt: skip


def test_a_short_secret_is_removed_by_its_name_alone():
    clean = redactor(["a", "abcde"])("a cat, abcde\n        auth_pass a\nvrrpPassword: abcde\n")
    assert clean == f"a cat, abcde\n        auth_pass {REDACTED}\nvrrpPassword: {REDACTED}\n"


def test_an_empty_secret_removes_nothing():
    assert redactor(["", " \n"])("a text") == "a text"


def test_a_secret_inside_another_leaves_nothing_behind():
    assert redactor(["abcdef", "abcdefghi"])("abcdefghi abcdef") == f"{REDACTED} {REDACTED}"


@pytest.mark.parametrize(
    "repeated",
    [
        "Nov 25 05:00:00 lb-0 haproxy[1]: 198.18.1.1:40712 [25/Nov/2026:05:00:00.000] apiserver apiserver/cp-0 1/0\n",
        "-",
        "a-",
        "key-",
        " ",
    ],
)
def test_the_time_grows_with_the_text_and_not_with_its_square(repeated: str):
    def seconds(length: int) -> float:
        text = "password" + repeated * (length // len(repeated))
        began = time.process_time()
        redact(text)
        return time.process_time() - began

    # 8 times as long; the square would be 64.
    long, short = (min(seconds(length) for _ in range(3)) for length in (100_000, 12_500))
    assert long < 24 * short
