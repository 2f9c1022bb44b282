"""The programs of ours that are installed on the load balancers, as modules."""

import importlib.util
import sys
from typing import Any

from model.rendering import LOAD_BALANCER_TEMPLATES

FOLDER = LOAD_BALANCER_TEMPLATES / "usr/local/lib/ha-api"


def load(name: str) -> Any:
    """A program's module, which is in a folder of templates, and no part of a package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    # As on the host: the folder of a program comes first when it imports.
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
