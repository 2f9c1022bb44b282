"""The lab that the end-to-end tests run on."""

import os

import pytest

from dev.lab.settings import LabSettings


@pytest.fixture(scope="session", autouse=True)
def cloud() -> None:
    """What openstacksdk, in this process, needs to find the lab."""
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(LabSettings.from_environ().clouds_yaml)
