"""The stack's configuration, as the engine hands it over, to `Settings` and the secrets.

This is the only place where secrets are plain text in the program: long enough to be checked.
"""

from dataclasses import dataclass

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env, is_config_secret

from model.settings import SECRET_KEYS, ConfigurationError, Settings, client_certificate_file


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What the program is told."""

    settings: Settings
    ssh_private_key: pulumi.Output[str]
    vrrp_password: pulumi.Output[str]
    api_client_certificate: pulumi.Output[str]


def read_configuration() -> Configuration:
    """The current stack's configuration.

    Raises `pulumi.RunError`, which the engine shows without a traceback, with every problem at once.
    """
    namespace = f"{pulumi.get_project()}:"
    values = {
        key.removeprefix(namespace): value
        for key, value in {**(get_config_env() or {}), **CONFIG.get()}.items()
        if key.startswith(namespace)
    }
    unencrypted = frozenset(key for key in SECRET_KEYS if not is_config_secret(namespace + key))
    try:
        settings = Settings.parse(values, unencrypted=unencrypted)
    except ConfigurationError as error:
        raise pulumi.RunError(str(error)) from None
    return Configuration(
        settings=settings,
        # A key file's last newline is easily lost on its way into the configuration, and parsers insist on it.
        ssh_private_key=pulumi.Output.secret(values["sshPrivateKey"].strip() + "\n"),
        vrrp_password=_secret(values.get("vrrpPassword", "")),
        api_client_certificate=_secret(client_certificate_file(values.get("apiClientCertificate", ""))),
    )


def _secret(value: str) -> pulumi.Output[str]:
    # What is empty is no secret; were it one, every rendered file would be hidden in previews.
    return pulumi.Output.secret(value) if value else pulumi.Output.from_input("")
