"""Nothing that is secret is left in a text, in whatever way it came into it."""

import base64
import json
import time
from urllib.parse import quote

import pytest

from dev.standin.certificate import self_signed
from operate.support.redaction import REDACTED, SHORTEST_LINE, redactor

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


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("        auth_pass hunter2 with more", "hunter2"),
        ("stats auth admin:hunter2", "hunter2"),
        ("  user admin insecure-password hunter2", "hunter2"),
        ("Authorization: Basic aHVudGVyMg==", "aHVudGVyMg"),
        ('"authorization": "Bearer hunter2hunter2"', "hunter2"),
        ("X-Auth-Token: gAAAAhunter2", "hunter2"),
        ("curl -H 'bearer hunter2hunter2'", "hunter2"),
        ("http://user:hunter2@proxy:3128/", "hunter2"),
        ("http://user:hun@ter2@proxy:3128/", "ter2"),
        ("password=hunter2", "hunter2"),
        ('OS_PASSWORD="hunter2"', "hunter2"),
        ('"vrrpPassword": "hunter2"', "hunter2"),
        ('password: "my hunter2"', "hunter2"),
        (json.dumps({"message": json.dumps({"adminPass": "my hunter2", "name": "k8s"})}), "hunter2"),
        (json.dumps(json.dumps({"message": json.dumps({"token": "my hunter2"})})), "hunter2"),
        ("password='my hunter2'", "hunter2"),
        ('password: "a\\"hunter2"', "hunter2"),
        ("password=a,hunter2", "hunter2"),
        ('password: "hunter2', "hunter2"),
        ("token='hunter2", "hunter2"),
        ('"adminPass": "hunter2"', "hunter2"),
        ("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJl.c2lnbmF0dXJl", "eyJpc3MiOiJrdWJl"),
        ("kubeadm join --token abcdef.0123456789abcdef", "0123456789abcdef"),
    ],
)
def test_whatever_looks_like_a_secret_is_removed(text: str, secret: str):
    clean = redactor([])(text)
    assert secret not in clean
    assert REDACTED in clean


@pytest.mark.parametrize(
    "text",
    [
        PAIR.certificate.decode(),
        '{"openstack-ha-api:vrrpPassword": {"secret": true}}',
        "2026-11-25T04:53:30 lb-0 vrrp[1627]: VI_1 is now BACKUP with priority 200",
        "Server apiserver/k8s-cp-0 is DOWN, reason: Layer4 timeout. 0 active and 0 backup servers left.",
        "see https://www.haproxy.org/ and http://198.51.100.10:8404/healthz",
        "ssh debian@198.51.100.11",
        "6.1.0-18-amd64 2.2.7-1+b2 net.ipv4.ip_nonlocal_bind = 1",
    ],
)
def test_ordinary_text_is_kept(text: str):
    assert redactor([])(text) == text


def test_a_short_secret_is_removed_by_its_name_alone():
    clean = redactor(["a", "abcde"])("a cat, abcde\n        auth_pass a\nvrrpPassword: abcde\n")
    assert clean == f"a cat, abcde\n        auth_pass {REDACTED}\nvrrpPassword: {REDACTED}\n"


def test_an_empty_secret_removes_nothing():
    assert redactor(["", " \n"])("a text") == "a text"


def test_a_secret_inside_another_leaves_nothing_behind():
    assert redactor(["abcdef", "abcdefghi"])("abcdefghi abcdef") == f"{REDACTED} {REDACTED}"


def test_megabytes_are_redacted_within_seconds():
    line = (
        "Nov 25 05:00:00 lb-0 haproxy[1]: 198.18.1.1:40712 [25/Nov/2026:05:00:00.000] apiserver apiserver/cp-0 1/0/13\n"
    )
    began = time.process_time()
    redact(line * 10_000)
    redact("-" * 1_000_000)
    redact("a-" * 250_000)
    assert time.process_time() - began < 4
