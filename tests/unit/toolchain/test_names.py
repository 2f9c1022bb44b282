"""The names that the plugins' Go tests compare themselves with are those of the SDKs that are installed."""

import json

import pytest

from tests.unit.toolchain.sdk_names import PLUGINS, names, names_file


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_recorded_names_are_those_of_the_installed_sdk(plugin: str) -> None:
    recorded = json.loads(names_file(plugin).read_text())
    assert recorded == names(plugin), (
        "the SDK changed: run `python -m tests.unit.toolchain.sdk_names` and the plugins' tests"
    )
