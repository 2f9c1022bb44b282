"""Further ports of the VIP, in front of the workers or the control plane."""

import re
from collections import Counter
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from model.ports import (
    API_PORT,
    EXCHANGE_PORT,
    EXPORTER_PORT,
    HEALTH_PORT,
    LOCAL_PORTS,
    METRICS_PORT,
    SSH_PORT,
    TUNNEL_PORT,
)
from model.settings.fields import Cidrs, Model, json_array

OWN_NAMES = frozenset({"apiserver", "last-resort", "health", "metrics"})
"""Of the frontends and backends that HAProxy has anyway (haproxy.cfg)."""
OWN_PORTS = frozenset({SSH_PORT, API_PORT, HEALTH_PORT, METRICS_PORT, EXCHANGE_PORT, TUNNEL_PORT, EXPORTER_PORT})
MOST = 20
"""HAProxy's file descriptors for so many frontends are below a process's limit (fs.nr_open: 1,048,576)."""


class Target(StrEnum):
    """The role whose hosts a frontend leads to."""

    WORKERS = "workers"
    CONTROL_PLANE = "controlPlane"


class Check(StrEnum):
    """How HAProxy checks a server: a TCP handshake, or a request."""

    TCP = "tcp"
    HTTP = "http"
    HTTPS = "https"


def _name(value: str) -> str:
    # A name of a proxy in haproxy.cfg, and a label's value in PromQL.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", value):
        raise ValueError(
            "is not a frontend's name; use at most 32 lower-case letters, digits and hyphens, with a letter first and "
            "no hyphen last"
        )
    if value in OWN_NAMES:
        raise ValueError(f"is a name that HAProxy's configuration already uses ({', '.join(sorted(OWN_NAMES))})")
    return value


def _port(value: int) -> int:
    if value in OWN_PORTS:
        raise ValueError(f"is a port that the load balancers use themselves ({', '.join(map(str, sorted(OWN_PORTS)))})")
    low, high = LOCAL_PORTS
    if low <= value <= high:
        raise ValueError(
            f"is in the load balancers' range of ephemeral ports ({low} to {high}), so it may be in use; "
            "choose another one"
        )
    return value


def _path(value: str) -> str:
    # A word of haproxy.cfg.
    if not re.fullmatch(r"(/[A-Za-z0-9._~/-]{0,200})?", value):
        raise ValueError(
            "is not the path of a URL; write it as /healthz, with letters, digits and ._~/- only, and without a query"
        )
    return value


class FrontendSettings(Model):
    """A port of the VIP, and where its connections go."""

    name: Annotated[str, AfterValidator(_name)]
    port: Annotated[int, Field(ge=1, le=65535), AfterValidator(_port)]
    target: Target = Target.WORKERS
    target_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """None for the same as `port`."""
    allowed_cidrs: Cidrs = ()
    """In addition to the cluster's own hosts."""
    check: Check = Check.TCP
    check_path: Annotated[str, AfterValidator(_path), Field(validate_default=True)] = ""
    check_status: Annotated[int, Field(ge=200, le=599)] = 200
    proxy_protocol: bool = False

    @field_validator("target_port")
    @classmethod
    def _not_the_api(cls, value: int | None, info: ValidationInfo) -> int | None:
        # By that port, the steps and `./ha status` know API servers.
        if value == API_PORT and info.data.get("target") is Target.WORKERS:
            raise ValueError("is the API servers' port, which workers do not serve; choose another one")
        return value

    @field_validator("check_path")
    @classmethod
    def _path_of_a_request(cls, value: str, info: ValidationInfo) -> str:
        check = info.data.get("check")
        if value and check is Check.TCP:
            raise ValueError("is set, but check is tcp, which requests nothing; set check to http or https")
        if not value and check in (Check.HTTP, Check.HTTPS):
            raise ValueError(f"is empty, but check is {check}; set the path to request, such as /healthz")
        return value

    @field_validator("check_status")
    @classmethod
    def _status_of_a_request(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("check") is Check.TCP:
            raise ValueError("is set, but check is tcp, which has no status; set check to http or https")
        return value

    @property
    def server_port(self) -> int:
        """The port of the servers."""
        return self.target_port or self.port


class FrontendsSettings(Model):
    """The list."""

    frontends: Annotated[tuple[FrontendSettings, ...], BeforeValidator(json_array), Field(max_length=MOST)]

    @field_validator("frontends")
    @classmethod
    def _distinct(cls, value: tuple[FrontendSettings, ...]) -> tuple[FrontendSettings, ...]:
        for what, every in (("name", [it.name for it in value]), ("port", [it.port for it in value])):
            if twice := [it for it, count in Counter(every).items() if count > 1]:
                raise ValueError(f"has the {what} {twice[0]} twice; each frontend needs one of its own")
        return value

    @field_validator("frontends")
    @classmethod
    def _with_servers(cls, value: tuple[FrontendSettings, ...], info: ValidationInfo) -> tuple[FrontendSettings, ...]:
        counts = {Target.WORKERS: "worker_count", Target.CONTROL_PLANE: "control_plane_count"}
        for frontend in value:
            if info.data.get(counts[frontend.target]) == 0:
                raise ValueError(
                    f"has {frontend.name}, whose target is {frontend.target}, of which there are none; remove it, or "
                    "choose the other target"
                )
        return value
