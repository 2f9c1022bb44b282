"""The cloud's configuration: the tree `cloud/rootfs`, rendered for this lab and installed over its root file system."""

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dev.lab.certificate import RegistryCertificate
from dev.lab.files import write_private
from dev.lab.host_network import MTU
from dev.lab.settings import LabSettings

_TREE = Path(__file__).parent / "cloud" / "rootfs"
_TEMPLATE_SUFFIX = ".j2"

# Debian's services read /etc/SERVICE as a user of the same name; the files contain passwords.
_SERVICES = ("keystone", "glance", "placement", "nova", "neutron", "rabbitmq")
_ROOT_ONLY = ("etc/lab/environment", "etc/lab/registry.key")


@dataclass(frozen=True, kw_only=True)
class Passwords:
    """The lab's secrets, generated at random for each lab."""

    admin: str
    lab: str
    service: str
    database: str
    rabbitmq: str
    metadata: str

    @classmethod
    def load(cls, state: Path) -> "Passwords":
        """Reads the lab's passwords from the state folder, or generates and saves them there (mode 600)."""
        path = state / "passwords.json"
        if not path.exists():
            # Hexadecimal: they are used in URLs, shell files and SQL without quoting.
            made = cls(**{name: secrets.token_hex(16) for name in cls.__annotations__})
            write_private(path, json.dumps(asdict(made), indent=2) + "\n")
        return cls(**json.loads(path.read_text()))


@dataclass(frozen=True, kw_only=True)
class ConfiguredFile:
    """One file of the cloud: its path (relative to the root), content, mode and group."""

    path: str
    content: str
    mode: int
    group: str

    @property
    def owner(self) -> str:
        """RabbitMQ must own its files; the other services only read theirs."""
        return "rabbitmq" if self.group == "rabbitmq" else "root"


def render(settings: LabSettings, passwords: Passwords, registry: RegistryCertificate) -> list[ConfiguredFile]:
    """All files of the cloud's configuration, sorted by path."""

    def database(name: str) -> str:
        return f"mysql+pymysql://openstack:{passwords.database}@127.0.0.1/{name}?charset=utf8"

    values: dict[str, object] = {
        "virt_type": settings.virt_type,
        "mtu": MTU,
        "api_address": str(settings.api_address),
        "api_gateway": str(settings.api_gateway),
        "api_prefix_length": settings.api_network.prefixlen,
        "auth_url": settings.auth_url,
        "transport_url": f"rabbit://openstack:{passwords.rabbitmq}@127.0.0.1:5672/",
        "passwords": passwords,
        "registry": registry,
        "database": database,
    }
    # These are not HTML files, so nothing is escaped.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(_TREE), undefined=StrictUndefined, keep_trailing_newline=True
    )
    files: list[ConfiguredFile] = []
    for source in sorted(_TREE.rglob("*")):
        if source.is_dir() or source.name.startswith("_"):
            continue
        name = source.relative_to(_TREE).as_posix()
        if source.suffix == _TEMPLATE_SUFFIX:
            content = environment.get_template(name).render(values)
            name = name.removesuffix(_TEMPLATE_SUFFIX)
        else:
            content = source.read_text()
        files.append(_configured(name, content, executable=os.access(source, os.X_OK)))
    return files


def _configured(name: str, content: str, *, executable: bool) -> ConfiguredFile:
    top, _, rest = name.partition("/")
    service = rest.split("/")[0]
    if top == "etc" and service in _SERVICES:
        return ConfiguredFile(path=name, content=content, mode=0o640, group=service)
    mode = 0o755 if executable else 0o600 if name in _ROOT_ONLY else 0o644
    return ConfiguredFile(path=name, content=content, mode=mode, group="root")


def digest(files: list[ConfiguredFile], *others: str) -> str:
    """A hash of a configuration; `others` is what else a running lab depends on."""
    return hashlib.sha256(repr((files, others)).encode()).hexdigest()[:12]


def install(files: list[ConfiguredFile], upper: Path, rootfs: Path) -> None:
    """Writes the files to `upper`, the writable layer over `rootfs`, and removes files of an earlier configuration.

    The owners are looked up in the root file system: they do not exist on the host.
    """
    users, groups = (_ids(rootfs / "etc" / name) for name in ("passwd", "group"))
    manifest = upper / "var/lib/lab/configured-files.json"
    earlier: list[str] = json.loads(manifest.read_text()) if manifest.exists() else []
    for name in set(earlier) - {file.path for file in files}:
        (upper / name).unlink(missing_ok=True)
    for file in files:
        _make_parents(upper, rootfs, file.path)
        target = upper / file.path
        target.write_text(file.content)
        os.chown(target, users[file.owner], groups[file.group])
        target.chmod(file.mode)
    _make_parents(upper, rootfs, "var/lib/lab/configured-files.json")
    manifest.write_text(json.dumps([file.path for file in files], indent=2))


def _make_parents(upper: Path, rootfs: Path, name: str) -> None:
    # A folder in the upper layer hides the owner and mode of the one below, so it gets the same.
    for parent in reversed(Path(name).parents[:-1]):
        folder, below = upper / parent, rootfs / parent
        if folder.exists():
            continue
        folder.mkdir()
        if below.exists():
            status = below.stat()
            os.chown(folder, status.st_uid, status.st_gid)
            folder.chmod(status.st_mode & 0o7777)


def _ids(database: Path) -> dict[str, int]:
    rows = (line.split(":") for line in database.read_text().splitlines())
    return {row[0]: int(row[2]) for row in rows}
