"""The cluster's keys and certificates, created by program/certificates.py once, and kept in the state as secrets."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

import pulumi
import pulumi_command as command

from model.kubernetes import Authorities, renewal_period

# Relative to the project, which is where the engine starts its plugins: the same text on every machine.
PROGRAM = ".venv/bin/python -m program.certificates"


class CertificateAuthorities(pulumi.ComponentResource):
    """What the cluster keeps for its whole life."""

    everything: pulumi.Output[Authorities]
    """A secret."""
    ca: pulumi.Output[str]
    """The cluster's CA certificate, PEM: no secret."""

    def __init__(self, name: str, cluster: str, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openstack-ha-api:kubernetes:CertificateAuthorities", name, None, opts)
        created = command.local.Command(
            f"{cluster}-certificate-authorities",
            create=f"{PROGRAM} authorities",
            logging=command.local.Logging.NONE,
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(
                parent=self,
                additional_secret_outputs=["stdout"],
                # Whatever changes about how they are created, a cluster keeps its own.
                ignore_changes=["*"],
            ),
        )
        self.everything = pulumi.Output.secret(created.stdout.apply(Authorities.from_json))
        self.ca = pulumi.Output.unsecret(self.everything.apply(lambda found: found["ca"]))
        self.register_outputs({"ca": self.ca})


@dataclass(frozen=True, kw_only=True)
class AdminCertificate:
    """The administrator's certificate and key, in PEM: secrets."""

    record: pulumi.CustomResource
    certificate: pulumi.Output[str]
    key: pulumi.Output[str]


def make_admin_certificate(
    cluster: str,
    authorities: pulumi.Output[Authorities],
    *,
    parent: pulumi.Resource,
    after: list[pulumi.Resource],
    hooks: pulumi.ResourceHookBinding,
) -> AdminCertificate:
    """Valid for a year; the first `up` in each half-year renews it.

    In place, not by a replacement: `hooks` are those of the cluster's end.
    """
    created = command.local.Command(
        f"{cluster}-admin-certificate",
        create=f"{PROGRAM} client kubernetes-admin kubeadm:cluster-admins",
        stdin=authorities.apply(lambda found: json.dumps({"ca": found["ca"], "ca-key": found["ca-key"]})),
        environment={"RENEWED": renewal_period(datetime.now(UTC).date())},
        logging=command.local.Logging.NONE,
        add_previous_output_in_env=False,
        opts=pulumi.ResourceOptions(parent=parent, depends_on=after, additional_secret_outputs=["stdout"], hooks=hooks),
    )
    found = pulumi.Output.secret(created.stdout.apply(json.loads))
    return AdminCertificate(
        record=created,
        certificate=found.apply(lambda it: str(it["certificate"])),
        key=found.apply(lambda it: str(it["key"])),
    )
