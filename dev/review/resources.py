"""Writes the inputs of each resource that the program would create, one file each, without a cloud.

Comparing the folders of two versions of the project shows what a change does, without credentials. What only the cloud
knows is a placeholder, secrets are `(secret)`, and a client certificate (`apiClientCertificate`) is left out.
"""

import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

import pulumi
import typer
import yaml

from dev.review.recording_cloud import RecordingCloud, key_pair
from model.settings import SECRET_KEYS, ConfigurationError, Settings
from operate.stack.files import stack_values

SECRET = "(secret)"  # noqa: S105 - a placeholder
STAND_IN_PASSWORD = "standin"  # noqa: S105 - the program accepts it; never shown
STAND_IN_PROXY = "http://standin:standin@proxy.example:3128"


class _Readable(yaml.SafeDumper):
    """Writes multi-line texts as blocks, so that a diff shows only the changed lines."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)  # pyright: ignore


_Readable.add_representer(str, _text)


def register(values: dict[str, Any]) -> RecordingCloud:
    """Run the program with a stack's raw values (`stack_values`), whose secrets cannot be read here.

    Raises what the program raises.
    """
    private, public = key_pair()
    readable = values | {"sshPrivateKey": private, "apiClientCertificate": ""}
    readable["publicKey"] = public if values.get("publicKey") else ""
    readable["vrrpPassword"] = STAND_IN_PASSWORD if values.get("vrrpPassword") else ""
    secret_keys = SECRET_KEYS
    if isinstance(values.get("aptProxy"), dict):  # encrypted
        readable["aptProxy"] = STAND_IN_PROXY
        secret_keys |= {"aptProxy"}
    vip = values.get("vip")
    # The real subnet is unknown here; this one contains the VIP.
    cloud = RecordingCloud(secret_keys=secret_keys)
    if vip:
        cloud.subnet = str(ip_network(f"{vip}/8", strict=False))
    return cloud.run(readable)


def write(cloud: RecordingCloud, out: Path, *, public_key: str) -> None:
    """Write the inputs of each resource to `out/<type>/<name>.yaml`, with `public_key` in place of the stand-in key."""
    for resource in cloud.resources:
        shown = {key: SECRET if resource.is_secret(key) else value for key, value in resource.inputs.items()}
        if not shown:
            continue
        text = yaml.dump(shown, Dumper=_Readable, width=200, allow_unicode=True)
        path = out / resource.type.rpartition(":")[2] / f"{resource.name.replace('/', '_')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(key_pair()[1], public_key))


def main(
    stack: Annotated[str, typer.Argument(help="The stack, as in Pulumi.STACK.yaml.")],
    out: Annotated[Path, typer.Argument(help="Folder to write to; existing files are replaced.")],
) -> None:
    """Write the inputs of each resource that the program would create for a stack, one file each."""
    try:
        values = stack_values(stack)
        # As they are written. The program gets them as the engine passes them, with other secrets.
        Settings.parse(values, secrets_are_readable=False)
        cloud = register(values)
    except FileNotFoundError as error:
        sys.exit(f"no stack file {error.filename}; set STACK to the name of a stack that has a Pulumi.STACK.yaml here")
    except (ConfigurationError, pulumi.RunError) as error:
        sys.exit(str(error))
    write(cloud, out, public_key=values.get("publicKey", ""))


if __name__ == "__main__":
    typer.run(main)
