"""The cloud of a stack, through openstacksdk, found with the same settings as the program's provider finds it."""

from collections.abc import Mapping
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
from openstack.exceptions import ConfigException, HttpException, SDKException
from urllib3.util import Retry

# The provider's configuration (`openstack:KEY`), and what openstacksdk calls it. What is not told here comes from
# clouds.yaml and the OS_ variables, which both read.
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

# A cloud that is overloaded, or restarts behind its proxy, says so. It is asked again after 0, 1, 2, 4, 8 and 15 s, or
# when it wishes (Retry-After, a minute at most). What changes something is not asked again, for it may have been done;
# a login changes nothing.
_RETRY = Retry(
    total=6,
    connect=1,
    read=1,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=("GET", "HEAD"),
    backoff_factor=0.5,
    backoff_max=15,
    retry_after_max=60,
    raise_on_status=False,  # the last answer says more than the number of tries
)
_RETRY_LOGIN = _RETRY.new(allowed_methods=("GET", "POST"))


def explain(error: SDKException | ClientException) -> str:
    """What the cloud, or the way to it, failed with, and what to do."""
    match error:
        case Unauthorized():
            return f"the cloud refuses the credentials, or the token has expired: {error}. {_TRY_CREDENTIALS}"
        case MissingRequiredOptions() | ConfigException():
            return f"the cloud or its credentials are not known: {error}. {_TRY_CREDENTIALS}"
        case ConnectFailure():
            return f"the cloud cannot be reached: {error}"
        case HttpException() | HttpError() if _status(error) == 429 or _status(error) >= 500:
            return f"the cloud still fails when asked again and again: {error}. Wait, and run the command again"
        case _:
            return str(error)


_TRY_CREDENTIALS = (
    "`openstack token issue` tries them: clouds.yaml, the OS_ variables, and `pulumi config` (openstack:...) name them"
)


def _status(error: HttpException | HttpError) -> int:
    return (error.status_code if isinstance(error, HttpException) else error.http_status) or 0


def connect(provider: Mapping[str, str]) -> Connection:
    """A connection made of the provider's configuration of a stack.

    Nothing is asked yet but what the settings name; openstack.exceptions.SDKException where they name nothing.
    """
    # openstacksdk takes what it is given for the whole truth, an empty value as well.
    values: dict[str, Any] = {_NAMES[key]: value for key, value in provider.items() if value and key in _NAMES}
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
    # Of what is mounted the longest prefix counts. Nothing but logging in is done there.
    session.mount(cloud.config.auth["auth_url"], TCPKeepAliveAdapter(max_retries=_RETRY_LOGIN))
    return cloud
