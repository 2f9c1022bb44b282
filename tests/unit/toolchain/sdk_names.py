"""The tokens, names and shapes in the Pulumi SDKs that the plugins in toolchain/ must use.

`python -m tests.unit.toolchain.sdk_names` records them in files with which the plugins' Go tests compare the plugins.
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

PLUGINS = ("openstack", "command")

TOKEN = re.compile(r"'(\w+:[\w/]+:\w+)'")

# A line of the maps in toolchain/openstack/provider.go, as in `"openstack_compute_instance_v2": "compute/Instance",`.
MAPPED = re.compile(r'^\t"openstack_\w+": +"(\w+)/(\w)(\w+)",$', re.MULTILINE)


def served(plugin: str) -> set[str]:
    """The tokens of the resources and functions that `plugin` serves."""
    if plugin == "command":
        return {"command:local:Command", "command:remote:Command"}
    mapped = MAPPED.findall((TOOLCHAIN / "openstack" / "provider.go").read_text())
    return {f"openstack:{module}/{first.lower()}{rest}:{first}{rest}" for module, first, rest in mapped}


def names_file(plugin: str) -> Path:
    """The file in which the names for `plugin` are recorded."""
    return TOOLCHAIN / plugin / "testdata" / "sdk-names.json"


def names(plugin: str) -> dict[str, Any]:
    """Each resource and function that the plugin serves: its token, and the SDK's shapes of its inputs and outputs."""
    found: dict[str, Any] = {}
    tokens = served(plugin)
    for module in {token.split(":")[1].partition("/")[0] for token in tokens}:
        spec = find_spec(f"pulumi_{plugin}.{module}")
        assert spec and spec.origin, f"pulumi_{plugin}.{module} is not installed"
        folder = Path(spec.origin).parent
        for file in sorted(folder.glob("*.py")):
            token = TOKEN.search(file.read_text())
            if not token or token[1] not in tokens:
                continue
            classes = _classes(file)
            result = next((name for name in classes if name.startswith("Get") and name.endswith("Result")), None)
            if result:
                arguments = sorted(set(re.findall(r"__args__\['(\w+)'\]", file.read_text())))
                inputs: dict[str, Any] = dict.fromkeys(arguments, "value")
                outputs = _shapes(folder, classes[result])
            else:
                resource = token[1].rpartition(":")[2]
                inputs = _shapes(folder, classes[f"{resource}Args"])
                outputs = _shapes(folder, classes[resource])
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
