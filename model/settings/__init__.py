"""The configuration's meaning, one file per subject. The schema (types, defaults, descriptions) is in Pulumi.yaml.

Values arrive as the engine passes them: text, with arrays as JSON text.
"""

from model.settings.frontends import Check, FrontendSettings, Target
from model.settings.kubernetes import NetworkPlugin
from model.settings.roles import RoleSettings, ServerGroupPolicy
from model.settings.secrets import SECRET_KEYS, client_certificate_file, openssh_private_key
from model.settings.settings import ConfigurationError, Settings
from model.settings.ssh import BastionFault, BastionSettings, HostKeyType

__all__ = [
    "SECRET_KEYS",
    "BastionFault",
    "BastionSettings",
    "Check",
    "ConfigurationError",
    "FrontendSettings",
    "HostKeyType",
    "NetworkPlugin",
    "RoleSettings",
    "ServerGroupPolicy",
    "Settings",
    "Target",
    "client_certificate_file",
    "openssh_private_key",
]
