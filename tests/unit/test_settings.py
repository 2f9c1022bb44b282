"""What the configuration accepts, what it refuses, and what it says then."""

import re
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from model.settings import SECRET_KEYS, ConfigurationError, ServerGroupPolicy, Settings
from tests.unit.example import example_values, key_pair
from tools.stack_file import project_schema, stack_values


def problems_of(**changes: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        Settings.parse(example_values(**changes))
    return refused.value.problems


def test_the_example_is_accepted():
    settings = Settings.parse(example_values(vip="198.51.100.100"))
    assert settings.vip == IPv4Address("198.51.100.100")
    assert settings.admin_cidrs == (IPv4Network("198.51.100.0/28"),)
    assert settings.control_plane.count == 3
    assert settings.load_balancers.server_group_policy is ServerGroupPolicy.SOFT_ANTI_AFFINITY
    assert settings.bastion is None
    assert not settings.vrrp_authentication


def test_the_committed_example_stack_is_accepted():
    assert Settings.parse(stack_values("dev"), secrets_are_readable=False).cluster_name == "dev"


def test_the_schema_and_the_settings_know_the_same_keys():
    computed = {"vrrpAuthentication", "apiClientCertificateSet", "loginPublicKey"}
    known = {field.alias for field in Settings.model_fields.values()} - computed | SECRET_KEYS
    assert known == set(project_schema())


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("controlPlaneCount", "4", "Raft.*use 3 or 5"),
        ("controlPlaneCount", "0", "greater than or equal to 1"),
        ("controlPlaneCount", "three", "valid integer"),
        ("workerCount", "-1", "greater than or equal to 0"),
        ("vip", "198.51.100.300", "not an IPv4 address"),
        ("vip", "2001:db8::1", "not an IPv4 address"),
        ("adminCidrs", "[]", "is empty"),
        ("adminCidrs", "198.51.100.0/24", "not an array"),
        ("adminCidrs", '["198.51.100.0/33"]', "not an IPv4 network"),
        ("adminCidrs", '["198.51.100.7/24"]', "did you mean 198.51.100.0/24"),
        ("apiAllowedCidrs", '["10.0.0.0/8", "10.1.0.0/16"]', "10.0.0.0/8 and 10.1.0.0/16 overlap"),
        ("apiAllowedCidrs", '["10.0.0.0/8", "10.0.0.0/8"]', "overlap"),
        ("network", "", "is empty"),
        ("network", "a\nb", "contains '\\\\n'"),
        ("network", "$(reboot)", r"contains '\$'"),
        ("network", 'a"b', "contains"),
        ("loadBalancerFlavor", "it's", "contains"),
        ("workerFlavor", "", "set workerCount to 0"),
        ("clusterName", "K8s", "lower-case"),
        ("clusterName", "a" * 41, "at most 40"),
        ("loadBalancerUser", "deb ian", "pattern"),
        ("loadBalancerServerGroupPolicy", "affinity", "'soft-anti-affinity', 'anti-affinity' or 'none'"),
        ("vrrpRouterId", "0", "greater than or equal to 1"),
        ("vrrpRouterId", "256", "less than or equal to 255"),
        ("publicKey", "ssh-rsa nonsense", "not an OpenSSH public key"),
        ("keyPair", "mine", "both set"),
        ("bastionHost", "jump host", "pattern"),
        ("aptProxy", "proxy:3142", "http"),
        ("aptMirror", "http://user:password@mirror/debian", "without user"),
        ("haproxyBranch", "3.0; reboot", "pattern"),
        ("sshTimeout", "1", "greater than or equal to 10"),
        ("vipp", "198.51.100.1", "no key of this project"),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_reason(key: str, value: str, reason: str):
    problems = [problem for problem in problems_of(**{key: value}) if problem.startswith((f"{key} =", "publicKey ="))]
    assert any(re.search(reason, problem) for problem in problems), problems


def test_without_a_key_the_hosts_could_not_be_reached():
    assert any("both empty" in problem for problem in problems_of(publicKey="", keyPair=""))


def test_a_bastion_needs_a_pinned_host_key():
    assert any("ssh-keyscan" in problem for problem in problems_of(bastionHost="jump.example"))


def test_all_problems_are_told_at_once():
    problems = problems_of(controlPlaneCount="2", vip="nowhere", vrrpRouterId="0", vrrpPassword="123456789")
    assert [problem.split()[0] for problem in problems] == ["vrrpPassword", "vip", "controlPlaneCount", "vrrpRouterId"]


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("P@ssw0rd9", "has 9 characters"),
        ("a\nb", "letters"),
        ('"a"', "letters"),
        ("$(id)", "letters"),
        ("#abc", "letters"),
    ],
)
def test_a_vrrp_password_that_keepalived_would_misread_is_refused_and_not_shown(password: str, reason: str):
    (problem,) = problems_of(vrrpPassword=password)
    assert reason in problem
    assert password not in problem


def test_the_seed_s_password_is_accepted_and_not_kept():
    settings = Settings.parse(example_values(vrrpPassword="P@ssw0rd"))
    assert settings.vrrp_authentication
    assert "P@ssw0rd" not in repr(settings)


def test_a_private_key_is_never_part_of_the_settings():
    assert key_pair()[0] not in repr(Settings.parse(example_values()))


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----"]
)
def test_a_text_that_is_no_private_key_is_refused_and_not_shown(text: str):
    (problem,) = problems_of(sshPrivateKey=text)
    assert problem.startswith("sshPrivateKey (a secret) is not a private key")
    assert not text or text not in problem


def test_a_private_key_with_a_passphrase_is_refused():
    encrypted = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    (problem,) = problems_of(sshPrivateKey=encrypted.decode())
    assert "passphrase" in problem


def test_a_private_key_of_another_pair_is_refused():
    other = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (problem,) = problems_of(sshPrivateKey=other.decode())
    assert "does not belong" in problem


def test_a_missing_secret_says_where_to_look():
    values = example_values()
    del values["sshPrivateKey"]
    with pytest.raises(ConfigurationError, match="sshPrivateKey is not set; see its description"):
        Settings.parse(values)


def test_a_secret_in_clear_text_is_refused():
    with pytest.raises(ConfigurationError, match="vrrpPassword stands in the stack's file in clear text"):
        Settings.parse(example_values(vrrpPassword="P@ssw0rd"), unencrypted=frozenset({"vrrpPassword"}))
