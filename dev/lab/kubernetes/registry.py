"""Writes container images into a registry's storage, in the layout that Debian's docker-registry reads.

The layout is the one of distribution 2 ("filesystem" driver); images and manifests are OCI's (image-spec 1.0).
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A gzipped tar archive, and the digest of what is in it."""

    blob: bytes
    diff_id: str


def layer(paths: Mapping[str, Path]) -> Layer:
    """A layer of files and trees, by their paths in the image. It is the same whenever it is built from equal files."""

    def normalised(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if member.isdev():
            return None  # a container gets its own /dev
        member.mtime = 0
        member.uname = member.gname = ""
        return member

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, path in sorted(paths.items()):
            archive.add(path, arcname=name.strip("/") or ".", filter=normalised)
    data = content.getvalue()
    return Layer(blob=gzip.compress(data, compresslevel=6, mtime=0), diff_id=_digest(data))


class Storage:
    """The storage folder of a registry."""

    def __init__(self, root: Path) -> None:
        self._root = root / "docker/registry/v2"

    def add(  # noqa: D417  (the others are as in the image's configuration)
        self,
        repository: str,
        tag: str,
        layers: Sequence[Layer],
        *,
        architecture: str,
        entrypoint: Sequence[str],
        user: str,
        labels: Mapping[str, str],
    ) -> str:
        """Adds an image and returns the digest of its manifest.

        Args:
            architecture: As Go calls it, such as amd64.
        """
        config = {"Env": [_PATH], "Entrypoint": list(entrypoint), "WorkingDir": "/", "User": user, "Labels": labels}
        description = {
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [part.diff_id for part in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._blob(repository, _json(description), "application/vnd.oci.image.config.v1+json"),
            "layers": [
                self._blob(repository, part.blob, "application/vnd.oci.image.layer.v1.tar+gzip") for part in layers
            ],
        }
        body = _json(manifest)
        digest = _digest(body)
        self._write_blob(body)
        manifests = self._root / "repositories" / repository / "_manifests"
        _link(manifests / "revisions", digest)
        _link(manifests / "tags" / tag / "index", digest)
        current = manifests / "tags" / tag / "current/link"
        current.parent.mkdir(parents=True, exist_ok=True)
        current.write_text(digest)
        return digest

    def _blob(self, repository: str, data: bytes, media_type: str) -> dict[str, Any]:
        digest = self._write_blob(data)
        _link(self._root / "repositories" / repository / "_layers", digest)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def _write_blob(self, data: bytes) -> str:
        digest = _digest(data)
        value = digest.removeprefix("sha256:")
        path = self._root / "blobs/sha256" / value[:2] / value / "data"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest


def _link(folder: Path, digest: str) -> None:
    path = folder / "sha256" / digest.removeprefix("sha256:") / "link"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(digest)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
