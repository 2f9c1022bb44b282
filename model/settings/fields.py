"""Field types: what a value may be, and how it is normalized.

Every value that reaches a file or a command on a host has a type of its own here, restricted to characters without a
meaning for HAProxy, keepalived, APT or a shell, so no template needs to quote. `Text` is for what only the cloud reads.

No reason quotes the text that it refuses: settings.py shows it with the key, unless it may be a secret. And no field
has a bare `pattern`, because its message would be the regular expression.
"""

import json
import re
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Annotated, NamedTuple, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_public_key
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel


class PluginPort(NamedTuple):
    """What a network plugin uses between hosts."""

    protocol: str
    """By name, or by IANA's number if it has no ports."""
    ports: tuple[int, int] | None


class Model(BaseModel):
    """Base of all settings: immutable, keys in camel case as in Pulumi.yaml, unknown keys refused."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")


def _as_text(value: object) -> str:
    """Text, as Pulumi's engine reads it: it makes text of numbers. Only for whole ones is that what was written."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    example = "no as false" if isinstance(value, bool) else "3.10 as the number 3.1"
    raise ValueError(f"is not text to YAML, which reads {example}; put it in quotes in the stack's file")


def _one_line(value: str) -> str:
    if value != value.strip():
        raise ValueError("starts or ends with white space; remove it")
    if found := re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", value):
        raise ValueError(f"contains {found.group()!r}, and no name has line breaks or control characters; remove it")
    return value


def _json_object(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        parsed: object = json.loads(value)
    except json.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise ValueError("is not an object; write it as keys and values in the stack's file")
    return cast("dict[str, object]", parsed)


def json_array(value: object) -> object:
    """A list, from the JSON text that the engine passes."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        raise ValueError("is not an array; write it as a list in the stack's file") from None


def _cidr(value: object) -> IPv4Network:
    value = str(value)  # of a number, IPv4Network would make an address
    try:
        return IPv4Network(value)
    except ValueError:
        pass
    try:
        fitting = IPv4Network(value, strict=False)
    except ValueError:
        raise ValueError("is not an IPv4 network; write it as 198.51.100.0/24") from None
    raise ValueError(f"has bits set right of its prefix; did you mean {fitting}?")


def _without_overlap(cidrs: tuple[IPv4Network, ...]) -> tuple[IPv4Network, ...]:
    for i, wide in enumerate(cidrs):
        for narrow in cidrs[:i]:
            if wide.overlaps(narrow):
                raise ValueError(f"{narrow} and {wide} overlap; keep only the wider one")
    return cidrs


def _url(value: str) -> str:
    if value and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?", value):
        raise ValueError("is not a plain http(s) URL without user or query; write it as http://mirror.example/debian")
    return value.rstrip("/")


def _name_or_ipv4(value: str) -> str:
    if ":" in value:
        raise ValueError("is an IPv6 address, which APT cannot exempt from its proxy; use the name of that host")
    return value


def _proxy_url(value: SecretStr) -> SecretStr:
    # What APT, curl and Python's httplib2 all read. Other characters in a user's name or password are written as %40.
    login, host = r"[A-Za-z0-9._~%!*+,=-]+(:[A-Za-z0-9._~%!*+,=-]*)?@", r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])"
    if not re.fullmatch(rf"(https?://({login})?{host}(:[0-9]{{1,5}})?/?)?", value.get_secret_value()):
        raise ValueError(
            "is not the URL of a proxy; write it as http://proxy.example:3128, http://[2001:db8::1]:3128 or "
            "http://USER:PASSWORD@proxy.example:3128, with special characters in USER and PASSWORD as %40"
        )
    return value


_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
"""Of a DNS name (RFC 1123, 2.1)."""

_NOT_API_SERVERS = {
    IPv4Network("0.0.0.0/8"): 'means "this network" (RFC 1122, 3.2.1.3), not a host',
    IPv4Network("127.0.0.0/8"): "is loopback, so each load balancer would connect to itself",
    IPv4Network("169.254.0.0/16"): "is link-local, which no router forwards and the cloud itself uses",
    IPv4Network("224.0.0.0/4"): "is a multicast address, which does not accept connections",
    IPv4Network("240.0.0.0/4"): "is reserved (RFC 1112) or the broadcast address, which does not accept connections",
}


def _api_server(value: IPv4Address) -> IPv4Address:
    for network, reason in _NOT_API_SERVERS.items():
        if value in network:
            raise ValueError(f"{reason}; list the address at which the load balancers reach the API server")
    return value


def _cluster_name(value: str) -> str:
    # Host names start with it: an RFC 1123 label has 63 characters, and "-worker-999" needs room.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", value):
        raise ValueError(
            "cannot start a host name; use at most 40 lower-case letters, digits and hyphens, with a letter first "
            "and no hyphen last"
        )
    return value


def _login_user(value: str) -> str:
    # A portable name of POSIX (3.426), in as many characters as useradd accepts, and never an option of ssh.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", value):
        raise ValueError(
            "is not a login name; use at most 32 letters, digits, dots, hyphens and underscores, with no dot or hyphen "
            "first"
        )
    return value


def _host(value: str) -> str:
    # An IPv6 address has no zone here: that is a name on one machine, of any characters.
    if "%" not in value:
        with suppress(ValueError):
            return str(ip_address(value))
    # Names in /etc/hosts and of many local domains have underscores. A first hyphen would make an option of it.
    if not re.fullmatch(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)?", value):
        raise ValueError(
            "is not an address or a name; write an IPv6 address without brackets, and the port belongs in bastionPort"
        )
    return value


def _haproxy_branch(value: str) -> str:
    if not re.fullmatch(r"([23]\.[0-9]{1,2})?", value):
        raise ValueError(
            "is not a branch of HAProxy such as 3.0; put it in quotes in the stack's file, because YAML reads 3.0 as "
            "the number 3, and 3.10 as 3.1"
        )
    return value


def _kubernetes_version(value: str) -> str:
    # 1.34 is the oldest whose API servers read AuthenticationConfiguration v1.
    if value and not re.fullmatch(r"1\.(3[4-9]|[4-9][0-9])(\.[0-9]{1,2})?", value):
        raise ValueError(
            "is not a version of Kubernetes from 1.34 on, such as 1.37 or 1.37.2; put it in quotes in the stack's "
            "file, because YAML reads 1.40 as 1.4"
        )
    return value


def _repository_url(value: str) -> str:
    # As in Debian's one-line format, but for options: https://pkgs.k8s.io/core:/stable:/v1.37/deb/ has colons.
    if value and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~:/-]*)?", value):
        raise ValueError(
            "is not a plain http(s) URL without user or query; write it as https://mirror.example/kubernetes/v1.37/deb"
        )
    return value.rstrip("/")


def _pgp_key(value: str) -> str:
    """An armored public key (RFC 9580, 6.2), written again, so that nothing else in the text reaches a file."""
    if not value:
        return ""
    begin, end = (f"-----{word} PGP PUBLIC KEY BLOCK-----" for word in ("BEGIN", "END"))
    block = re.fullmatch(rf"\s*{begin}\s*\n(?:[A-Za-z]+: [^\n]*\n)*\s*([A-Za-z0-9+/=\s]+?)\s*{end}\s*", value)
    if not block:
        raise ValueError("is not an armored OpenPGP public key; use the content of the repository's Release.key")
    return "\n".join([begin, "", *block[1].split(), end, ""])


def _registry_mirror(value: str) -> str:
    if value and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?", value):
        raise ValueError("is not a registry's URL without user or query; write it as https://registry.example:5000")
    return value.rstrip("/")


def _node_label(value: str) -> str:
    # https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
    key, separator, label = value.partition("=")
    prefix, _, name = key.rpartition("/")
    word = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
    domain = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
    if not (separator and re.fullmatch(word, name) and re.fullmatch(rf"({word})?", label)):
        raise ValueError("is not a label; write it as example.com/disk=ssd")
    if ("/" in key and not re.fullmatch(domain, prefix)) or prefix.startswith("-"):
        raise ValueError("is not a label: what is before the slash is not a domain; write it as example.com/disk=ssd")
    # What a kubelet may set of itself (the kubelet's --node-labels, the admission plugin NodeRestriction).
    if re.search(r"(^|\.)(kubernetes|k8s)\.io$", prefix) and not re.fullmatch(
        r"(.+\.)?(kubelet|node)\.kubernetes\.io/.+|topology\.kubernetes\.io/(zone|region)", key
    ):
        raise ValueError(
            f"starts with {prefix}/, where a node may not label itself; use a domain of your own, or "
            "node.kubernetes.io/"
        )
    return value


def _node_taint(value: str) -> str:
    label, _, effect = value.rpartition(":")
    if effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise ValueError(
            "is not a taint; write it as example.com/dedicated=batch:NoSchedule, PreferNoSchedule or NoExecute"
        )
    key, _, worth = label.partition("=")
    word = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
    if not re.fullmatch(rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{word}", key) or not re.fullmatch(
        rf"({word})?", worth
    ):
        raise ValueError("is not a taint; write it as example.com/dedicated=batch:NoSchedule")
    return value


def _distinct_taints(taints: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[tuple[str, str]] = set()
    for taint in taints:
        label, _, effect = taint.rpartition(":")
        key = label.partition("=")[0]
        if (key, effect) in seen:
            raise ValueError(f"has {key} with {effect} twice, which Kubernetes refuses; keep one of them")
        seen.add((key, effect))
    return taints


def _dns_name(value: str) -> str:
    if value.endswith("."):
        raise ValueError("ends in a dot, which names in certificates do not have; remove it")
    # The last label has a letter (RFC 3696, 2), so that no address is a name.
    if value and (len(value) > 253 or not re.fullmatch(rf"({_LABEL}\.)+(?=[0-9-]*[a-z]){_LABEL}", value)):
        raise ValueError("is not a DNS name in lower case; write it as api.example.com")
    return value


def _api_server_name(value: str) -> str:
    with suppress(ValueError):
        return str(ip_address(value))
    if len(value) > 253 or not re.fullmatch(rf"(\*\.)?{_LABEL}(\.{_LABEL})*", value):
        raise ValueError("is neither a DNS name in lower case nor an address; write it as api.example.com")
    return value


def _plugin_port(value: str) -> PluginPort:
    protocol, separator, ports = value.partition("/")
    if not separator and protocol.isdecimal() and int(protocol) <= 255:
        return PluginPort(protocol, None)
    low, _, high = ports.partition("-")
    numbers = [int(it) for it in (low, high or low) if it.isdecimal()]
    if protocol not in ("tcp", "udp", "sctp") or len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1] <= 65535:
        raise ValueError(
            "is not a port; write it as udp/8472, as tcp/4240-4250, or as the number of a protocol without ports, such "
            "as 4 (IP in IP)"
        )
    return PluginPort(protocol, (numbers[0], numbers[1]))


_OURS = {
    "apiVersion": "",
    "kind": "",
    "authentication": " to restrict who may control the nodes",
    "authorization": " to restrict who may control the nodes",
    "cgroupDriver": " to systemd, as in containerd's configuration; it must not change under running pods",
    "clusterDNS": " to an address in serviceNetwork",
    "clusterDomain": " to cluster.local, as in certificates and DNS",
    "containerRuntimeEndpoint": " to containerd's socket",
    "port": " to 10250, which the security groups admit",
    "rotateCertificates": "; without it nodes would leave the cluster after a year",
    "serverTLSBootstrap": ", so that the cluster's CA signs the kubelets' certificates",
    "staticPodPath": " to the folder with the control plane's manifests",
}


def _kubelet_configuration(value: dict[str, object]) -> dict[str, object]:
    for key in value:
        if key in _OURS:
            raise ValueError(f"has {key}, which the program sets{_OURS[key]}; remove it")
    return value


def _public_key(value: str) -> str:
    if value:
        try:
            load_ssh_public_key(value.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("is not an OpenSSH public key; use the content of a .pub file") from None
    return value


def certificates(pem: str) -> list[x509.Certificate]:
    """All certificates of a PEM text. Raises `ValueError` for anything else."""
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise ValueError("is not a certificate in PEM format (-----BEGIN CERTIFICATE-----)") from None


def _ca_certificate(value: str) -> str:
    # Encoded again, so that nothing else in the text reaches a file.
    return pem_of(certificates(value)) if value else ""


def pem_of(certificates: list[x509.Certificate]) -> str:
    """The certificates in PEM, and nothing else that was in the text they were read from."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


_Scalar = Annotated[str, BeforeValidator(_as_text)]
# What only the cloud reads: whatever a cloud accepts as a name.
Text = Annotated[_Scalar, AfterValidator(_one_line)]
Required = Annotated[Text, Field(min_length=1)]
Cidr = Annotated[IPv4Network, BeforeValidator(_cidr)]
Cidrs = Annotated[tuple[Cidr, ...], BeforeValidator(json_array), AfterValidator(_without_overlap)]
ApiServers = Annotated[
    tuple[Annotated[IPv4Address, BeforeValidator(str), AfterValidator(_api_server)], ...], BeforeValidator(json_array)
]
Zones = Annotated[tuple[Required, ...], BeforeValidator(json_array)]
Url = Annotated[Text, AfterValidator(_url)]
PublicKey = Annotated[_Scalar, AfterValidator(_public_key), AfterValidator(_one_line)]
CaCertificate = Annotated[_Scalar, AfterValidator(_ca_certificate)]
# 0 means the profile's value.
Milliseconds = Annotated[int, Field(ge=0, le=60_000)]
ClusterName = Annotated[_Scalar, AfterValidator(_cluster_name)]
LoginUser = Annotated[_Scalar, AfterValidator(_login_user)]
HostName = Annotated[_Scalar, AfterValidator(_host)]
HostsWithoutProxy = Annotated[
    tuple[Annotated[HostName, Field(min_length=1), AfterValidator(_name_or_ipv4)], ...], BeforeValidator(json_array)
]
# It may have a password.
ProxyUrl = Annotated[SecretStr, BeforeValidator(_as_text), AfterValidator(_proxy_url)]
DnsName = Annotated[_Scalar, AfterValidator(_dns_name)]
HaproxyBranch = Annotated[_Scalar, AfterValidator(_haproxy_branch)]
KubernetesVersion = Annotated[_Scalar, AfterValidator(_kubernetes_version)]
RepositoryUrl = Annotated[Text, AfterValidator(_repository_url)]
PgpKey = Annotated[_Scalar, AfterValidator(_pgp_key)]
RegistryMirror = Annotated[Text, AfterValidator(_registry_mirror)]
NodeLabels = Annotated[tuple[Annotated[_Scalar, AfterValidator(_node_label)], ...], BeforeValidator(json_array)]
NodeTaints = Annotated[
    tuple[Annotated[_Scalar, AfterValidator(_node_taint)], ...],
    BeforeValidator(json_array),
    AfterValidator(_distinct_taints),
]
ApiServerNames = Annotated[
    tuple[Annotated[_Scalar, AfterValidator(_api_server_name)], ...], BeforeValidator(json_array)
]
PluginPorts = Annotated[
    tuple[Annotated[PluginPort, BeforeValidator(_plugin_port), BeforeValidator(_as_text)], ...],
    BeforeValidator(json_array),
]
KubeletConfiguration = Annotated[
    dict[str, object], BeforeValidator(_json_object), AfterValidator(_kubelet_configuration)
]
