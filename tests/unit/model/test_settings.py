"""What the configuration accepts, what it refuses, and what it says then."""

import re
from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv4Network
from itertools import permutations
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from pydantic.alias_generators import to_camel

from dev.standin.certificate import self_signed
from model.settings import SECRET_KEYS, ConfigurationError, ServerGroupPolicy, Settings, client_certificate_file
from model.timers import PROFILES, Profile, Timers
from operate.stack.files import project_schema, stack_values
from tests.unit.example import example_values, key_pair


def problems_of(**changes: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        Settings.parse(example_values(**changes))
    return refused.value.problems


def test_the_example_is_valid():
    settings = Settings.parse(example_values(vip="198.51.100.100"))
    assert settings.vip == IPv4Address("198.51.100.100")
    assert settings.admin_cidrs == (IPv4Network("198.51.100.0/28"),)
    assert settings.control_plane.count == 3
    assert settings.load_balancers.server_group_policy is ServerGroupPolicy.SOFT_ANTI_AFFINITY
    assert settings.bastion is None
    assert not settings.vrrp_authentication


def test_the_committed_example_stack_is_valid():
    assert Settings.parse(stack_values("dev"), secrets_are_readable=False).cluster_name == "dev"


def test_the_schema_and_the_settings_have_the_same_keys():
    computed = {"vrrpAuthentication", "apiClientCertificateSet", "loginPublicKey"}
    known = {field.alias for field in Settings.model_fields.values()} - computed | SECRET_KEYS
    assert known == set(project_schema())


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("controlPlaneCount", "4", "Raft.*use 3 or 5"),
        ("controlPlaneCount", "0", "no API server"),
        ("controlPlaneCount", "-1", "greater than or equal to 0"),
        ("controlPlaneImage", "", "controlPlaneCount is 3"),
        ("apiServers", '["198.51.100.0/24"]', "not a valid IPv4 address"),
        ("apiServers", '["198.51.100.9", "198.51.100.9"]', "twice"),
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
        ("workerRootVolumeType", "ssd", "workerRootVolumeSize is 0"),
        ("loadBalancerRootVolumeSize", "-1", "greater than or equal to 0"),
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
        ("failoverProfile", "furious", "'steady', 'default' or 'fast'"),
        ("advertisementInterval", "55", "hundredths of a second; use 60"),
        ("advertisementInterval", "41000", "less than or equal to 40950"),
        ("missedAdvertisements", "101", "less than or equal to 100"),
        ("watchdogInterval", "10", "below 20 ms"),
        ("watchdogInterval", "5000", "less than or equal to 4000"),
        ("apiCheckTimeout", "-1", "greater than or equal to 0"),
        ("apiCaCertificate", "/etc/kubernetes/pki/ca.crt", "not a certificate in PEM"),
        ("vipp", "198.51.100.1", "not a key of this project"),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_reason(key: str, value: str, reason: str):
    problems = [problem for problem in problems_of(**{key: value}) if problem.startswith((f"{key} =", "publicKey ="))]
    assert any(re.search(reason, problem) for problem in problems), problems


def test_the_vip_is_refused_as_an_api_server():
    (problem,) = problems_of(vip="198.51.100.9", apiServers='["198.51.100.9"]')
    assert "lists the VIP" in problem


def test_existing_api_servers_can_replace_the_control_plane():
    nothing = {"controlPlaneCount": "0", "controlPlaneFlavor": "", "controlPlaneImage": ""}
    settings = Settings.parse(example_values(apiServers='["198.51.100.9"]', **nothing))
    assert settings.api_servers == (IPv4Address("198.51.100.9"),)
    assert settings.control_plane.count == 0


def test_a_public_key_or_a_key_pair_is_required():
    assert any("both empty" in problem for problem in problems_of(publicKey="", keyPair=""))


def test_a_bastion_needs_a_pinned_host_key():
    assert any("ssh-keyscan" in problem for problem in problems_of(bastionHost="jump.example"))


def test_all_problems_are_reported_together():
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


def test_the_seed_s_password_is_valid_and_not_kept_in_the_settings():
    settings = Settings.parse(example_values(vrrpPassword="P@ssw0rd"))
    assert settings.vrrp_authentication
    assert "P@ssw0rd" not in repr(settings)


def test_a_private_key_is_never_part_of_the_settings():
    assert key_pair()[0] not in repr(Settings.parse(example_values()))


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----"]
)
def test_an_invalid_private_key_is_refused_and_not_shown(text: str):
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


def test_a_missing_secret_is_reported_with_the_remedy():
    values = example_values()
    del values["sshPrivateKey"]
    with pytest.raises(ConfigurationError, match="sshPrivateKey is not set; see its description"):
        Settings.parse(values)


def test_a_secret_in_clear_text_is_refused():
    with pytest.raises(ConfigurationError, match=r"vrrpPassword .*clear text"):
        Settings.parse(example_values(vrrpPassword="P@ssw0rd"), unencrypted=frozenset({"vrrpPassword"}))


def test_a_profile_sets_all_timers_and_each_can_be_overridden():
    assert Settings.parse(example_values()).timers == PROFILES[Profile.DEFAULT]
    timers = Settings.parse(example_values(failoverProfile="fast", apiCheckTimeout="700")).timers
    assert timers == replace(PROFILES[Profile.FAST], api_check_timeout=700)


def test_the_schema_documents_each_profile_s_timers():
    schema = project_schema()
    for field in fields(Timers):
        told = re.search(r"\((\d+), (\d+), (\d+)\)", schema[to_camel(field.name)]["description"])
        profiles = (Profile.STEADY, Profile.DEFAULT, Profile.FAST)
        assert told
        assert [int(number) for number in told.groups()] == [getattr(PROFILES[it], field.name) for it in profiles]


def test_the_default_profile_keeps_the_vip_while_the_holder_pauses_for_half_a_second():
    """The last advertisement before the pause may have left one interval before it."""
    timers = PROFILES[Profile.DEFAULT]
    assert timers.master_down_interval - timers.advertisement_interval > 500
    assert timers.master_down_interval < 800


def test_after_a_profile_change_the_standby_hears_the_holder_twice_before_it_could_take_the_vip():
    """It changes first, and waits by its own new timers until it has heard an advertisement (VRRPv3)."""
    for mine, holders in permutations(PROFILES.values(), 2):
        assert mine.master_down_interval >= 2 * holders.advertisement_interval


def test_with_a_password_the_advertisement_interval_is_in_whole_seconds():
    timers = Settings.parse(example_values(vrrpPassword="P@ssw0rd")).timers
    assert (timers.advertisement_interval, timers.missed_advertisements) == (1000, 3)
    assert timers.watchdog_interval == PROFILES[Profile.DEFAULT].watchdog_interval
    (problem,) = problems_of(vrrpPassword="P@ssw0rd", advertisementInterval="300")
    assert problem.startswith("advertisementInterval = 300: vrrpPassword selects VRRPv2")


def test_checks_find_all_api_servers_down_before_the_vip_would_move():
    (problem,) = problems_of(apiCheckInterval="1500")
    assert problem.startswith("apiCheckInterval = 1500, watchdogInterval = 100: one load balancer may notice 887 ms")
    assert Settings.parse(example_values(apiCheckInterval="1500", missedAdvertisements="9")).timers
    for profile in Profile:
        assert Settings.parse(example_values(failoverProfile=profile)).timers == PROFILES[profile]


def test_only_the_certificates_of_a_ca_file_are_kept():
    pair = self_signed("a", [])
    settings = Settings.parse(example_values(apiCaCertificate=f"bind *:1\n{pair.certificate.decode()}bind *:2\n"))
    assert settings.api_ca_certificate == pair.certificate.decode()


@pytest.mark.parametrize("order", [1, -1])
def test_a_client_certificate_is_kept_in_haproxy_s_order(order: int):
    pair = self_signed("a", [])
    text = b"".join((pair.certificate, pair.key)[::order]).decode()
    assert client_certificate_file(text) == (pair.certificate + pair.key).decode()


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (["certificate"], "no private key"),
        (["key"], "is not a certificate"),
        (["certificate", "another key"], "does not belong"),
    ],
)
def test_an_unusable_client_certificate_is_refused_and_not_shown(parts: list[str], reason: str):
    pair = self_signed("a", [])
    texts = {"certificate": pair.certificate, "key": pair.key, "another key": self_signed("a", []).key}
    (problem,) = problems_of(apiClientCertificate=b"".join(texts[part] for part in parts).decode())
    assert problem.startswith("apiClientCertificate (a secret)")
    assert reason in problem
    assert "BEGIN" not in problem.replace("-----BEGIN CERTIFICATE-----", "")
