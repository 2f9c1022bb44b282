"""The whole configuration: raw values in, frozen and validated `Settings` out, all errors at once."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ValidationError

from model.settings.failover import FailoverSettings
from model.settings.network import NetworkSettings
from model.settings.packages import PackageSettings
from model.settings.roles import RolesSettings
from model.settings.secrets import SECRET_KEYS, Secrets, public_half
from model.settings.ssh import SshSettings


class ConfigurationError(Exception):
    """Everything that is wrong with the configuration, one line per problem: key, value, reason, and what to do."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the configuration is invalid:\n" + "\n".join(f"  - {problem}" for problem in problems))
        self.problems = problems


# pydantic validates the fields of the last base first, and its errors come in that order; a subject's rules may use the
# subjects to its right.
class Settings(FailoverSettings, PackageSettings, SshSettings, RolesSettings, NetworkSettings):
    """The whole configuration, validated."""

    @classmethod
    def parse(
        cls,
        values: Mapping[str, Any],
        *,
        unencrypted: frozenset[str] = frozenset(),
        secrets_are_readable: bool = True,
    ) -> Self:
        """Settings from raw values by their keys in Pulumi.yaml.

        `unencrypted` names the secret keys whose values are in the stack's file in clear text. Without an engine,
        secrets are ciphertext (`secrets_are_readable=False`): only whether they are set is checked.

        Raises `ConfigurationError` with all problems.
        """
        problems: list[str] = []
        plain = {key: value for key, value in values.items() if key not in SECRET_KEYS}
        secret = {key: value for key, value in values.items() if key in SECRET_KEYS}
        plain["vrrpAuthentication"] = bool(secret.get("vrrpPassword"))
        plain["apiClientCertificateSet"] = bool(secret.get("apiClientCertificate"))
        plain["loginPublicKey"] = ""
        if secrets_are_readable:
            try:
                secrets = Secrets.model_validate(secret)
                plain["loginPublicKey"] = public_half(secrets.ssh_private_key.get_secret_value())
            except ValidationError as error:
                problems += _problems(error)
        settings: Self | None = None
        try:
            settings = cls.model_validate(plain)
        except ValidationError as error:
            problems += _problems(error)
        if settings and settings.public_key and settings.login_public_key:
            problems += settings.key_mismatch(settings.public_key)
        for key in sorted(unencrypted & {key for key, value in secret.items() if value}):
            problems.append(
                f"{key} is in the stack's file in clear text and has been exposed; change it, and set it with "
                f"`pulumi config set --secret {key}`"
            )
        if problems or settings is None:
            raise ConfigurationError(problems)
        return settings


_REASONS = {
    "extra_forbidden": "is not a key of this project; Pulumi.yaml lists the keys",
    "string_too_short": "is empty; see its description in Pulumi.yaml",
    "too_short": "is empty; see its description in Pulumi.yaml",
}
"""Plainer words than pydantic's, by its error type."""


def _problems(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for item in error.errors(include_url=False):
        if not item["loc"]:  # a problem of several keys; the text names them
            lines.append(item["msg"].removeprefix("Value error, "))
            continue
        key = str(item["loc"][0])
        reason = _REASONS.get(item["type"], item["msg"].removeprefix("Value error, "))
        if item["type"] == "missing":
            lines.append(f"{key} is not set; see its description in Pulumi.yaml")
        elif key in SECRET_KEYS:
            lines.append(f"{key} (a secret) {reason}")
        else:
            lines.append(f"{key} = {item['input']!r}: {reason}")
    return lines
