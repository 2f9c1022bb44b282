"""What the configuration accepts, what it refuses, and what it says then."""

import json
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
from model.settings import (
    SECRET_KEYS,
    Check,
    ConfigurationError,
    ServerGroupPolicy,
    Settings,
    Target,
    client_certificate_file,
)
from model.settings.stack_file import with_numbers
from model.timers import PROFILES, Profile, Timers
from model.topology import ELECTION_ADDRESS
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
    computed = {"vrrpAuthentication", "apiClientCertificateSet", "aptProxyEncrypted", "loginPublicKey"}
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
        ("floatingSubnet", "public-v4", "floatingNetwork is empty"),
        ("endpointName", "API.example.com", "lower case"),
        ("endpointName", "api.example.com.", "ends in a dot.*remove it"),
        ("endpointName", "api", "write it as api.example.com"),
        ("endpointName", "*.example.com", "not a DNS name"),
        ("endpointName", "198.51.100.100", "not a DNS name"),
        ("endpointName", "api.example.com; reboot", "not a DNS name"),
        ("endpointName", f"{'a' * 64}.example.com", "not a DNS name"),
        ("endpointZone", "example.com", "endpointName is empty"),
        ("adminCidrs", "[]", "is empty"),
        ("adminCidrs", "198.51.100.0/24", "not an array"),
        ("adminCidrs", '["198.51.100.0/33"]', "not an IPv4 network"),
        ("adminCidrs", "[7]", "not an IPv4 network"),
        ("apiServers", "[3325256705]", "not a valid IPv4 address"),
        ("adminCidrs", '["198.51.100.7/24"]', "did you mean 198.51.100.0/24"),
        ("apiAllowedCidrs", '["10.0.0.0/8", "10.1.0.0/16"]', "10.0.0.0/8 and 10.1.0.0/16 overlap"),
        ("apiAllowedCidrs", '["10.0.0.0/8", "10.0.0.0/8"]', "overlap"),
        ("network", "", "is empty"),
        ("network", "a\nb", "contains '\\\\n'.*remove it"),
        ("network", " lan", "white space.*remove it"),
        ("loadBalancerFlavor", "tab\tbed", "contains '\\\\t'"),
        ("workerAvailabilityZones", '["a\\nb"]', "contains '\\\\n'"),
        ("workerAvailabilityZones", "[1.10]", "put it in quotes"),
        ("workerFlavor", "", "set workerCount to 0"),
        ("workerRootVolumeType", "ssd", "workerRootVolumeSize is 0"),
        ("loadBalancerRootVolumeSize", "-1", "greater than or equal to 0"),
        ("clusterName", "K8s", "lower-case"),
        ("clusterName", "a" * 41, "at most 40"),
        ("loadBalancerUser", "deb ian", "not a login name; use .*letters, digits"),
        ("controlPlaneUser", "-root", "not a login name"),
        ("workerUser", "a" * 33, "not a login name.*at most 32"),
        ("bastionUser", "root;id", "not a login name"),
        ("bastionUser", "", "not a login name"),
        ("loadBalancerServerGroupPolicy", "affinity", "'soft-anti-affinity', 'anti-affinity' or 'none'"),
        ("vrrpRouterId", "0", "greater than or equal to 1"),
        ("vrrpRouterId", "256", "less than or equal to 255"),
        ("publicKey", "ssh-rsa nonsense", "not an OpenSSH public key"),
        ("keyPair", "mine", "both set"),
        ("bastionHost", "jump host", "not an address or a name"),
        ("bastionHost", "-oProxyCommand=id", "not an address or a name"),
        ("bastionHost", "jump.example:2222", "port belongs in bastionPort"),
        ("bastionHost", "[2001:db8::1]", "without brackets"),
        ("bastionHost", "fe80::1%$(id)", "not an address or a name"),
        ("hostKeyType", "rsa", "'ed25519' or 'ecdsa'"),
        ("aptProxy", "proxy:3142", "http"),
        ("aptMirror", "http://user:password@mirror/debian", "without user"),
        ("haproxyBranch", "3.0; reboot", "not a branch of HAProxy"),
        ("haproxyBranch", "3", r"put it in quotes.*3\.0"),  # what the engine makes of 3.0 without quotes
        ("haproxyBranch", 3.0, "put it in quotes"),
        ("haproxyBranch", 3.1, "put it in quotes"),
        ("network", 22.1, "put it in quotes"),
        ("clusterName", True, "put it in quotes"),
        ("loadBalancerUser", None, "put it in quotes"),
        ("sshTimeout", "1", "greater than or equal to 10"),
        ("failoverProfile", "furious", "'steady', 'default' or 'fast'"),
        ("advertisementInterval", "55", "hundredths of a second; use 60"),
        ("advertisementInterval", "41000", "less than or equal to 40950"),
        ("missedAdvertisements", "101", "less than or equal to 100"),
        ("watchdogInterval", "10", "below 20 ms"),
        ("watchdogInterval", "5000", "less than or equal to 4000"),
        ("apiCheckTimeout", "-1", "greater than or equal to 0"),
        ("apiCaCertificate", "/etc/kubernetes/pki/ca.crt", "not a certificate in PEM"),
        ("kubernetesVersion", "1.33", "from 1.34 on"),
        ("kubernetesVersion", "1.4", "put it in quotes"),
        ("kubernetesVersion", "v1.37.2", "such as 1.37"),
        ("kubernetesVersion", "1.37.2; reboot", "such as 1.37"),
        ("podNetwork", "10.244.0.1/16", "did you mean 10.244.0.0/16"),
        ("apiServerNames", '["API.example.com"]', "lower case"),
        ("apiServerNames", '["a b"]', "neither a DNS name"),
        ("kubernetesRepository", "https://user:password@mirror/", "without user"),
        ("kubernetesRepository", "https://mirror/ main", "without user"),
        ("kubernetesRepositoryKey", "-----BEGIN PGP PRIVATE KEY BLOCK-----", "public key"),
        ("registryMirror", "registry.example:5000", "https://registry.example:5000"),
        ("registryMirrorCa", "/etc/ssl/registry.crt", "not a certificate in PEM"),
        ("workerLabels", '["disk"]', "not a label"),
        ("workerLabels", '["disk=a b"]', "not a label"),
        ("workerLabels", '["node-role.kubernetes.io/worker="]', "may not label itself"),
        ("workerLabels", '["topology.kubernetes.io/rack=r1"]', "may not label itself"),
        ("workerLabels", '["/disk=ssd"]', "not a domain"),
        ("workerTaints", '["dedicated=batch"]', "NoExecute"),
        ("workerTaints", '["a,b:NoSchedule"]', "not a taint"),
        ("kubeletConfiguration", "[]", "not an object"),
        ("kubeletConfiguration", '{"serverTLSBootstrap": false}', "which the program sets.*remove it"),
        ("kubeletConfiguration", '{"kind": "Pod"}', "which the program sets; remove it"),
        ("networkPlugin", "cilium", "'flannel' or 'none'"),
        ("workerTaints", '["a=b:NoSchedule", "a=c:NoSchedule"]', "has a with NoSchedule twice"),
        ("workerTaints", '["a:NoExecute", "a=:NoExecute"]', "has a with NoExecute twice"),
        ("networkPluginPorts", '["udp/8472"]', "flannel's port is known"),
        ("networkPluginPorts", '["udp/0"]', "not a port"),
        ("networkPluginPorts", '["tcp/20-10"]', "not a port"),
        ("networkPluginPorts", '["tcp"]', "not a port"),
        ("nodePortCidrs", '["198.51.100.1/24"]', "did you mean"),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_reason(key: str, value: object, reason: str):
    problems = [problem for problem in problems_of(**{key: value}) if problem.startswith((f"{key} ", "publicKey "))]
    assert any(re.search(reason, problem) for problem in problems), problems


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback.*connect to itself"),
        ("127.1.2.3", "loopback"),
        ("0.0.0.0", "this network"),  # noqa: S104 - nothing listens
        ("0.1.2.3", "this network"),
        ("169.254.169.254", "link-local"),
        (ELECTION_ADDRESS, "link-local"),
        ("224.0.0.18", "multicast"),
        ("239.1.1.1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
    ],
)
def test_an_address_that_no_api_server_can_have_is_refused(address: str, reason: str):
    (problem,) = problems_of(apiServers=f'["198.51.100.9", "{address}"]')
    assert problem.startswith(f"apiServers = '{address}': ")
    assert re.search(f"{reason}.*; list the address", problem)


@pytest.mark.parametrize("address", ["10.0.0.1", "100.64.0.1", "192.168.0.10", "198.18.0.1", "203.0.113.5", "8.8.8.8"])
def test_any_unicast_address_can_be_an_api_server(address: str):
    assert Settings.parse(example_values(apiServers=f'["{address}"]')).api_servers == (IPv4Address(address),)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("network", "R&D-net"),
        ("subnet", "lan (v4) 'old'"),
        ("floatingNetwork", "public; <internet>"),
        ("loadBalancerImage", "Ubuntu 22.04 LTS (Jammy)"),
        ("controlPlaneImage", "Debian 12 | $(latest)"),
        ("workerFlavor", 'größe "L" {4 vCPU}'),
        ("loadBalancerFlavor", "`m1.small`\\2"),
        ("workerFlavor", 42),
        ("workerImage", "Fläche: stable"),
    ],
)
def test_a_name_that_only_the_cloud_reads_may_have_any_printable_character(key: str, name: object):
    values = Settings.parse(example_values(**{key: name})).model_dump(by_alias=True)
    assert values[key] == str(name)


def test_a_key_pair_and_zones_may_have_any_printable_character():
    settings = Settings.parse(
        example_values(publicKey="", keyPair="Jane's key (work)", workerAvailabilityZones='["DC 1 & 2", 3]')
    )
    assert settings.key_pair == "Jane's key (work)"
    assert settings.workers.availability_zones == ("DC 1 & 2", "3")


def test_a_public_key_s_comment_may_have_any_printable_character():
    public = f"{key_pair()[1]} Jane <jane@example.com>"
    assert Settings.parse(example_values(publicKey=public)).public_key == public


@pytest.mark.parametrize("user", ["first.last", "debian", "_svc", "svc_k8s-1", "Administrator", "0day"])
@pytest.mark.parametrize("key", ["loadBalancerUser", "controlPlaneUser", "workerUser", "bastionUser"])
def test_a_posix_login_name_is_accepted(key: str, user: str):
    assert Settings.parse(example_values(**{key: user})).model_dump(by_alias=True)[key] == user


@pytest.mark.parametrize("host", ["2001:db8::1", "198.51.100.7", "jump_host.corp", "jump.example", "localhost", "::1"])
def test_a_bastion_is_an_address_or_a_name(host: str):
    bastion = Settings.parse(example_values(bastionHost=host, bastionHostKey=key_pair()[1])).bastion
    assert bastion
    assert bastion.host == host


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [
        ("jump.example", "22", "jump.example"),
        ("jump.example", "2222", "[jump.example]:2222"),
        ("2001:db8::1", "22", "2001:db8::1"),
        ("2001:db8::1", "2222", "[2001:db8::1]:2222"),
    ],
)
def test_a_bastion_s_known_hosts_line_names_it_as_openssh_looks_it_up(host: str, port: str, name: str):
    values = example_values(bastionHost=host, bastionPort=port, bastionHostKey=key_pair()[1])
    bastion = Settings.parse(values).bastion
    assert bastion
    assert bastion.known_hosts == f"{name} {key_pair()[1]}\n"


@pytest.mark.parametrize("branch", ["", "2.8", "3.0", "3.10"])
def test_a_haproxy_branch_is_text(branch: str):
    assert Settings.parse(example_values(haproxyBranch=branch)).haproxy_branch == branch


@pytest.mark.parametrize(
    ("in_file", "passed", "refused"),
    [
        ("3.10", "3.1", True),
        ("3.1", "3.1", True),
        ("3.0", "3", True),
        ('"3.10"', "3.10", False),
        ("3.10", "2.8", False),  # another file's value (`pulumi --config-file`)
    ],
)
def test_a_number_without_quotes_is_found_where_the_engine_has_made_text_of_it(
    in_file: str, passed: str, refused: bool
):
    file = f"config:\n  p:haproxyBranch: {in_file}\n  p:network: lan\n  q:haproxyBranch: 3.0\n"
    values = with_numbers(example_values(haproxyBranch=passed), file, "p")
    if refused:
        with pytest.raises(ConfigurationError, match=r"haproxyBranch = .*put it in quotes"):
            Settings.parse(values)
    else:
        assert Settings.parse(values).haproxy_branch == passed


@pytest.mark.parametrize("file", ["", "config:\n", "encryptionsalt: x\n", "config: {p:a: 2024-99-99}", "{"])
def test_a_stack_s_file_without_such_numbers_changes_nothing(file: str):
    assert with_numbers({"a": "b"}, file, "p") == {"a": "b"}


BAD_VALUES = ("\x00", "a\nb", "$(id) `id`", "-x", "[", "[null]", '["\\u0000"]', "x" * 300, "", -1, 1.5, None, True)


@pytest.mark.parametrize("key", project_schema())
def test_no_message_contains_a_regular_expression(key: str):
    problems: list[str] = []
    for bad in BAD_VALUES:
        try:
            Settings.parse(example_values(**{key: bad}))
        except ConfigurationError as error:
            problems += [problem.replace(repr(bad), "") for problem in error.problems]
    assert problems
    for problem in problems:
        assert not re.search(r"pattern|regular expression|\\[dws]|\[[A-Za-z]-|\^|\(\?|\{\d|[\])][*+?]", problem), (
            problem
        )


def test_no_setting_is_checked_by_a_bare_pattern():
    """Its message would show the regular expression."""
    assert '"pattern"' not in json.dumps(Settings.model_json_schema(mode="validation"))


PRIVATE_KEY_BODY = "".join(key_pair()[0].splitlines()[1:-1])


def test_the_value_of_an_unknown_key_is_never_shown_and_the_right_key_is_suggested():
    (problem,) = problems_of(sshPrivatekey=key_pair()[0])
    assert problem.startswith("sshPrivatekey is not a key of this project")
    assert "sshPrivateKey?" in problem
    assert "pulumi config rm sshPrivatekey" in problem
    assert "PRIVATE KEY" not in problem
    (problem,) = problems_of(vrrpPasword="hunter22")
    assert "vrrpPassword?" in problem
    assert "hunter22" not in problem
    (problem,) = problems_of(zzz="198.51.100.1")
    assert "?" not in problem
    assert "198.51.100.1" not in problem


SECRETS_IN_CLEAR = (
    key_pair()[0],
    key_pair()[0].replace("\n", ""),
    PRIVATE_KEY_BODY,
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nhunter22",
    "http://user:hunter22@proxy:3128/a b",
    "gAAAAABmXx0123456789abcdefghijklmnopqrstuvwxyz",
)


@pytest.mark.parametrize("secret", SECRETS_IN_CLEAR, ids=range(len(SECRETS_IN_CLEAR)))
@pytest.mark.parametrize("key", [key for key in project_schema() if key not in SECRET_KEYS])
def test_a_value_that_looks_like_a_secret_is_never_shown(key: str, secret: str):
    for value in (secret, json.dumps([secret])):
        try:
            Settings.parse(example_values(**{key: value}))
        except ConfigurationError as error:
            text = str(error)
            parts = [part for part in re.split(r"\s+|\\n", secret) if len(part) > 20 or "hunter22" in part]
            assert parts
            assert not [part for part in parts if part in text]


def test_a_value_that_is_not_shown_is_refused_with_its_reason():
    (problem,) = problems_of(publicKey=key_pair()[0])
    assert problem.startswith("publicKey (not shown, because it may be a secret) is not an OpenSSH public key")
    (problem,) = problems_of(apiCaCertificate=key_pair()[0])
    assert "is not a certificate in PEM format" in problem


@pytest.mark.parametrize("key", ["vrrpAuthentication", "apiClientCertificateSet", "loginPublicKey"])
def test_what_the_program_computes_is_not_a_key(key: str):
    (problem,) = problems_of(**{key: "x"})
    assert problem.startswith(f"{key} is not a key of this project")


def test_a_plain_setting_is_refused_as_a_secret_and_not_shown():
    """It would be in Pulumi's state, previews and outputs in clear text."""
    encrypted = SECRET_KEYS | {"network", "workerCount", "vip", "unknown"}
    values = example_values(network="hidden-lan", workerCount="77", workerFlavor="", vip="nowhere", unknown="hunter22")
    with pytest.raises(ConfigurationError) as refused:
        Settings.parse(values, encrypted=encrypted)
    text = str(refused.value)
    for key in ("network", "workerCount", "vip"):
        assert re.search(rf"{key} is set as a secret.*without --secret", text)
    assert "unknown is not a key of this project" in text
    assert not [value for value in ("hidden-lan", "77", "nowhere", "hunter22") if value in text]


def test_ciphertext_in_a_stack_s_file_is_never_shown():
    values = example_values(
        network={"secure": "v1:hidden"},
        adminCidrs=["198.51.100.0/24", {"secure": "v1:hidden"}],
        odd={"secure": "v1:hidden"},
    )
    with pytest.raises(ConfigurationError) as refused:
        Settings.parse(values, secrets_are_readable=False)
    assert [problem.split()[0] for problem in refused.value.problems] == ["network", "adminCidrs", "odd"]
    assert "hidden" not in str(refused.value)


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


@pytest.mark.parametrize("zone", ["example.com", "api.example.com"])
def test_a_name_is_in_its_zone(zone: str):
    assert Settings.parse(example_values(endpointName="api.example.com", endpointZone=zone)).endpoint_zone == zone


@pytest.mark.parametrize("zone", ["example.org", "ample.com", "v1.api.example.com"])
def test_a_zone_that_the_name_is_not_in_is_refused(zone: str):
    (problem,) = problems_of(endpointName="api.example.com", endpointZone=zone)
    assert f"endpointZone = '{zone}': is not the zone of endpointName, api.example.com" in problem


def test_a_bastion_needs_a_pinned_host_key():
    assert any("ssh-keyscan" in problem for problem in problems_of(bastionHost="jump.example"))


def test_all_problems_are_reported_together():
    problems = problems_of(controlPlaneCount="2", vip="nowhere", vrrpRouterId="0", vrrpPassword="123456789")
    assert [problem.split()[0] for problem in problems] == ["vrrpPassword", "vip", "controlPlaneCount", "vrrpRouterId"]


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("P@ssw0rd9", "has 9 characters.*use 6 to 8"),
        ("P@s5w", "fewer than 6 characters.*use 6 to 8"),
        ("Q", "fewer than 6 characters"),
        ("abc\ndef", "letters"),
        ('"abcd"', "letters"),
        ("$(idid)", "letters"),
        ("#abcdef", "letters"),
    ],
)
def test_a_vrrp_password_that_keepalived_would_misread_is_refused_and_not_shown(password: str, reason: str):
    (problem,) = problems_of(vrrpPassword=password)
    assert re.search(reason, problem)
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
        Settings.parse(example_values(vrrpPassword="P@ssw0rd"), encrypted=SECRET_KEYS - {"vrrpPassword"})


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


PROXY = "http://me:50%25@proxy.example:3128"


@pytest.mark.parametrize(
    "proxy", ["http://proxy.example:3128", "http://[2001:db8::1]:3128", "https://198.51.100.7", ""]
)
def test_a_proxy_without_a_password_needs_no_encryption(proxy: str):
    settings = Settings.parse(example_values(aptProxy=proxy))
    assert settings.apt_proxy.get_secret_value() == proxy
    assert not settings.apt_proxy_encrypted


def test_a_proxy_with_a_password_is_accepted_if_it_is_encrypted_and_never_shown():
    settings = Settings.parse(example_values(aptProxy=PROXY), encrypted=SECRET_KEYS | {"aptProxy"})
    assert settings.apt_proxy_encrypted
    assert "50%25" not in repr(settings)
    (problem,) = problems_of(aptProxy=PROXY)
    assert "`pulumi config set --secret aptProxy`" in problem
    assert "50%25" not in problem


def test_an_encrypted_proxy_that_is_refused_is_not_shown():
    with pytest.raises(ConfigurationError) as error:
        Settings.parse(example_values(aptProxy="socks://hidden"), encrypted=SECRET_KEYS | {"aptProxy"})
    assert "aptProxy" in str(error.value)
    assert "hidden" not in str(error.value)


def test_an_encrypted_proxy_counts_as_set_where_it_is_unreadable():
    values = example_values(aptProxy={"secure": "v1:hidden"}, sshPrivateKey={"secure": "v1:hidden"})
    assert Settings.parse(values, secrets_are_readable=False).apt_proxy_encrypted


@pytest.mark.parametrize("host", ["mirror example", 'mirror"', "mirror/debian", ""])
def test_what_is_no_host_is_refused_as_an_exception_from_the_proxy(host: str):
    (problem,) = problems_of(aptNoProxy=json.dumps([host]))
    assert problem.startswith("aptNoProxy")


def test_the_default_is_a_cluster_of_the_newest_tested_minor_version():
    version = project_schema()["kubernetesVersion"]["default"]
    settings = Settings.parse(example_values(kubernetesVersion=version))
    assert settings.kubernetes
    assert settings.kubernetes_minor == "1.37"
    assert settings.kubernetes_repository_url == "https://pkgs.k8s.io/core:/stable:/v1.37/deb"


@pytest.mark.parametrize(
    "changes", [{"kubernetesVersion": ""}, {"apiServers": '["198.51.100.9"]'}, {"controlPlaneCount": "0"}]
)
def test_there_is_no_cluster_without_a_version_or_with_one_elsewhere(changes: dict[str, str]):
    if "controlPlaneCount" in changes:
        changes["apiServers"] = '["198.51.100.9"]'
    assert not Settings.parse(example_values(**{"kubernetesVersion": "1.37.2"} | changes)).kubernetes


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("podNetwork", "10.244.0.0/23", "room for 2 nodes.*there are 4; use a /22"),
        ("podNetwork", "198.51.0.0/16", "overlaps adminCidrs 198.51.100.0/28"),
        ("serviceNetwork", "10.244.0.0/16", "overlaps podNetwork 10.244.0.0/16"),
        ("serviceNetwork", "10.96.0.0/11", "between /12"),
        ("serviceNetwork", "10.96.0.0/25", "/24"),
        ("kubernetesRepository", "https://10.96.0.1/deb", "has 10.96.0.1/32, which overlaps serviceNetwork 10.96"),
        ("registryMirror", "https://10.244.3.4:5000", "has 10.244.3.4/32, which overlaps podNetwork 10.244.0.0/16"),
        ("nodePortCidrs", ["10.244.8.0/24"], "has 10.244.8.0/24, which overlaps podNetwork 10.244.0.0/16"),
        ("nodePortCidrs", ["203.0.113.0/24", "10.96.0.0/12"], "has 10.96.0.0/12, which overlaps serviceNetwork"),
    ],
)
def test_a_network_that_a_cluster_cannot_use_is_refused_only_if_there_is_one(key: str, value: Any, reason: str):
    (problem,) = problems_of(kubernetesVersion="1.37", **{key: value})
    assert problem.startswith(f"{key} = {value!r}: ")
    assert re.search(reason, problem)
    Settings.parse(example_values(**{key: value}))


@pytest.mark.parametrize("key", ["aptMirror", "aptProxy"])
def test_a_mirror_or_proxy_in_a_network_of_the_cluster_is_refused_without_its_address(key: str):
    url = "http://10.244.0.9:3128"
    (problem,) = problems_of(kubernetesVersion="1.37", **{key: url})
    assert f"podNetwork = '10.244.0.0/16': overlaps the address in {key}: " in problem
    assert "10.244.0.9" not in problem
    Settings.parse(example_values(**{key: url}))
    Settings.parse(example_values(kubernetesVersion="1.37", **{key: "http://mirror.example:3128"}))


def test_node_ports_may_be_open_to_everyone_and_to_pods_that_another_plugin_sends_untunnelled():
    Settings.parse(example_values(kubernetesVersion="1.37", nodePortCidrs='["0.0.0.0/0"]'))
    pods = {"networkPlugin": "none", "nodePortCidrs": '["10.244.0.0/16"]'}
    Settings.parse(example_values(kubernetesVersion="1.37", **pods))


def test_the_program_s_cluster_has_no_ca_of_another_one():
    ca = self_signed("ca", []).certificate.decode()
    assert "apiCaCertificate" in problems_of(kubernetesVersion="1.37", apiCaCertificate=ca)[0]
    Settings.parse(example_values(kubernetesVersion="1.37", apiCaCertificate=ca, apiServers='["198.51.100.9"]'))


def test_the_pod_network_may_be_in_a_network_that_means_everyone():
    Settings.parse(example_values(apiAllowedCidrs='["0.0.0.0/0"]', vip="198.51.100.100"))
    for key, value in {"vip": "10.244.0.9", "bastionHost": "10.244.0.9", "apiAllowedCidrs": '["10.0.0.0/8"]'}.items():
        assert f"podNetwork = '10.244.0.0/16': overlaps {key} 10." in str(
            problems_of(kubernetesVersion="1.37", **{key: value})
        )


KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----
Version: GnuPG v2

mQENBGMHliYBCADDQ
=abcd
-----END PGP PUBLIC KEY BLOCK-----
"""


def test_a_repository_over_http_needs_its_key():
    (problem,) = problems_of(kubernetesRepository="http://mirror.example/deb/")
    assert "kubernetesRepositoryKey" in problem
    settings = Settings.parse(
        example_values(kubernetesRepository="http://mirror.example/deb/", kubernetesRepositoryKey=KEY)
    )
    assert settings.kubernetes_repository_url == "http://mirror.example/deb"
    assert settings.kubernetes_repository_key.splitlines() == [
        "-----BEGIN PGP PUBLIC KEY BLOCK-----", "", "mQENBGMHliYBCADDQ", "=abcd", "-----END PGP PUBLIC KEY BLOCK-----",
    ]  # fmt: skip


def test_a_plugin_s_ports_and_a_worker_s_labels_and_taints():
    settings = Settings.parse(
        example_values(
            networkPlugin="none",
            networkPluginPorts='["udp/8472", "tcp/4240-4250", "4"]',
            workerLabels='["example.com/disk=ssd", "node.kubernetes.io/pool=", "zone=a"]',
            workerTaints='["example.com/dedicated=batch:NoSchedule", "gpu:NoExecute", "gpu:NoSchedule"]',
            kubeletConfiguration='{"maxPods": 200, "evictionHard": {"memory.available": "200Mi"}}',
            apiServerNames='["api.example.com", "203.0.113.9", "*.example.com"]',
        )
    )
    assert settings.network_plugin_ports == (("udp", (8472, 8472)), ("tcp", (4240, 4250)), ("4", None))
    assert settings.kubelet_configuration["maxPods"] == 200


def test_a_worker_may_label_itself_with_its_zone_and_region():
    labels = ("topology.kubernetes.io/zone=a", "topology.kubernetes.io/region=north")
    assert Settings.parse(example_values(workerLabels=json.dumps(labels))).worker_labels == labels


FRONTEND = {"name": "ingress", "port": 443}


def test_a_frontend_leads_to_the_same_port_of_the_workers_and_is_open_to_nobody_else_by_default():
    (frontend,) = Settings.parse(example_values(frontends=json.dumps([FRONTEND]))).frontends
    assert (frontend.target, frontend.server_port, frontend.allowed_cidrs) == (Target.WORKERS, 443, ())
    assert (frontend.check, frontend.proxy_protocol) == (Check.TCP, False)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "Ingress"}, r"frontends\[0\].name = 'Ingress': .*lower-case"),
        ({"name": "x\n  stats enable"}, r"frontends\[0\].name = .*lower-case"),
        ({"name": "health"}, r"frontends\[0\].name = 'health': .*HAProxy's configuration already uses"),
        ({"port": 6443}, r"frontends\[0\].port = 6443: .*use themselves"),
        ({"port": 22}, r"frontends\[0\].port = 22: .*use themselves"),
        ({"port": 8407}, r"frontends\[0\].port = 8407: .*use themselves"),
        ({"port": 9100}, r"frontends\[0\].port = 9100: .*use themselves"),
        ({"port": 40000}, r"frontends\[0\].port = 40000: .*32768 to 60999"),
        ({"port": 0}, r"frontends\[0\].port = 0: .*greater than"),
        ({"targetPort": 65536}, r"frontends\[0\].targetPort = 65536: .*less than"),
        ({"targetPort": 6443}, r"frontends\[0\].targetPort = 6443: .*which workers do not serve; choose another"),
        ({"target": "loadBalancers"}, r"frontends\[0\].target = 'loadBalancers': .*'workers' or 'controlPlane'"),
        ({"allowedCidrs": ["203.0.113.1/24"]}, r"frontends\[0\].allowedCidrs\[0\] = .*did you mean 203.0.113.0/24"),
        ({"check": "http"}, r"frontends\[0\].checkPath = '': is empty, but check is http"),
        ({"checkPath": "/healthz"}, r"frontends\[0\].checkPath = '/healthz': is set, but check is tcp"),
        ({"checkStatus": 200}, r"frontends\[0\].checkStatus = 200: is set, but check is tcp"),
        ({"check": "http", "checkPath": "/a b"}, r"frontends\[0\].checkPath = '/a b': is not the path"),
        ({"check": "http", "checkPath": "/a\n"}, r"frontends\[0\].checkPath = .*is not the path"),
        ({"check": "http", "checkPath": "healthz"}, r"frontends\[0\].checkPath = 'healthz': is not the path"),
        ({"check": "http", "checkPath": "/", "checkStatus": 99}, r"frontends\[0\].checkStatus = 99: .*greater than"),
        ({"proxyProtocol": "v2"}, r"frontends\[0\].proxyProtocol = 'v2': .*valid boolean"),
        ({"mode": "http"}, r"frontends\[0\].mode = 'http': is not a key here"),
    ],
)
def test_a_wrong_value_of_a_frontend_is_refused_with_its_place(changes: dict[str, object], problem: str):
    (found,) = problems_of(frontends=json.dumps([FRONTEND | changes]))
    assert re.match(problem, found, re.DOTALL), found


def test_a_frontend_needs_a_name_and_a_port():
    assert problems_of(frontends='[{"target": "workers"}]') == [
        f"frontends[0].{key} is not set; see its description in Pulumi.yaml" for key in ("name", "port")
    ]


@pytest.mark.parametrize(
    ("frontends", "changes", "reason"),
    [
        ([FRONTEND, FRONTEND | {"port": 80}], {}, "has the name ingress twice"),
        ([FRONTEND, FRONTEND | {"name": "web"}], {}, "has the port 443 twice"),
        ([FRONTEND], {"workerCount": "0"}, "target is workers, of which there are none"),
        (
            [FRONTEND | {"target": "controlPlane"}],
            {"controlPlaneCount": "0", "apiServers": '["198.51.100.9"]'},
            "target is controlPlane, of which there are none",
        ),
        ([{"name": f"f{it}", "port": 1000 + it} for it in range(21)], {}, "at most 20 items"),
    ],
)
def test_frontends_that_do_not_go_together_are_refused(
    frontends: list[dict[str, object]], changes: dict[str, str], reason: str
):
    (found,) = problems_of(frontends=json.dumps(frontends), **changes)
    assert reason in found


def test_a_pod_network_in_which_a_frontend_s_clients_are_is_refused():
    clients = FRONTEND | {"allowedCidrs": ["10.244.7.0/24"]}
    (found,) = problems_of(frontends=json.dumps([clients]), kubernetesVersion="1.37")
    assert "overlaps frontends 10.244.7.0/24" in found
