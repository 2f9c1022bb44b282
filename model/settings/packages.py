"""Where packages come from."""

from typing import Annotated

from pydantic import Field

from model.settings.fields import Model, Url


class PackageSettings(Model):
    """APT's proxy and mirror, and HAProxy's branch."""

    apt_proxy: Url
    apt_mirror: Url
    haproxy_branch: Annotated[str, Field(pattern=r"^([23]\.\d{1,2})?$")]
