"""A stack's configuration, as Pulumi's command line prints it."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.settings import SECRET_KEYS
from operate.stack import applied, engine, files
from operate.stack.applied import read_stack_configuration
from operate.stack.engine import StackError, query
from tests.unit.example import example_values, key_pair


def configured(monkeypatch: pytest.MonkeyPatch, secret: frozenset[str] = SECRET_KEYS, **changes: Any) -> None:
    """Have Pulumi print a stack's configuration with `changes`, whose keys in `secret` are encrypted."""
    entries = {
        f"openstack-ha-api:{key}": {
            "value": value if isinstance(value, str) else json.dumps(value),
            "secret": key in secret and bool(value),
        }
        for key, value in example_values(**changes).items()
    }
    monkeypatch.setattr(applied, "query", lambda *_: json.dumps(entries))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


def refusal(stack: str = "dev") -> str:
    with pytest.raises(StackError) as refused:
        read_stack_configuration(stack)
    return str(refused.value)


def test_a_valid_configuration_is_read(monkeypatch: pytest.MonkeyPatch):
    configured(monkeypatch, haproxyBranch="3.0")
    assert read_stack_configuration("dev").settings.haproxy_branch == "3.0"


def test_a_mistyped_secret_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch):
    configured(monkeypatch, SECRET_KEYS | {"sshPrivatekey"}, sshPrivatekey=key_pair()[0], vrrpPasword="hunter22")
    message = refusal()
    assert "sshPrivatekey is not a key of this project; did you mean sshPrivateKey?" in message
    assert "did you mean vrrpPassword?" in message
    assert "PRIVATE KEY" not in message
    assert "hunter22" not in message


def test_a_plain_setting_that_is_a_secret_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch):
    configured(monkeypatch, SECRET_KEYS | {"network"}, network="hidden-lan")
    message = refusal()
    assert "network is set as a secret" in message
    assert "hidden" not in message


def test_a_secret_in_clear_text_is_refused_as_the_program_does(monkeypatch: pytest.MonkeyPatch):
    configured(monkeypatch, SECRET_KEYS - {"vrrpPassword"}, vrrpPassword="P@ssw0rd")
    message = refusal()
    assert "vrrpPassword is in the stack's file in clear text" in message
    assert "P@ssw0rd" not in message


@pytest.mark.parametrize("stack", ["dev", "organization/openstack-ha-api/dev"])
def test_a_number_in_the_stack_s_file_is_refused_where_text_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stack: str
):
    (tmp_path / "Pulumi.dev.yaml").write_text("config:\n  openstack-ha-api:haproxyBranch: 3.10\n")
    monkeypatch.setattr(files, "ROOT", tmp_path)
    configured(monkeypatch, haproxyBranch="3.1")
    assert "haproxyBranch = 3.1: " in refusal(stack)


def test_the_output_of_a_failed_command_that_shows_secrets_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    fake = tmp_path / "pulumi"
    fake.write_text("#!/bin/sh\necho hunter22; exit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(engine, "PULUMI", fake)
    with pytest.raises(StackError, match="status 3") as failed:
        query("config", "--json", "--show-secrets")
    assert "hunter22" not in str(failed.value)
    with pytest.raises(StackError, match="hunter22"):
        query("config", "--json")
