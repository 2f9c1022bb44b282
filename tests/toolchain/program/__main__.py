"""The smallest program that uses everything toolchain/ provides: engine, language host and the command plugin."""

import pulumi
from pulumi_command import local, remote

config = pulumi.Config()
host = remote.ConnectionArgs(
    host="127.0.0.1",
    port=config.require_int("port"),
    user="tester",
    private_key=config.require_secret("privateKey"),
    host_key=config.require("hostKey"),
    dial_error_limit=-1,
)
here = local.Command("here", create="cat; echo $NAME", stdin="local ", environment={"NAME": "value"})
there = remote.Command(
    "there",
    connection=host,
    create="cat",
    stdin=config.require("content"),
    triggers=[config.require("generation")],
    opts=pulumi.ResourceOptions(custom_timeouts=pulumi.CustomTimeouts(create="10s", update="10s")),
)
pulumi.export("here", here.stdout)
pulumi.export("there", there.stdout)
