"""The steps of two load balancers, in the program's order; commands stand in for the instances."""

import pulumi
from pulumi_command import local

from components.host import Host, Login
from model.settings import BastionSettings

config = pulumi.Config()
bastion = None
if config.get("bastionPort"):
    bastion = BastionSettings(
        host="127.0.0.1",
        port=config.require_int("bastionPort"),
        user="jump",
        host_key=config.require("bastionHostKey").strip(),
    )
login = Login(private_key=config.require_secret("privateKey"), bastion=bastion, timeout=120)
group = pulumi.ComponentResource("test:index:Group", "group")
configured: list[pulumi.Resource] = []
scripts: list[pulumi.Output[str]] = []
hosts: list[Host] = []
for name in ("lb-0", "lb-1"):
    instance = local.Command(
        name,
        create="true",
        triggers=[config.get("image") or ""],
        opts=pulumi.ResourceOptions(parent=group, depends_on=configured, delete_before_replace=True),
    )
    host = Host(
        name,
        instance=instance,
        address=pulumi.Output.from_input("127.0.0.1"),
        user="tester",
        host_key=pulumi.Output.from_input(config.require("hostKey")),
        login=login,
    )
    host._connection.port = config.require_int("port")  # pyright: ignore[reportPrivateUsage]
    prepared = host.run("prepare", f"{name} prepare {config.require('prepare')}", parent=group)
    installed = host.run("install", f"{name} install", parent=group, after=[prepared, *configured])
    script = prepared.stdout.apply(lambda out, name=name: f"{name} configure {config.require('content')} {out}")
    configured = [host.run("configure", script, parent=group, after=[installed, *configured])]
    scripts.append(script)
    hosts.append(host)
    pulumi.export(name, instance.id)
files = pulumi.Output.all(*scripts).apply("".join)
for host in hosts:
    host.run("prove", f"{host.name} prove", parent=group, after=configured, triggers=[files])
