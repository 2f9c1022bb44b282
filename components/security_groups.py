"""One security group per role, with the rules of model/topology.py and no others: default rules are deleted."""

from dataclasses import dataclass

import pulumi
import pulumi_openstack as openstack

from model.ports import FLANNEL_PORT
from model.settings import Settings
from model.topology import Role, security_rules


@dataclass(frozen=True, kw_only=True)
class SecurityGroupsArgs:
    """What the groups depend on."""

    settings: Settings


class SecurityGroups(pulumi.ComponentResource):
    """The groups by role."""

    ids: dict[Role, pulumi.Output[str]]

    def __init__(self, name: str, args: SecurityGroupsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openstack-ha-api:network:SecurityGroups", name, None, opts)
        groups = {
            role: openstack.networking.SecGroup(
                f"{args.settings.cluster_name}-{role}",
                name=f"{args.settings.cluster_name}-{role}",
                description=f"Hosts of {args.settings.cluster_name}: {role.name.lower().replace('_', ' ')}",
                delete_default_rules=True,
                opts=pulumi.ResourceOptions(parent=self),
            )
            for role in Role
        }
        self.ids = {role: group.id for role, group in groups.items()}
        for rule in security_rules(args.settings):
            low, high = rule.ports or (None, None)
            name = f"{args.settings.cluster_name}-{rule.role}-{rule.name}"
            # What stacks of older versions have.
            former = name.replace(f"-plugin-udp-{FLANNEL_PORT}-", "-flannel-")
            openstack.networking.SecGroupRule(
                name,
                security_group_id=self.ids[rule.role],
                description=rule.purpose,
                direction="egress" if rule.egress else "ingress",
                ethertype="IPv4",
                protocol=rule.protocol,
                port_range_min=low,
                port_range_max=high,
                remote_group_id=self.ids[rule.source] if isinstance(rule.source, Role) else None,
                remote_ip_prefix=None if isinstance(rule.source, Role) else rule.source,
                opts=pulumi.ResourceOptions(
                    parent=self,
                    aliases=[pulumi.Alias(name=former)] if former != name else None,
                    # It would replace the rule, which Neutron refuses while its equal is there.
                    ignore_changes=["description"],
                ),
            )
        self.register_outputs({"ids": {str(role): group_id for role, group_id in self.ids.items()}})
