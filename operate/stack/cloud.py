"""A stack's cloud through openstacksdk, with the same settings as the program's OpenStack provider."""

import atexit
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openstack
from keystoneauth1.exceptions import (
    ClientException,
    ConnectFailure,
    HttpError,
    MissingRequiredOptions,
    Unauthorized,
)
from keystoneauth1.session import TCPKeepAliveAdapter
from openstack.connection import Connection
from openstack.exceptions import ConfigException, HttpException, NotFoundException, SDKException
from pydantic import TypeAdapter, ValidationError
from urllib3.util import Retry

from operate.stack.engine import StackError

# openstacksdk's name of each key of the provider's configuration (`openstack:KEY`). Everything else comes from
# clouds.yaml and the OS_ variables, which both of them read.
_NAMES = {
    "cloud": "cloud",
    "region": "region_name",
    "authUrl": "auth_url",
    "userName": "username",
    "userId": "user_id",
    "password": "password",
    "token": "token",
    "tenantName": "project_name",
    "tenantId": "project_id",
    "domainName": "domain_name",
    "domainId": "domain_id",
    "userDomainName": "user_domain_name",
    "userDomainId": "user_domain_id",
    "projectDomainName": "project_domain_name",
    "projectDomainId": "project_domain_id",
    "defaultDomain": "default_domain",
    "applicationCredentialId": "application_credential_id",
    "applicationCredentialName": "application_credential_name",
    "applicationCredentialSecret": "application_credential_secret",
    "cacertFile": "cacert",
    "cert": "cert",
    "key": "key",
    "endpointType": "interface",
}
_PATHS = ("cacert", "cert", "key")
"""What openstacksdk takes as the path of a file. The provider takes the file's content, too."""

# A cloud that is overloaded, or restarts behind its proxy, answers with one of these statuses. A request is repeated
# after 0, 1, 2, 4, 8 and 15 s, or as the cloud says (Retry-After, a minute at most). One that changes something is not
# repeated, because it may have succeeded; a login changes nothing.
_RETRY = Retry(
    total=6,
    connect=1,
    read=1,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=("GET", "HEAD"),
    backoff_factor=0.5,
    backoff_max=15,
    retry_after_max=60,
    raise_on_status=False,  # the last answer is more useful than the number of attempts
)
_RETRY_LOGIN = _RETRY.new(allowed_methods=("GET", "POST"))


def explain(error: SDKException | ClientException) -> str:
    """What failed in the cloud or on the way to it, and what to do."""
    match error:
        case Unauthorized():
            return f"the cloud refuses the credentials, or the token has expired: {error}. {_TRY_CREDENTIALS}"
        case MissingRequiredOptions() | ConfigException():
            return f"the cloud or its credentials are unknown: {error}. {_TRY_CREDENTIALS}"
        case ConnectFailure():
            return f"the cloud cannot be reached: {error}"
        case HttpException() | HttpError() if _status(error) == 429 or _status(error) >= 500:
            return f"the cloud still fails after several attempts: {error}. Wait, and run the command again"
        case _:
            return str(error)


_TRY_CREDENTIALS = (
    "Check clouds.yaml, the OS_ variables and `pulumi config` (openstack:...); `openstack token issue` tests them"
)


def _status(error: HttpException | HttpError) -> int:
    return (error.status_code if isinstance(error, HttpException) else error.http_status) or 0


def endpoint_overrides(provider: Mapping[str, str]) -> dict[str, str]:
    """The URLs in the provider's `openstack:endpointOverrides`, by openstacksdk's names for them.

    StackError if it is no JSON object of texts.
    """
    try:
        overrides = _OVERRIDES.validate_json(provider.get("endpointOverrides") or "{}")
    except ValidationError:
        raise StackError(
            "openstack:endpointOverrides is not a JSON object with a URL for each service: set it with `pulumi config "
            "set --path 'openstack:endpointOverrides.SERVICE' URL`, or remove it"
        ) from None
    # The provider takes another type of service, too, which openstacksdk cannot.
    return {f"{key.replace('-', '_')}_endpoint_override": it for key, it in overrides.items() if "://" in it}


_OVERRIDES = TypeAdapter(dict[str, str])


def _as_path(path_or_content: str) -> str:
    """The path of a file; content is written to one.

    `openstack:key` is a private key. Its file has mode 0600, is in a folder for this user alone (in XDG_RUNTIME_DIR if
    there is one, which is in memory), and is deleted when this process exits. Only `kill -9` leaves it behind.
    """
    if "-----BEGIN " not in path_or_content:
        return path_or_content
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = TemporaryDirectory(prefix="ha-api-", dir=runtime if runtime and Path(runtime).is_dir() else None)
    atexit.register(folder.cleanup)
    file = Path(folder.name) / "content.pem"
    file.touch(0o600)
    file.write_text(path_or_content)
    return str(file)


def connect(provider: Mapping[str, str]) -> Connection:
    """A connection with the provider's configuration of a stack. Sends no request yet.

    openstack.exceptions.SDKException if the configuration names no cloud; StackError if it is invalid.
    """
    # openstacksdk takes an empty value literally, and would not look it up elsewhere.
    values: dict[str, Any] = {_NAMES[key]: value for key, value in provider.items() if value and key in _NAMES}
    values |= {key: _as_path(values[key]) for key in _PATHS if key in values} | endpoint_overrides(provider)
    if provider.get("insecure") == "true":
        values["verify"] = False
    if "application_credential_secret" in values:
        values["auth_type"] = "v3applicationcredential"
    if "token" in values:
        values["auth_type"] = "token"
    cloud = openstack.connect(load_envvars=True, app_name="openstack-ha-api", **values)
    session: Any = cloud.session
    for scheme in ("http://", "https://"):
        session.mount(scheme, TCPKeepAliveAdapter(max_retries=_RETRY))
    # The longest prefix wins. At this URL there is nothing but the login.
    session.mount(cloud.config.auth["auth_url"], TCPKeepAliveAdapter(max_retries=_RETRY_LOGIN))
    return cloud


def found(get: Callable[[str], Any], resource_id: str | None) -> Any | None:
    """What `get` returns for an id; None without an id, or if the cloud no longer has the resource."""
    try:
        return get(resource_id) if resource_id else None
    except NotFoundException:
        return None
