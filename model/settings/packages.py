"""Where packages come from."""

from model.settings.fields import HaproxyBranch, HostsWithoutProxy, Model, ProxyUrl, Url


class PackageSettings(Model):
    """APT's proxy and mirror, and HAProxy's branch."""

    apt_proxy: ProxyUrl
    apt_proxy_encrypted: bool
    """Whether the stack's file has it as a secret; it then stays one in Pulumi's state and previews."""
    apt_no_proxy: HostsWithoutProxy
    apt_mirror: Url
    haproxy_branch: HaproxyBranch
