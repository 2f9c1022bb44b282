import hashlib
import io
import json
import subprocess
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from dev.lab.kubernetes import images, versions

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
FLANNEL = {"flannel-io/flannel", "flannel-io/flannel-cni-plugin"}


def get(url: str, accept: str = "*/*") -> bytes:
    request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310  (our own server)
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        return response.read()


def manifest(registry: str, repository: str) -> dict[str, Any]:
    return json.loads(get(f"{registry}/v2/{repository}/manifests/{versions.TAGS[repository]}", MANIFEST))


def test_kubeadm_asks_for_exactly_these_images(unpacked: Path) -> None:
    command = [
        unpacked / "usr/bin/kubeadm",
        "config",
        "images",
        "list",
        "--kubernetes-version",
        f"v{versions.KUBERNETES}",
    ]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ours = {f"registry.k8s.io/{name}:{tag}" for name, tag in versions.TAGS.items() if name not in FLANNEL}
    assert set(listed) == ours


@pytest.mark.parametrize("image", images.IMAGES, ids=lambda image: image.repository)
def test_the_registry_returns_the_image_and_its_program(registry: str, image: images.Image) -> None:
    found = manifest(registry, image.repository)
    blobs = {part["digest"]: get(f"{registry}/v2/{image.repository}/blobs/{part['digest']}")
             for part in (found["config"], *found["layers"])}  # fmt: skip
    for digest, blob in blobs.items():
        assert digest == f"sha256:{hashlib.sha256(blob).hexdigest()}"
    config = json.loads(blobs[found["config"]["digest"]])
    with tarfile.open(fileobj=io.BytesIO(blobs[found["layers"][-1]["digest"]])) as layer:
        program = layer.getmember(config["config"]["Entrypoint"][0].lstrip("/"))
    assert program.isfile()
    assert program.mode & 0o111 == 0o111
    assert program.size > 100_000


@pytest.mark.parametrize("repository", ["kube-proxy", "flannel-io/flannel"])
def test_the_images_that_filter_packets_have_the_commands_for_it(registry: str, repository: str) -> None:
    below = manifest(registry, repository)["layers"][0]["digest"]
    with tarfile.open(fileobj=io.BytesIO(get(f"{registry}/v2/{repository}/blobs/{below}"))) as layer:
        names = {name.removeprefix("./") for name in layer.getnames()}
    assert names >= {"usr/sbin/nft", "usr/sbin/iptables", "usr/sbin/ip6tables", "usr/bin/cp"}


def test_the_registry_takes_no_uploads(registry: str) -> None:
    request = urllib.request.Request(f"{registry}/v2/pause/blobs/uploads/", method="POST")  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)  # noqa: S310
    assert refused.value.code == 405
