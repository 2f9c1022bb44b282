"""What the review tools say of a stack's file that `pulumi up` would refuse."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dev.review import render, resources
from tests.unit.example import example_values


@pytest.mark.parametrize("tool", [render, resources])
def test_an_invalid_stack_s_file_is_refused_without_its_secrets(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    hidden = {"secure": "v1:hidden"}

    def stack_values(_: str) -> dict[str, Any]:
        return example_values(sshPrivateKey=hidden, vrrpPasword=hidden, network=hidden, haproxyBranch=3.1)

    monkeypatch.setattr(tool, "stack_values", stack_values)
    with pytest.raises(SystemExit) as refused:
        tool.main("dev", tmp_path)
    text = str(refused.value)
    for reason in ("did you mean vrrpPassword?", "network is set as a secret", "haproxyBranch = 3.1: "):
        assert reason in text
    assert "hidden" not in text
    assert not [*tmp_path.iterdir()]
