"""How failures are noticed, and how load balancers and API servers know each other. Timers are milliseconds."""

from dataclasses import fields, replace
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from model.settings.fields import CaCertificate, Milliseconds, Model
from model.timers import PROFILES, Profile, Timers


class FailoverSettings(Model):
    """The profile, timers that override it, VRRP, and the API servers' CA."""

    failover_profile: Profile
    advertisement_interval: Annotated[int, Field(ge=0, le=40_950)]
    missed_advertisements: Annotated[int, Field(ge=0, le=100)]
    watchdog_interval: Annotated[int, Field(ge=0, le=4000)]
    watchdog_failures: Annotated[int, Field(ge=0, le=100)]
    api_check_interval: Milliseconds
    api_check_timeout: Milliseconds
    api_connect_timeout: Milliseconds
    api_ca_certificate: CaCertificate

    vrrp_router_id: Annotated[int, Field(ge=1, le=255)]
    vrrp_authentication: bool
    api_client_certificate_set: bool

    @field_validator("advertisement_interval")
    @classmethod
    def _hundredths(cls, value: int) -> int:
        if value % 10:
            raise ValueError(
                f"is not a multiple of 10: VRRPv3 counts hundredths of a second; use {value // 10 * 10 + 10}"
            )
        return value

    @field_validator("watchdog_interval", "api_check_interval", "api_check_timeout", "api_connect_timeout")
    @classmethod
    def _not_in_no_time(cls, value: int) -> int:
        if 0 < value < 20:
            raise ValueError("is below 20 ms, too short for a busy host to answer; use 20 or more, or 0")
        return value

    @model_validator(mode="after")
    def _whole_seconds(self) -> Self:
        if self.vrrp_authentication and self.advertisement_interval % 1000:
            # The text starts with the key, because this is a problem of two keys.
            raise ValueError(
                f"advertisementInterval = {self.advertisement_interval}: vrrpPassword selects VRRPv2, whose "
                "advertisements come in whole seconds (RFC 3768, 5.3.7); use 1000, or no password"
            )
        return self

    @model_validator(mode="after")
    def _noticed_in_time(self) -> Self:
        timers = self.timers
        # HAProxy spreads its checks by 5 %.
        noticed = timers.reachability_check_interval * 21 // 20 + timers.watchdog_interval
        if noticed >= timers.master_down_interval:
            raise ValueError(
                f"apiCheckInterval = {timers.api_check_interval}, watchdogInterval = {timers.watchdog_interval}: one "
                f"load balancer may notice {noticed} ms before the other that all API servers are gone, and after "
                f"{timers.master_down_interval} ms (advertisementInterval x missedAdvertisements) the VIP would move, "
                "although no load balancer can serve; lower apiCheckInterval or watchdogInterval, or raise "
                "missedAdvertisements"
            )
        return self

    @property
    def timers(self) -> Timers:
        """The profile's timers, with the ones that are set instead."""
        timers = PROFILES[self.failover_profile]
        if self.vrrp_authentication:
            timers = timers.in_whole_seconds()
        return replace(timers, **{field.name: own for field in fields(Timers) if (own := getattr(self, field.name))})
