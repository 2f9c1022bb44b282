import gzip
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from dev.lab.kubernetes import images, programs, registry, repository, versions

TREES = sorted(path.name for path in repository.TREES.iterdir())


def tools(folder: str) -> set[str]:
    """The names of the programs that a folder's go.mod lists."""
    text = (versions.GO_MODULES / folder / "go.mod").read_text()
    block = re.search(r"^tool \((.*?)^\)", text, re.MULTILINE | re.DOTALL)
    paths = block[1].split() if block else re.findall(r"^tool (\S+)", text, re.MULTILINE)
    # Go names a program after its folder; "v3" is a version.
    return {re.sub(r"/v\d+$", "", path).rpartition("/")[2] for path in paths}


def test_every_go_module_has_its_checksums_and_is_built() -> None:
    folders = {path.name for path in versions.GO_MODULES.iterdir()}
    assert folders == {module.folder for module in programs.MODULES}
    assert all((versions.GO_MODULES / folder / "go.sum").exists() for folder in folders)


def test_all_of_kubernetes_has_one_version() -> None:
    text = (versions.GO_MODULES / "kubernetes" / "go.mod").read_text()
    replaced = dict(re.findall(r"^\t(k8s\.io/\S+) => \S+ (\S+)$", text, re.MULTILINE))
    assert len(replaced) > 20
    assert set(replaced.values()) == {f"v0.{versions.KUBERNETES.removeprefix('1.')}"}


def test_the_images_are_those_with_a_tag() -> None:
    assert {image.repository for image in images.IMAGES} == set(versions.TAGS)


@pytest.mark.parametrize("image", images.IMAGES, ids=lambda image: image.repository)
def test_an_image_s_programs_are_built_and_it_starts_one_of_them(image: images.Image) -> None:
    assert image.entrypoint in image.programs
    for program in image.programs.values():
        module, _, name = program.partition("/")
        assert name in ({"pause"} if module == "pause" else tools(module))


def test_every_package_has_a_tree_and_programs_that_are_built() -> None:
    assert sorted(package.name for package in repository.PACKAGES) == TREES
    for package in repository.PACKAGES:
        assert set(package.programs) <= tools(package.module)


@pytest.mark.parametrize("name", TREES)
def test_a_package_s_fields_are_its_own_and_leave_out_what_the_build_adds(name: str) -> None:
    control = (repository.TREES / name / "DEBIAN/control").read_text()
    fields = dict(line.split(": ", 1) for line in control.splitlines() if not line.startswith(" "))
    assert fields["Package"] == name
    assert not {"Version", "Architecture", "Installed-Size"} & set(fields)


def test_the_drop_in_reads_what_kubeadm_writes() -> None:
    drop_in = repository.TREES / "kubeadm/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"
    lines = drop_in.read_text().splitlines()
    assert "EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env" in lines
    # An empty line first: the unit's own command is replaced, not followed.
    command = lines.index("ExecStart=")
    assert "$KUBELET_KUBEADM_ARGS" in lines[command + 1]


# ---- the registry's storage ------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_layer_has_the_file_at_its_path_and_is_the_same_whenever_it_is_built(program: Path) -> None:
    first = registry.layer({"/usr/bin/program": program})
    program.touch()
    assert registry.layer({"/usr/bin/program": program}) == first
    content = gzip.decompress(first.blob)
    assert first.diff_id == f"sha256:{hashlib.sha256(content).hexdigest()}"
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        (member,) = archive.getmembers()
    assert (member.name, member.mode) == ("usr/bin/program", 0o755)


def test_an_image_is_found_by_its_tag_and_all_its_blobs_are_there(tmp_path: Path, program: Path) -> None:
    storage = registry.Storage(tmp_path)
    parts = [registry.layer({"/program": program}), registry.layer({"/other": program})]
    digest = storage.add(
        "flannel-io/flannel", "v1", parts, architecture="arm64", entrypoint=["/program"], user="1:1", labels={"a": "b"}
    )
    root = tmp_path / "docker/registry/v2"

    def blob(name: str) -> bytes:
        value = name.removeprefix("sha256:")
        data = (root / "blobs/sha256" / value[:2] / value / "data").read_bytes()
        assert hashlib.sha256(data).hexdigest() == value
        return data

    folder = root / "repositories/flannel-io/flannel"
    assert (folder / "_manifests/tags/v1/current/link").read_text() == digest
    manifest = json.loads(blob(digest))
    for part in (manifest["config"], *manifest["layers"]):
        assert len(blob(part["digest"])) == part["size"]
        assert (folder / "_layers/sha256" / part["digest"].removeprefix("sha256:") / "link").read_text() == part[
            "digest"
        ]
    config = json.loads(blob(manifest["config"]["digest"]))
    assert config["architecture"] == "arm64"
    assert config["config"]["User"] == "1:1"
    assert config["rootfs"]["diff_ids"] == [part.diff_id for part in parts]


def test_images_share_the_layers_that_are_equal(tmp_path: Path, program: Path) -> None:
    storage = registry.Storage(tmp_path)
    for name in ("one", "two"):
        storage.add(
            name,
            "v1",
            [registry.layer({"/program": program})],
            architecture="amd64",
            entrypoint=["/program"],
            user="",
            labels={},
        )
    # the layer, and one configuration and manifest: both images are equal
    assert len(list((tmp_path / "docker/registry/v2/blobs").rglob("data"))) == 3
