import configparser
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from threading import Barrier

import pytest

from dev.lab import build, configuration
from dev.lab.certificate import RegistryCertificate
from dev.lab.configuration import ConfiguredFile, Passwords
from dev.lab.settings import LabSettings

SETTINGS = LabSettings.from_environ({"HOME": "/home/somebody"})
PASSWORDS = Passwords(
    admin="admin-pw", lab="lab-pw", service="service-pw", database="db-pw", rabbitmq="mq-pw", metadata="md-pw"
)
CERTIFICATE = RegistryCertificate(authority="CA\n", certificate="server certificate\n", key="private-key\n")


def rendered(settings: LabSettings = SETTINGS) -> dict[str, ConfiguredFile]:
    return {file.path: file for file in configuration.render(settings, PASSWORDS, CERTIFICATE)}


def parsed(file: ConfiguredFile) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(file.content)
    return parser


def test_no_placeholder_and_no_template_remains() -> None:
    for path, file in rendered().items():
        assert "{{" not in file.content, path
        assert "{%" not in file.content, path
        assert not path.endswith(".j2")
        assert not Path(path).name.startswith("_")


def test_every_openstack_file_parses_and_has_this_lab_s_addresses() -> None:
    settings = replace(SETTINGS, api_network=IPv4Network("10.77.0.0/24"))
    files = rendered(settings)
    for path in ("keystone/keystone.conf", "glance/glance-api.conf", "placement/placement.conf", "nova/nova.conf",
                 "neutron/neutron.conf"):  # fmt: skip
        assert parsed(files[f"etc/{path}"]).sections()
    assert parsed(files["etc/nova/nova.conf"])["DEFAULT"]["my_ip"] == "10.77.0.2"
    assert not [path for path, file in files.items() if "198.18." in file.content]


@pytest.mark.parametrize("service", ["nova/nova-api", "nova/nova-api-metadata"])
def test_a_service_patched_by_eventlet_has_one_thread_per_process(service: str) -> None:
    assert parsed(rendered()[f"etc/{service}-uwsgi.ini"])["uwsgi"]["threads"] == "1"


def test_every_uwsgi_service_announces_that_it_closes_the_connection() -> None:
    services = [file for path, file in rendered().items() if path.endswith("-uwsgi.ini")]
    assert len(services) == 4
    assert all(parsed(file)["uwsgi"]["add-header"] == "Connection: close" for file in services)


def test_lxc_and_emulation_have_their_own_settings() -> None:
    for virt_type, config_drive in (("lxc", "False"), ("qemu", "True")):
        files = rendered(replace(SETTINGS, virt_type=virt_type))
        assert parsed(files["etc/nova/nova-compute.conf"])["libvirt"]["virt_type"] == virt_type
        assert parsed(files["etc/nova/nova.conf"])["DEFAULT"]["force_config_drive"] == config_drive


def test_files_with_passwords_are_not_readable_by_others() -> None:
    secrets = [*(getattr(PASSWORDS, name) for name in Passwords.__annotations__), CERTIFICATE.key]
    for path, file in rendered().items():
        if any(secret in file.content for secret in secrets):
            assert not file.mode & stat.S_IRWXO, path


def test_the_container_s_scripts_are_executable() -> None:
    scripts = [file for path, file in rendered().items() if path.startswith("usr/local/sbin/")]
    assert scripts
    assert all(file.mode == 0o755 for file in scripts)


def test_passwords_are_generated_once_and_readable_only_by_their_owner(tmp_path: Path) -> None:
    made = Passwords.load(tmp_path)
    assert Passwords.load(tmp_path) == made
    assert len({getattr(made, name) for name in Passwords.__annotations__}) == len(Passwords.__annotations__)
    assert (tmp_path / "passwords.json").stat().st_mode & 0o777 == 0o600


def test_the_digest_changes_with_a_setting() -> None:
    files = configuration.render(SETTINGS, PASSWORDS, CERTIFICATE)
    other = configuration.render(replace(SETTINGS, virt_type="qemu"), PASSWORDS, CERTIFICATE)
    assert configuration.digest(files, "a") == configuration.digest(list(files), "a")
    assert configuration.digest(files, "a") != configuration.digest(files, "b")
    assert configuration.digest(files, "a") != configuration.digest(other, "a")


def test_an_interrupted_build_starts_again(tmp_path: Path) -> None:
    tries: list[Path] = []

    def make(target: Path, _log: Path) -> None:
        assert not list(target.iterdir())
        (target / "file").write_text("half")
        tries.append(target)
        if len(tries) == 1:
            raise KeyboardInterrupt

    def ensure() -> Path:
        return build.cached(tmp_path, "thing", make, title="thing", expected=1)

    with pytest.raises(KeyboardInterrupt):
        ensure()
    assert not (tmp_path / "thing").exists()
    assert (ensure() / "file").read_text() == "half"
    ensure()
    assert len(tries) == 2


def test_two_builds_run_side_by_side_and_the_same_one_runs_once(tmp_path: Path) -> None:
    together = Barrier(2)
    built: list[str] = []

    def ensure(name: str) -> Path:
        def make(target: Path, _log: Path) -> None:
            together.wait(10)
            built.append(target.name)

        return build.cached(tmp_path, name, make, title=name, expected=1)

    with ThreadPoolExecutor() as pool:
        assert len({*pool.map(ensure, ["a", "b", "a", "b"])}) == 2
    assert len(built) == 2


def test_the_digest_of_a_build_covers_all_its_inputs(tmp_path: Path) -> None:
    file = tmp_path / "packages"
    file.write_text("one\n")
    first = build.digest([file], extra=["mirror"])
    assert build.digest([file], extra=["mirror"]) == first
    assert build.digest([file], extra=["other mirror"]) != first
    file.chmod(0o755)
    assert build.digest([file], extra=["mirror"]) != first
