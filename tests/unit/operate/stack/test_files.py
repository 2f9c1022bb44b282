"""Files of a stack whose name is given with its organization and project."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from operate.commands import drill, support_bundle
from operate.hosts.pair import PairError
from operate.stack.engine import StackError
from operate.stack.files import stack_values
from operate.support import bundle

FULL = "organization/openstack-ha-api/dev"
STACK: Any = SimpleNamespace(name=FULL, outputs=SimpleNamespace(load_balancers=["k8s-lb-0"], kubernetes_version=""))


def test_a_stack_s_file_is_named_after_the_stack_alone():
    assert stack_values(FULL) == stack_values("dev")


def read_stack(_: object) -> Any:
    return STACK


def test_a_support_bundle_is_written_under_the_whole_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def build(*_: object) -> bytes:
        return b"archive"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(support_bundle, "read_stack", read_stack)
    monkeypatch.setattr(support_bundle, "build", build)
    support_bundle.support_bundle(FULL)
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("support-organization-openstack-ha-api-dev-2")
    assert file.read_bytes() == b"archive"


def test_an_unwritable_archive_is_reported_before_anything_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def build(*_: object) -> bytes:
        raise AssertionError("it has begun")

    monkeypatch.setattr(support_bundle, "read_stack", read_stack)
    monkeypatch.setattr(support_bundle, "build", build)
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match=r"bundle.tar.gz cannot be written.*--output"):
        support_bundle.support_bundle(FULL, output=tmp_path / "file" / "bundle.tar.gz")


def test_a_drill_s_report_is_written_under_the_whole_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writable: list[Path] = []

    def insist(*files: Path | None, **_: object) -> None:
        writable.extend(filter(None, files))
        raise PairError("far enough")

    monkeypatch.setattr(drill, "read_stack", read_stack)
    monkeypatch.setattr(drill, "ROOT", tmp_path)
    monkeypatch.setattr(drill, "insist_on_writable", insist)
    with pytest.raises(PairError):
        drill.drill(stack=FULL, yes=True)
    (file,) = writable
    assert file.parent == tmp_path / "build" / "drills"
    assert file.name.startswith("organization-openstack-ha-api-dev-2")


def no_secrets(_: object) -> list[str]:
    return []


def test_the_folder_in_an_archive_has_the_whole_name(monkeypatch: pytest.MonkeyPatch):
    folders: list[str] = []

    async def collect(*_: object) -> dict[str, str]:
        return {}

    def archive(folder: str, *_: object) -> bytes:
        folders.append(folder)
        return b""

    monkeypatch.setattr(bundle, "_collect", collect)
    monkeypatch.setattr(bundle, "_secrets", no_secrets)
    monkeypatch.setattr(bundle, "_archive", archive)
    bundle.build(STACK, "-24h", str, print)
    assert folders == ["support-organization-openstack-ha-api-dev"]
