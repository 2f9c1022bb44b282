"""The stack's configuration, as the engine passes it, to `Settings` and the secrets.

This is the only place in the program where secrets are plain text, and only while they are checked.
"""

from dataclasses import dataclass
from pathlib import Path

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env, is_config_secret

from model.settings import ConfigurationError, Settings, client_certificate_file
from model.settings.stack_file import with_numbers

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class ProgramConfiguration:
    """The settings, and the secrets, which are no part of them."""

    settings: Settings
    ssh_private_key: pulumi.Output[str]
    vrrp_password: pulumi.Output[str]
    api_client_certificate: pulumi.Output[str]


def read_configuration() -> ProgramConfiguration:
    """The current stack's configuration.

    Raises `pulumi.RunError`, which the engine shows without a traceback, with all problems together.
    """
    namespace = f"{pulumi.get_project()}:"
    values = {
        key.removeprefix(namespace): value
        for key, value in {**(get_config_env() or {}), **CONFIG.get()}.items()
        if key.startswith(namespace)
    }
    encrypted = frozenset(key for key in values if is_config_secret(namespace + key))
    file = ROOT / f"Pulumi.{pulumi.get_stack()}.yaml"
    if file.exists():
        values = with_numbers(values, file.read_text(), pulumi.get_project())
    try:
        settings = Settings.parse(values, encrypted=encrypted)
    except ConfigurationError as error:
        raise pulumi.RunError(str(error)) from None
    return ProgramConfiguration(
        settings=settings,
        # A key file's last newline is easily lost on the way into the configuration, and parsers insist on it.
        ssh_private_key=pulumi.Output.secret(values["sshPrivateKey"].strip() + "\n"),
        vrrp_password=_secret(values.get("vrrpPassword", "")),
        api_client_certificate=_secret(client_certificate_file(values.get("apiClientCertificate", ""))),
    )


def _secret(value: str) -> pulumi.Output[str]:
    # An empty value is not a secret. If it were, previews would hide every rendered file.
    return pulumi.Output.secret(value) if value else pulumi.Output.from_input("")
