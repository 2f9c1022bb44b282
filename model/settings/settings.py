"""The whole configuration: raw values in, frozen and validated `Settings` out, all errors at once."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Self, cast

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from model.settings.failover import FailoverSettings
from model.settings.frontends import FrontendsSettings
from model.settings.kubernetes import KubernetesSettings
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
class Settings(
    KubernetesSettings,
    FrontendsSettings,
    FailoverSettings,
    PackageSettings,
    SshSettings,
    RolesSettings,
    NetworkSettings,
):
    """The whole configuration, validated."""

    @classmethod
    def parse(
        cls,
        values: Mapping[str, Any],
        *,
        encrypted: frozenset[str] = SECRET_KEYS,
        secrets_are_readable: bool = True,
    ) -> Self:
        """Settings from raw values by their keys in Pulumi.yaml.

        `encrypted` names the keys whose values are encrypted in the stack's file: a secret that is not is refused, and
        any other setting that is, except `aptProxy`, which may have a password. Without an engine, secrets are
        ciphertext (`secrets_are_readable=False`): only whether they are set is checked.

        Raises `ConfigurationError` with all problems.
        """
        encrypted |= {key for key, value in values.items() if _is_ciphertext(value)}
        problems: list[str] = []
        known = _keys()
        # What is not validated cannot be shown; the setting is then missing, which is reported as what it is.
        plain = {key: values[key] for key in values.keys() & known - SECRET_KEYS - (encrypted - _MAY_BE_ENCRYPTED)}
        plain |= {key: "" for key in _MAY_BE_ENCRYPTED if _is_ciphertext(plain.get(key))}
        secret = {key: value for key, value in values.items() if key in SECRET_KEYS}
        plain["vrrpAuthentication"] = bool(secret.get("vrrpPassword"))
        plain["apiClientCertificateSet"] = bool(secret.get("apiClientCertificate"))
        plain["aptProxyEncrypted"] = "aptProxy" in encrypted
        plain["loginPublicKey"] = ""
        if secrets_are_readable:
            try:
                secrets = Secrets.model_validate(secret)
                plain["loginPublicKey"] = public_half(secrets.ssh_private_key.get_secret_value())
            except ValidationError as error:
                problems += _problems(error, encrypted)
        settings: Self | None = None
        try:
            settings = cls.model_validate(plain)
        except ValidationError as error:
            problems += _problems(error, encrypted)
        problems += [_unknown(key) for key in values if key not in known]
        if settings and settings.public_key and settings.login_public_key:
            problems += settings.key_mismatch(settings.public_key)
        exposed = {key for key, value in secret.items() if value}
        if "@" in str(plain.get("aptProxy")):
            exposed.add("aptProxy")
        for key in sorted(exposed - encrypted):
            problems.append(
                f"{key} is in the stack's file in clear text and has been exposed; change it, and set it with "
                f"`pulumi config set --secret {key}`"
            )
        if problems or settings is None:
            raise ConfigurationError(problems)
        return settings


_COMPUTED = frozenset({"vrrpAuthentication", "apiClientCertificateSet", "aptProxyEncrypted", "loginPublicKey"})
_MAY_BE_ENCRYPTED = frozenset({"aptProxy"})


def _keys() -> frozenset[str]:
    """The keys that Pulumi.yaml has."""
    return SECRET_KEYS | {str(field.alias) for field in Settings.model_fields.values()} - _COMPUTED


def _unknown(key: str) -> str:
    """The problem of an unknown key, without its value: the key may be a secret's, mistyped."""
    similar = get_close_matches(key, _keys(), n=1)
    meant = f"did you mean {similar[0]}?" if similar else "Pulumi.yaml lists the keys."
    return f"{key} is not a key of this project; {meant} Remove it with `pulumi config rm {key}`"


def _is_ciphertext(value: object) -> bool:
    """Whether a value, or a part of it, is encrypted, as in a stack's file."""
    if isinstance(value, list):
        return any(map(_is_ciphertext, cast("list[object]", value)))
    return isinstance(value, dict) and "secure" in value


def _may_be_secret(value: object) -> bool:
    """Whether a value looks like a key, a token, or a URL with a password: then no message shows it."""
    others = re.sub(r"\b[a-z][\w@.-]+ AAAA[\w+/=]+", "", str(value))  # a public key
    return bool(re.search(r"PRIVATE KEY|//\S*@|(?=[\w+/=-]*\d)[\w+/=-]{40}", others))


_REASONS = {
    "string_too_short": "is empty; see its description in Pulumi.yaml",
    "too_short": "is empty; see its description in Pulumi.yaml",
    "extra_forbidden": "is not a key here; see the description in Pulumi.yaml",
}
"""Plainer words than pydantic's, by its error type."""


def _problems(error: ValidationError, encrypted: frozenset[str]) -> list[str]:
    lines: list[str] = []
    for item in error.errors(include_url=False):
        if not item["loc"]:  # a problem of several keys; the text names them
            lines.append(item["msg"].removeprefix("Value error, "))
            continue
        key = str(item["loc"][0])
        # Within an object of a list: frontends[0].port. An item that is no object shows itself.
        place = "".join(f".{to_camel(it)}" if isinstance(it, str) else f"[{it}]" for it in item["loc"][1:])
        where = key + (place if "." in place else "")
        reason = _REASONS.get(item["type"], item["msg"].removeprefix("Value error, "))
        if item["type"] == "missing" and key in encrypted - SECRET_KEYS:
            lines.append(
                f"{key} is set as a secret, but this program shows it in Pulumi's state and previews; set it again "
                "without --secret"
            )
        elif item["type"] == "missing":
            lines.append(f"{where} is not set; see its description in Pulumi.yaml")
        elif key in SECRET_KEYS | encrypted:
            lines.append(f"{key} (a secret) {reason}")
        elif key in _MAY_BE_ENCRYPTED or _may_be_secret(item["input"]):
            lines.append(f"{key} (not shown, because it may be a secret) {reason}")
        else:
            lines.append(f"{where} = {item['input']!r}: {reason}")
    return lines
