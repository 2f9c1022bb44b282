"""Credentials, services, and whether the project's quota is enough."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from keystoneauth1.exceptions import ClientException, HttpError, MissingRequiredOptions, NotFound, Unauthorized
from openstack.exceptions import ConfigException, SDKException

from model.settings import ServerGroupPolicy
from model.topology import Role, security_rules
from operate.preflight.facts import Facts, named_or_id
from operate.preflight.finding import Finding, not_checked, note, ok, problem
from operate.stack.applied import StackConfiguration
from operate.stack.cloud import endpoint_overrides

SOON = timedelta(days=30)
"""An application credential that expires within this time is noted."""
AN_UP = timedelta(hours=1)
"""More than a large `up` takes."""
EXTENSIONS = frozenset({"allowed-address-pairs", "port-security", "security-group", "standard-attr-description"})
SERVICES = frozenset({"block_storage", "compute", "dns", "image", "network", "volumev3"})
SOFT_ANTI_AFFINITY = (2, 15)
"""Nova's first microversion with the soft policies."""


@dataclass(frozen=True)
class CloudLogin:
    """The findings about the login; the facts, if it succeeded."""

    findings: list[Finding]
    facts: Facts | None


def log_in(configuration: StackConfiguration, connect: Callable[[], Any], now: datetime | None = None) -> CloudLogin:
    """Request a token; every failure is a finding."""
    now = now or datetime.now(UTC)
    try:
        cloud = connect()
        access = cloud.session.auth.get_access(cloud.session)
    except Exception as error:  # incomplete settings raise plain Exceptions and TypeErrors, from deep inside
        return CloudLogin([problem("token", *_why(error))], None)
    findings = [
        ok("token", f"project {access.project_name}, user {access.username}, valid until {access.expires:%F %R} UTC")
    ]
    # A token that was obtained with a password is renewed when it expires.
    if cloud.config.config.get("auth_type") in ("token", "v3token") and access.expires - now < AN_UP:
        minutes = int((access.expires - now).total_seconds() / 60)
        findings = [
            note("token", f"expires in {minutes} min and cannot be renewed", "get a new one before `pulumi up`")
        ]
    if access.project_id is None:
        findings = [
            problem("token", "not scoped to a project", "set one (project_name in clouds.yaml, OS_PROJECT_NAME)")
        ]
        return CloudLogin(findings, None)
    if access.application_credential_id:
        findings.append(_application_credential(cloud, access.user_id, access.application_credential_id, now))
    facts = Facts(
        configuration.stack,
        configuration.settings,
        cloud,
        user_id=access.user_id,
        project_id=access.project_id,
        is_admin="admin" in access.role_names,
    )
    return CloudLogin(findings, facts)


def _why(error: Exception) -> tuple[str, str]:
    reason = " ".join(str(error).split()) or type(error).__name__
    where = "clouds.yaml, the OS_ variables and `pulumi config` (openstack:...)"
    match error:
        case ConfigException():
            return (
                reason,
                "`openstack:cloud` or OS_CLOUD names an entry that clouds.yaml does not have: correct one of them",
            )
        case MissingRequiredOptions():
            return (
                f"no credentials: {reason}",
                "set OS_CLOUD, or `pulumi config set openstack:cloud NAME`, or the OS_ variables",
            )
        case Unauthorized():
            return (
                f"Keystone refuses the credentials: {reason}",
                "the user, password, project or a domain is wrong, or the token or application credential expired or "
                f"was revoked: compare {where}",
            )
        case NotFound():
            return (
                f"Keystone does not know the token, or the URL is not Keystone's: {reason}",
                "get a new token, if it has expired or was revoked; or correct the URL (it ends in /v3)",
            )
        case HttpError() if error.http_status >= 500:
            return f"Keystone fails: {reason}", "wait, or ask the cloud's operator"
        case _:
            return reason, f"check that the URL is reachable from here, and that {where} agree"


def _application_credential(cloud: Any, user_id: str, credential_id: str, now: datetime) -> Finding:
    looked_at = "application credential"
    try:
        credential = cloud.identity.get_application_credential(user_id, credential_id)
    except (SDKException, ClientException) as error:
        return not_checked(looked_at, f"Keystone does not return it: {error}")
    if not credential.expires_at:
        return ok(looked_at, f"{credential.name} does not expire")
    expires = datetime.fromisoformat(credential.expires_at).replace(tzinfo=UTC)
    if expires - now < SOON:
        return note(looked_at, f"{credential.name} expires on {expires:%F %R} UTC", "create a new one before that")
    return ok(looked_at, f"{credential.name} is valid until {expires:%F}")


def nova(facts: Facts) -> Generator[Finding]:
    """Nova is in the catalog, answers, and is new enough for the server groups' policies."""
    compute = facts.cloud.compute
    if compute.get_endpoint() is None:
        yield _not_in_catalog("Nova")
        return
    compute.get_limits()
    yield _microversion(facts)


def neutron(facts: Facts) -> Generator[Finding]:
    """Neutron is in the catalog, answers, and has the extensions that the program uses."""
    endpoint = facts.cloud.network.get_endpoint()
    if endpoint is None:
        yield _not_in_catalog("Neutron")
        return
    needed = EXTENSIONS | (frozenset({"router"}) if facts.settings.floating_network else frozenset[str]())
    missing = sorted(needed - facts.extensions)
    yield ok("Neutron", f"answers at {endpoint}")
    if missing:
        yield problem(
            "Neutron's extensions",
            f"missing: {', '.join(missing)}",
            "the program needs them: ask the cloud's operator, or use another cloud",
        )
    else:
        yield ok("Neutron's extensions", f"has {', '.join(sorted(needed))}")


def glance(facts: Facts) -> Generator[Finding]:
    """Glance is in the catalog and answers."""
    image = facts.cloud.image
    if image.get_endpoint() is None:
        yield _not_in_catalog("Glance")
        return
    next(iter(image.images(limit=1)), None)
    yield ok("Glance", f"answers at {image.get_endpoint()}")


def designate(facts: Facts) -> Generator[Finding]:
    """Designate is in the catalog, and has the zone of the endpoint's name."""
    configured = facts.settings.endpoint_zone
    if not configured:
        return
    dns = facts.cloud.dns
    if dns.get_endpoint() is None:
        yield _not_in_catalog("Designate")
    elif facts.dns_zone is None:
        every = ", ".join(sorted(it.name.rstrip(".") for it in dns.zones()))
        create = "create it (openstack zone create), or leave endpointZone empty"
        yield problem(
            f"zone {configured}", "does not exist for this project", f"use one of {every}" if every else create
        )
    else:
        yield ok("Designate", f"answers at {dns.get_endpoint()}, and has the zone {configured}")


def endpoints(facts: Facts, configuration: StackConfiguration) -> Generator[Finding]:
    """`pulumi up` uses the endpoints that `./ha` uses: the OpenStack provider does not read clouds.yaml's overrides."""
    ours = endpoint_overrides(configuration.provider)
    found: dict[str, Any] = facts.cloud.config.config
    for key, value in found.items():
        service = key.removesuffix("_endpoint_override")
        if service not in SERVICES or not value or ours.get(key) == value:
            continue
        yield problem(
            f"endpoint of {service}",
            f"{key} = {value}, from clouds.yaml or the environment, is not read by Pulumi's OpenStack provider",
            f"`pulumi config set --path openstack:endpointOverrides.{service.replace('_', '-')} URL`, "
            "where URL has the API's version and ends in /",
        )


def _not_in_catalog(name: str) -> Finding:
    return problem(
        name,
        "the catalog has no endpoint for it in this region and interface",
        "correct region_name and interface in clouds.yaml (`openstack catalog list` shows them)",
    )


def _microversion(facts: Facts) -> Finding:
    data = facts.cloud.compute.get_endpoint_data()
    newest: Any = data.max_microversion or (2, 1)
    found = f"answers at {data.url}, up to microversion {newest[0]}.{newest[1]}"
    soft = [
        role
        for role in facts.roles
        if role.settings(facts.settings).server_group_policy is ServerGroupPolicy.SOFT_ANTI_AFFINITY
    ]
    if newest < SOFT_ANTI_AFFINITY and soft:
        return problem(
            "Nova", f"{found}: too old for soft-anti-affinity (2.15)", "set the policy to anti-affinity or none"
        )
    return ok("Nova", found)


def nova_quota(facts: Facts) -> Generator[Finding]:
    """The project's quota is enough for what is missing; resources with the cluster's names count as existing."""
    settings = facts.settings
    missing = {role: count for role in facts.roles if (count := facts.missing(role))}
    quota = facts.cloud.compute.get_limits().absolute
    yield _room("instances", sum(missing.values()), quota.instances, quota.instances_used)
    yield from _server_groups(facts, quota)
    key_pairs = int(bool(settings.public_key) and settings.cluster_name not in facts.key_pairs)
    yield _room("key pairs", key_pairs, quota.keypairs, len(facts.key_pairs))
    cores = sum(count * facts.flavor(role).vcpus for role, count in missing.items())
    yield _room("cores", cores, quota.total_cores, quota.total_cores_used)
    ram = sum(count * facts.flavor(role).ram for role, count in missing.items())
    yield _room("memory (MiB)", ram, quota.total_ram, quota.total_ram_used)


def neutron_quota(facts: Facts) -> Generator[Finding]:
    """Neutron's quota is enough for what is missing."""
    settings = facts.settings
    quota = facts.cloud.network.get_quota(facts.project_id, details=True)
    groups, rules = _missing_groups_and_rules(facts)
    yield _neutron_room("security groups", groups, quota.security_groups)
    yield _neutron_room("security group rules", rules, quota.security_group_rules)
    if settings.floating_network:
        ours = list(facts.cloud.network.ips(description=f"The failover VIP of {settings.cluster_name}"))
        yield _neutron_room("floating IPs", int(not ours), quota.floating_ips)
    ports = sum(role.settings(settings).count for role in Role) + 1 - len(facts.own_ports)
    yield _neutron_room("ports", ports, quota.ports)


def cinder(facts: Facts) -> Generator[Finding]:
    """Cinder is in the catalog, and has the types and the quota of the volumes that hosts boot from."""
    volumes = {role: role.settings(facts.settings) for role in facts.roles}
    volumes = {role: wanted for role, wanted in volumes.items() if wanted.root_volume_size}
    if not volumes:
        return
    storage = facts.cloud.block_storage
    if storage.get_endpoint() is None:
        yield _not_in_catalog("Cinder")
        return
    types = list(storage.types())
    for role, wanted in volumes.items():
        if wanted.root_volume_type and not named_or_id(types, wanted.root_volume_type):
            yield problem(
                f"volume type {wanted.root_volume_type}",
                f"does not exist ({role.configuration_prefix}RootVolumeType)",
                f"use one of {', '.join(sorted(it.name for it in types)) or 'none: there are none'}",
            )
    quota = storage.get_limits().absolute
    count = sum(facts.new_root_disks(role) for role in volumes)
    size = sum(facts.new_root_disks(role) * wanted.root_volume_size for role, wanted in volumes.items())
    yield _room("volumes", count, quota.max_total_volumes, quota.total_volumes_used)
    yield _room("volumes (GiB)", size, quota.max_total_volume_gigabytes, quota.total_gigabytes_used)


def _server_groups(facts: Facts, quota: Any) -> Generator[Finding]:
    settings = facts.settings
    spread = [role for role in facts.roles if role.settings(settings).server_group_policy is not ServerGroupPolicy.NONE]
    there = {group.name for group in facts.cloud.compute.server_groups()}
    missing = sum(f"{settings.cluster_name}-{role}" not in there for role in spread)
    yield _room("server groups", missing, quota.server_groups, quota.server_groups_used)
    members = max((role.settings(settings).count for role in spread), default=0)
    yield _room("members of a server group", members, quota.server_group_members, 0)


def _missing_groups_and_rules(facts: Facts) -> tuple[int, int]:
    rules = security_rules(facts.settings)
    groups = missing = 0
    for role in Role:
        needed = [rule for rule in rules if rule.role is role]
        name = f"{facts.settings.cluster_name}-{role}"
        found = list(facts.cloud.network.security_groups(name=name, project_id=facts.project_id))
        groups += not found
        # Rules that someone else added to the group do not have one of the program's descriptions.
        purposes = {rule.purpose for rule in needed}
        made = sum(rule["description"] in purposes for group in found for rule in group.security_group_rules)
        missing += max(0, len(needed) - made)
    return groups, missing


def _neutron_room(what: str, needed: int, quota: dict[str, int]) -> Finding:
    return _room(what, needed, quota["limit"], quota["used"] + quota["reserved"])


def _room(what: str, needed: int, limit: int, used: int) -> Finding:
    looked_at = f"quota: {what}"
    if limit < 0:
        return ok(looked_at, f"needs {needed} more; unlimited")
    found = f"needs {needed} more; {max(0, limit - used)} of {limit} are free"
    if needed > limit - used:
        return problem(looked_at, found, "request a larger quota, delete unused resources, or build less")
    return ok(looked_at, found)
