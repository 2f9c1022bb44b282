"""What the Pulumi SDKs call things: the tokens, names and shapes that the plugins in toolchain/ have to speak.

`python -m tests.unit.toolchain.sdk_names` writes them to the files that the plugins' Go tests compare themselves with.
They are read from the SDKs' generated sources, whose type hints cannot be evaluated at run time. A shape is "value",
"map", a list of one shape, or an object of named shapes.
"""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TOOLCHAIN = Path(__file__).parents[3] / "toolchain"

# The plugin's folder, and the parts of its SDK that hold what it serves.
PLUGINS = {
    "openstack": ["pulumi_openstack.compute", "pulumi_openstack.images", "pulumi_openstack.networking"],
    "command": ["pulumi_command.local", "pulumi_command.remote"],
}

TOKEN = re.compile(r"'(\w+:[\w/]+:\w+)'")


def names_file(plugin: str) -> Path:
    """The file with the names that `plugin` is compared with."""
    return TOOLCHAIN / plugin / "testdata" / "sdk-names.json"


def names(plugin: str) -> dict[str, Any]:
    """Each resource and function of the plugin's SDK: its token, and the shapes of its inputs and outputs by name."""
    found: dict[str, Any] = {}
    for module in PLUGINS[plugin]:
        spec = find_spec(module)
        assert spec and spec.origin, f"{module} is not installed"
        folder = Path(spec.origin).parent
        for file in sorted(folder.glob("*.py")):
            token = TOKEN.search(file.read_text())
            if not token:
                continue
            classes = _classes(file)
            result = next((name for name in classes if name.startswith("Get") and name.endswith("Result")), None)
            if result:
                arguments = sorted(set(re.findall(r"__args__\['(\w+)'\]", file.read_text())))
                inputs: dict[str, Any] = dict.fromkeys(arguments, "value")
                outputs = _shapes(folder, classes[result])
            elif (resource := token[1].rpartition(":")[2]) in classes:
                inputs = _shapes(folder, classes[f"{resource}Args"])
                outputs = _shapes(folder, classes[resource])
            else:
                continue  # a function of another kind (local.run)
            found[token[1]] = {"inputs": inputs, "outputs": outputs}
    return found


@cache
def _classes(file: Path) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)}


def _shapes(folder: Path, owner: ast.ClassDef) -> dict[str, Any]:
    return dict(sorted((name, _shape(folder, hint)) for name, hint in _properties(owner)))


def _properties(owner: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Each @pulumi.getter of a class: the name on the wire and the type hint."""
    for method in owner.body:
        if not isinstance(method, ast.FunctionDef) or method.returns is None:
            continue
        for decorator in method.decorator_list:
            if ast.unparse(decorator).startswith("pulumi.getter"):
                given = [keyword.value for keyword in getattr(decorator, "keywords", [])]
                yield ast.literal_eval(given[0]) if given else method.name, method.returns


def _shape(folder: Path, hint: ast.expr) -> Any:
    match hint:
        case ast.Subscript(value=outer, slice=inner):
            kind = ast.unparse(outer).removeprefix("pulumi.")
            if kind == "Sequence":
                return [_shape(folder, inner)]
            if kind == "Mapping":
                return "map"
            if kind == "Union":
                return "value"
            return _shape(folder, inner)  # Optional, Input, Output
        case ast.Constant(value=str(name)):
            file = folder / ("outputs.py" if name.startswith("outputs.") else "_inputs.py")
            owner = _classes(file).get(name.removeprefix("outputs.")) if file.exists() else None
            return _shapes(folder, owner) if owner else "value"  # an enumeration is a value
        case _:
            return "value"


if __name__ == "__main__":
    for plugin in PLUGINS:
        names_file(plugin).parent.mkdir(exist_ok=True)
        names_file(plugin).write_text(json.dumps(names(plugin), indent=1, sort_keys=True) + "\n")
