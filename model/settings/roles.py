"""The instances of each role."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

from model.settings.fields import LoginUser, Model, Required, Text, Zones

VolumeSize = Annotated[int, Field(ge=0, le=16_384)]
"""GiB."""


class ServerGroupPolicy(StrEnum):
    """How Nova spreads the instances of a role (Nova API, server groups)."""

    SOFT_ANTI_AFFINITY = "soft-anti-affinity"
    ANTI_AFFINITY = "anti-affinity"
    NONE = "none"


class RoleSettings(Model):
    """What the configuration says of one role's instances."""

    count: int
    flavor: str
    image: str
    root_volume_size: int
    """GiB; 0 for the flavor's disk."""
    root_volume_type: str
    """Empty for the cloud's default."""
    user: str
    availability_zones: tuple[str, ...]
    server_group_policy: ServerGroupPolicy


class RolesSettings(Model):
    """Count, flavor, image, root volume, login user, zones and server group of each role."""

    LOAD_BALANCERS: ClassVar[Literal[2]] = 2

    load_balancer_flavor: Required
    load_balancer_image: Required
    load_balancer_root_volume_size: VolumeSize
    load_balancer_root_volume_type: Text
    load_balancer_user: LoginUser
    load_balancer_availability_zones: Zones
    load_balancer_server_group_policy: ServerGroupPolicy

    control_plane_count: Annotated[int, Field(ge=0, le=99)]
    control_plane_flavor: Text
    control_plane_image: Text
    control_plane_root_volume_size: VolumeSize
    control_plane_root_volume_type: Text
    control_plane_user: LoginUser
    control_plane_availability_zones: Zones
    control_plane_server_group_policy: ServerGroupPolicy

    worker_count: Annotated[int, Field(ge=0, le=1000)]
    worker_flavor: Text
    worker_image: Text
    worker_root_volume_size: VolumeSize
    worker_root_volume_type: Text
    worker_user: LoginUser
    worker_availability_zones: Zones
    worker_server_group_policy: ServerGroupPolicy

    config_drive: bool

    @field_validator("control_plane_count")
    @classmethod
    def _odd_control_plane(cls, value: int, info: ValidationInfo) -> int:
        if value == 0:
            if info.data.get("api_servers") == ():
                raise ValueError("is 0 and apiServers is empty, so there is no API server; set one of them")
        elif value % 2 == 0:
            raise ValueError(
                f"is even: etcd's Raft needs a majority, so {value} members survive the loss of {value // 2 - 1}, "
                f"as {value - 1} do, and one more can fail; use {value - 1} or {value + 1}"
            )
        return value

    @field_validator("control_plane_flavor", "control_plane_image", "worker_flavor", "worker_image")
    @classmethod
    def _needed_with_instances(cls, value: str, info: ValidationInfo) -> str:
        count = f"{str(info.field_name).rpartition('_')[0]}_count"
        if not value and (wanted := info.data.get(count, 0)) > 0:
            raise ValueError(f"is empty, but {to_camel(count)} is {wanted}; set it, or set {to_camel(count)} to 0")
        return value

    @field_validator("load_balancer_root_volume_type", "control_plane_root_volume_type", "worker_root_volume_type")
    @classmethod
    def _type_of_a_volume(cls, value: str, info: ValidationInfo) -> str:
        size = str(info.field_name).replace("_type", "_size")
        if value and info.data.get(size) == 0:
            raise ValueError(f"is set, but {to_camel(size)} is 0, so there is no volume; set both, or none of them")
        return value

    @property
    def load_balancers(self) -> RoleSettings:
        """The load balancers."""
        return self._role("load_balancer", self.LOAD_BALANCERS)

    @property
    def control_plane(self) -> RoleSettings:
        """The control plane."""
        return self._role("control_plane", self.control_plane_count)

    @property
    def workers(self) -> RoleSettings:
        """The workers."""
        return self._role("worker", self.worker_count)

    def _role(self, prefix: str, count: int) -> RoleSettings:
        fields = RoleSettings.model_fields.keys() - {"count"}
        return RoleSettings(count=count, **{field: getattr(self, f"{prefix}_{field}") for field in fields})
