"""An ingress on a cluster's workers, behind port 443 of the VIP, and its clients."""

import base64
import ssl
import urllib.request
from ipaddress import IPv4Address
from pathlib import Path

from dev.lab.kubernetes import versions
from dev.lab_stack import lab_config
from dev.standin.certificate import self_signed
from operate.probe import MAX_SECONDS, MAX_TIMEOUT, Probe, Request
from operate.stack.applied import Outputs

MANIFEST = Path(__file__).with_name("ingress.yaml")
COREDNS = f"registry.k8s.io/coredns/coredns:{versions.TAGS['coredns/coredns']}"
PATH = "/dns-query"
# A question of DNS: a header, and one question for the address (A) of the root.
QUESTION = bytes.fromhex("0000 0100 0001 0000 0000 0000  00 0001 0001")
# As often as the API is read (dev/cluster_client.py).
INTERVAL = 0.05


def manifest(outputs: Outputs) -> str:
    """What `kubectl apply` needs to have it on every worker of a stack."""
    pair = self_signed("ingress", [outputs.vip])
    text = MANIFEST.read_text()
    for name, value in {
        "IMAGE": COREDNS,
        "CERTIFICATE": base64.b64encode(pair.certificate).decode(),
        "PRIVATE_KEY": base64.b64encode(pair.key).decode(),
        "LOAD_BALANCERS": " ".join(f"{address}/32" for address in outputs.load_balancers.values()),
    }.items():
        text = text.replace(name, value)
    return text


def frontend() -> dict[str, object]:
    """An entry of the setting `frontends`, open to this machine."""
    return {
        "name": "ingress",
        "port": 443,
        "targetPort": 30443,
        "allowedCidrs": lab_config()["apiAllowedCidrs"],
        "check": "https",
        # Without a question.
        "checkPath": PATH,
        "checkStatus": 400,
        "proxyProtocol": True,
    }


def client_address(outputs: Outputs) -> str:
    """This machine's address, as the ingress has it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    url = f"https://{outputs.vip}{_asking()}"
    with urllib.request.urlopen(url, context=context, timeout=MAX_TIMEOUT) as response:
        answer: bytes = response.read()
    # After the question comes a record: 11 bytes, and the address.
    begin = len(QUESTION) + 11
    return str(IPv4Address(answer[begin : begin + 4]))


def probe(outputs: Outputs) -> Probe:
    """Asks it while the context lasts, each time on a new connection, and waits long for each answer."""
    return Probe(
        f"https://{outputs.vip}",
        interval=INTERVAL,
        timeout=MAX_TIMEOUT,
        limit=MAX_SECONDS,
        request=lambda: Request(path=_asking()),
    )


def _asking() -> str:
    """RFC 8484, 4.1."""
    return f"{PATH}?dns={base64.urlsafe_b64encode(QUESTION).decode().rstrip('=')}"
