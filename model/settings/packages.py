"""Where packages come from."""

from model.settings.fields import HaproxyBranch, Model, Url


class PackageSettings(Model):
    """APT's proxy and mirror, and HAProxy's branch."""

    apt_proxy: Url
    apt_mirror: Url
    haproxy_branch: HaproxyBranch
