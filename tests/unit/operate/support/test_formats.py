"""What is removed from each format that a bundle contains, and what has to stay readable."""

import base64
import configparser
import io
import json
import shlex
from urllib.parse import urlencode
from xml.sax.saxutils import escape, quoteattr

import pytest
import yaml

from operate.support.names import carries_secret
from operate.support.redaction import REDACTED, redactor

redact = redactor([])
BASIC = base64.b64encode(b"admin:hunter2").decode()
# Every word of a secret in the samples below begins so. Also in Base64 at each of its three positions.
MARKS = ("hunter", "aHVudG", "h1bnRlc", "odW50ZX")
JOURNAL = "2026-11-25T04:53:30.123456+00:00 dev-lb-0 app[1627]: "
CONSOLE = "[   15.123456] cloud-init[612]: "

# By format: a text, and a part of it that must still be there.
REMOVED: dict[str, list[tuple[str, str]]] = {
    "environment": [
        ("SMTP_PASS=hunter2", "SMTP_PASS="),
        ("SMTP_PASS=hunter2 hunter3", "SMTP_PASS="),
        ('DB_PASSWORD="hunter2 hunter3"\nUSER=ada', "\nUSER=ada"),
        ("export API_KEY='hunter2'\nUSER=ada", "\nUSER=ada"),
        ('PASSWORD="hunter2\nhunter3\nhunter4"\nUSER=ada', "\nUSER=ada"),
        ("PASSWORD=hunter2\\\n  hunter3\nUSER=ada", "\nUSER=ada"),
        ("PASSWORD=\"hunter2\"'hunter3'hunter4\nUSER=ada", "\nUSER=ada"),
        ("TOKEN=$'hunter2\\'hunter3'\nUSER=ada", "\nUSER=ada"),
        ("# OLD_PASSWORD=hunter2", "OLD_PASSWORD"),
        ("AWS_ACCESS_KEY_ID=hunter2", "AWS_ACCESS_KEY_ID="),
        ("MYSQL_PWD=hunter2", "MYSQL_PWD="),
        ("PASSWORD1=hunter2", "PASSWORD1="),
        ("GITHUB_AUTH=hunter2", "GITHUB_AUTH="),
        ("PASSWORD=/hunter2/hunter3", "PASSWORD="),
        ("'PASSWORD=hunter2", "PASSWORD="),
    ],
    "systemd": [
        ("Environment=AWS_SECRET_ACCESS_KEY=hunter2/abc", "Environment=AWS_SECRET_ACCESS_KEY="),
        ("Environment=HOME=/root SMTP_PASS=hunter2&hunter3 LANG=C", " LANG=C"),
        ('Environment="SMTP_PASS=hunter2 hunter3" LANG=C', '" LANG=C'),
        ("Environment='SMTP_PASS=hunter2 \"hunter3\"' LANG=C", "' LANG=C"),
        ("SetCredential=smtp:hunter2", "SetCredential="),
        ("ExecStart=/usr/bin/app --password hunter2 --port 25", "--port 25"),
        ("ExecStart={ path=/a ; argv[]=/a --token=hunter2 --port 25 ; status=0/0 }", "--port 25 ; status=0/0 }"),
    ],
    "INI": [
        ("[smtp]\npassword = correct hunter2\nport = 25", "\nport = 25"),
        ("[smtp]\npassword =\n    hunter2\n    hunter3\nport = 25", "\nport = 25"),
        ("; secret: hunter2", "; secret: "),
        ("private_key = hunter2", "private_key = "),
        ("PresharedKey = hunter2=\nEndpoint = 198.51.100.1:51820", "Endpoint = 198.51.100.1:51820"),
    ],
    "YAML": [
        ("password: hunter2 hunter3\nuser: ada", "\nuser: ada"),
        ('password: "hunter2\\" hunter3"\nuser: ada', "\nuser: ada"),
        ("password: 'hunter2'\nuser: ada", "\nuser: ada"),
        ("smtp:\n  password: |\n    hunter2\n    hunter3\n  user: ada", "\n  user: ada"),
        ("smtp:\n  password: >-  # a comment\n\n    hunter2\n\n    hunter3\n  user: ada", "\n  user: ada"),
        ("password: !!str |\n  hunter2\nuser: ada", "\nuser: ada"),
        ("passwords:\n- hunter2\n- hunter3\nuser: ada", "\nuser: ada"),
        ("tokens:\n  first: hunter2\n  second: hunter3\nuser: ada", "\nuser: ada"),
        ("- {name: ada, password: hunter2 hunter3}\n- {name: bob}", "\n- {name: bob}"),
        ("- name: SMTP_PASS\n  value: hunter2\n- name: LANG\n  value: C", "\n- name: LANG\n  value: C"),
        ("users:\n- name: ada\n  hashed_passwd: hunter2\n  lock_passwd: false", "lock_passwd: false"),
        ("chpasswd:\n  list: |\n    root:hunter2\n    ada:hunter3\nssh_pwauth: true", "\nssh_pwauth: true"),
        ("chpasswd: {expire: false, list: [root:hunter2]}\nssh_pwauth: true", "\nssh_pwauth: true"),
        ("auth:\n  auth_url: https://cloud\n  password: hunter2\n  username: ada", "auth_url: https://cloud"),
        ("client-key-data: hunter2", "client-key-data: "),
        ("password: 'it''s hunter2'\nuser: ada", "\nuser: ada"),
        ('"password": a, hunter2 hunter3\nuser: ada', "\nuser: ada"),
    ],
    "JSON": [
        ('{"vrrpPassword": "hunter2", "user": "ada"}', '"user": "ada"}'),
        ('{"password":"hunter2\\"hunter3","user":"ada"}', '"user":"ada"}'),
        ('{\n  "password":\n    "hunter2",\n  "user": "ada"\n}', '"user": "ada"'),
        ('{"passwords": ["hunter2", "hunter]3"], "user": "ada"}', '"user": "ada"}'),
        ('{"openstack:password": {"value": "hunter2", "secret": false}, "user": "ada"}', '"user": "ada"}'),
        ('{"credentials": {"a": {"b": "hunter2}"}}, "user": "ada"}', '"user": "ada"}'),
        ('[{"name": "SMTP_PASS", "value": "hunter2"}, {"name": "LANG", "value": "C"}]', '"value": "C"}]'),
        ('{"auths": {"registry": {"auth": "hunter2"}}, "user": "ada"}', '"user": "ada"}'),
        (json.dumps({"m": json.dumps({"adminPass": "my hunter2", "name": "k8s"})}), 'name\\": \\"k8s'),
        (json.dumps({"m": json.dumps({"a": json.dumps({"token": "my hunter2", "b": 1})})}), "b"),
        (json.dumps({"user_data": "password: hunter2\nname: k8s\n", "b": "kept"}), '"kept"'),
        (json.dumps({"env": "A=b\nSMTP_PASS=hunter2 hunter3\n", "b": "kept"}), '"kept"'),
        (json.dumps({"user_data": "name: k8s\npassword: |\n  hunter2\n  hunter3\n", "b": "kept"}), "name: k8s"),
        (json.dumps({"argv": ["app", "--password", "hunter2", "--port", "25"]}), '"25"'),
        ("{'password': 'hunter2', 'user': 'ada'}", "'user': 'ada'"),
    ],
    "XML": [
        ("<smtp><password>hunter2</password><user>ada</user></smtp>", "<user>ada</user>"),
        ('<smtp password="hunter2" user="ada"/>', 'user="ada"'),
        ("<api-key type='a'>\n hunter2\n</api-key>", "</api-key>"),
    ],
    "HTTP": [
        (f"Authorization: Basic {BASIC}", "Authorization: "),
        ("authorization: hunter2 hunter3", "authorization: "),
        ("Proxy-Authorization: Digest username=ada, response=hunter2", "Proxy-Authorization: "),
        ('"Authorization": "Bearer hunter2hunter2", "Host": "a"', '"Host": "a"'),
        ("X-Auth-Token:hunter2", "X-Auth-Token:"),
        ("X-Api-Key: hunter2", "X-Api-Key: "),
        ("Set-Cookie: session=hunter2; Path=/", "Set-Cookie: "),
        ("GET /a?token=hunter2&page=3 HTTP/1.1", "&page=3 HTTP/1.1"),
        ('"GET /a?page=3&api_key=hunter2" 200', '" 200'),
        (f"the proxy refuses Basic {BASIC} of the client", "of the client"),
        ("http://ada:hunter2@proxy:3128/", "@proxy:3128/"),
        ("postgres://ada:hunter2@hunter3@db/x", "postgres://"),
        ("https://hunter2hunter2hunter2@git.example.com/a.git", "@git.example.com/a.git"),
    ],
    "commands": [
        ("curl -sS -u admin:hunter2 https://cloud/", "https://cloud/"),
        ("curl --user 'admin:hunter2 hunter3' https://cloud/", "https://cloud/"),
        ("curl --proxy-user=admin:hunter2 https://cloud/", "https://cloud/"),
        ("curl -H 'Authorization: Bearer hunter2' https://cloud/", "https://cloud/"),
        ('curl -H "X-Auth-Token: hunter2" https://cloud/', "https://cloud/"),
        ("['curl', '-u', 'admin:hunter2', 'https://cloud/']", "'https://cloud/'"),
        ("['app', '--api-key', 'hunter2', '-v']", "'-v']"),
        ("app --password 'hunter2 hunter3' --port 25", "--port 25"),
        ("app -password hunter2 -port 25", "-port 25"),
        ("sshpass -p hunter2 ssh ada@host", "ssh ada@host"),
        ("mysql -uada -phunter2 db", " db"),
        ("openssl rsa -passin pass:hunter2 -in a.pem", "-in a.pem"),
        ("kubeadm join 198.51.100.10:6443 --token hunter.2 --v=5", "--v=5"),
        ("SMTP_PASS=hunter2 ./run", "SMTP_PASS="),
        ("sudo: ada : PWD=/home/ada ; COMMAND=/bin/app --secret hunter2", "PWD=/home/ada ; COMMAND=/bin/app"),
    ],
    "HAProxy": [
        (f'    http-request set-header Authorization "Basic {BASIC}"', "http-request set-header Authorization "),
        (f"    http-check send uri /readyz hdr Authorization 'Basic {BASIC}'", "uri /readyz hdr Authorization "),
        (f"    option httpchk GET /readyz HTTP/1.1\\r\\nAuthorization:\\ Basic\\ {BASIC}", "GET /readyz"),
        ("    http-request add-header X-Api-Key hunter2", "add-header X-Api-Key "),
        ("    acl known req.hdr(x-api-key) -m str hunter2", "acl known req.hdr(x-api-key)"),
        ("    http-request deny unless { hdr(Authorization) hunter2 }", "deny unless"),
        ("    stats auth admin:hunter2", "stats auth "),
        ("    user ada insecure-password hunter2", "user ada insecure-password "),
        ("    user ada password $6$abc$hunter2hunter2", "user ada password "),
        ("    setenv SMTP_PASS hunter2", "setenv SMTP_PASS "),
    ],
    "keepalived": [
        ("        auth_type PASS\n        auth_pass hunter2\n", "auth_type PASS"),
        ("        auth_pass\t\"hunter2 hunter3\"\n    }", "\n    }"),
        ("        auth_pass hunter2 # since May\n    }", "\n    }"),
    ],
    "other files": [
        ("requirepass hunter2\nport 6379", "\nport 6379"),
        ("machine cloud login ada password hunter2", "machine cloud login ada password "),
        ("root:$6$salt$hunter2hunter2:19000:0:99999:7:::", "root:"),
        ("ada:$apr1$salt$hunter2hunter2", "ada:"),
        ("ada:$y$j9T$salt$hunter2hunter2", "ada:"),
    ],
    "journal": [
        (f"{JOURNAL}login with password: correct hunter2", "login with password: "),
        (f"{JOURNAL}password: correct hunter2\n{JOURNAL}next", f"{JOURNAL}next"),
        (f"{JOURNAL}started, token=hunter2 port=25", " port=25"),
        (f"{JOURNAL}API key: hunter2", "API key: "),
        (f"{JOURNAL}password: |\n{JOURNAL}  hunter2\n{JOURNAL}  hunter3\n{JOURNAL}user: ada", f"\n{JOURNAL}user: ada"),
        (f"{JOURNAL}PrivateKey := hunter2", "PrivateKey := "),
        (f"{JOURNAL}Secret Access Key = hunter2", "Secret Access Key = "),
        (f'{JOURNAL}token="hunter2\n{JOURNAL}password="hunter3"\n{JOURNAL}next', f"{JOURNAL}next"),
    ],
    "console": [
        (
            f"{CONSOLE}Set the following 'random' passwords\r\n{CONSOLE}root:hunter2\r\n"
            f"[   15.2] eth0: link up\r\n{CONSOLE}debian:hunter3\r\n[   16.0] login: ready\r\n",
            "eth0: link up",
        ),
        (f"{CONSOLE}debian:hunter2abcdefghijklm\r\nDebian GNU/Linux 12", "Debian GNU/Linux 12"),
        ("login as 'cirros' user. default password: 'hunter2'. use 'sudo' for root.", "use 'sudo' for root."),
    ],
    "tokens": [
        ("eyJhbGciOiJSUzI1NiJ9.eyJhunter2hunter2.c2lnbmF0dXJl", REDACTED),
        ("found gAAAAABhunter2hunter2hunter2==", "found "),
        ("ghp_hunter2hunter2hunter2hunter2", REDACTED),
        ("LS0tLS1CRUdJTiBQUklWQVRFhunter2==", REDACTED),
        ("PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\nhunter2\nPrivate-MAC: hunter3\n", "Private-Lines: 1"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kept"),
    [pytest.param(*it, id=f"{name}-{i}") for name, them in REMOVED.items() for i, it in enumerate(them)],
)
def test_a_secret_is_removed_from_every_format(text: str, kept: str):
    clean = redact(text)
    assert not any(mark in clean for mark in MARKS), clean
    assert REDACTED in clean
    assert kept in clean, clean
    assert redact(clean) == clean, "twice is the same"


def written(name: str, value: str) -> dict[str, str]:
    """A value under a name, by format, as the format's own writer quotes and escapes it."""
    fields = {"user": "ada", name: value, "port": "25"}
    header, word = f"{name}: {value}".replace("\n", ""), shlex.quote(value)
    ini = configparser.RawConfigParser()
    ini.read_dict({"smtp": {**fields, name: value.replace("\n", "\n  ")}})
    ini.write(file := io.StringIO())
    return {
        "JSON": json.dumps(fields),
        "JSON, lines": json.dumps(fields, indent=2),
        "JSON in JSON": json.dumps({"message": json.dumps(fields)}),
        "JSON in JSON in JSON": json.dumps({"message": json.dumps({"message": json.dumps(fields)})}),
        "JSON, pairs": json.dumps([{"name": name, "value": value}, {"name": "LANG", "value": "C"}]),
        "Python": repr(fields),
        "YAML": yaml.safe_dump([fields]),
        "YAML, flow": yaml.safe_dump(fields, default_flow_style=True),
        "YAML, block": yaml.safe_dump(fields, default_style="|"),
        "YAML, quotes": yaml.safe_dump(fields, default_style="'"),
        "YAML, pairs": yaml.safe_dump([{"name": name, "value": value}]),
        "YAML in JSON": json.dumps({"user_data": yaml.safe_dump(fields)}),
        "YAML block in JSON": json.dumps({"user_data": yaml.safe_dump(fields, default_style="|")}),
        "INI": file.getvalue(),
        "XML": f"<smtp><{name}>{escape(value)}</{name}></smtp>",
        "XML, attribute": f"<smtp {name}={quoteattr(value)} port='25'/>",
        "URL": f"GET /?user=ada&{urlencode({name: value})}&port=25 HTTP/1.1",
        "shell": f"export LANG=C {name}={word} PORT=25",
        "option": f"app --{name} {word} --port 25",
        "option=": f"app --{name}={word} --port 25",
        "arguments": repr(["app", f"--{name}", value, "--port", "25"]),
        "curl": f"curl -u {shlex.quote(f'ada:{value}')} https://cloud/",
        "header": f"{header}\nHost: a\n",
        "curl, header": f"curl -H {shlex.quote(header)} https://cloud/",
    }


VALUES = [
    "hunter2",
    "hunter2 hunter3",
    'hunter2"hunter3',
    "hunter2'hunter3",
    "'hunter2'hunter3",
    '"hunter2"(hunter3',
    "hunter2\\",
    "hunter2\\'hunter3\"hunter4",
    "/hunter2/hunter3+hunter4==",
    "$hunter2&hunter3;hunter4#hunter5",
    "hunter2,hunter3}hunter4]hunter5",
    "[hunter2]=hunter3",
    "{hunter2} hunter3",
    "hunter2: hunter3 = hunter4",
    "<hunter2>hunter3</hunter4>",
    "hunter2\nhunter3\nhunter4",
    "|hunter2|>hunter3",
    "`hunter2` $(hunter3) ${hunter4}",
    "hunter2%hunter3 hünter hunter4?hunter5@hunter6",
]


@pytest.mark.parametrize("name", ["password", "SMTP_PASS", "apiKey"])
@pytest.mark.parametrize("value", VALUES)
def test_a_secret_of_any_characters_is_removed_from_every_format(name: str, value: str):
    left = {form: text for form, text in written(name, value).items() if "hunter" in redact(text)}
    assert left == {}


@pytest.mark.parametrize("text", [it for it, _ in REMOVED["JSON"] if it[0] in "{[" and "'" not in it])
def test_json_stays_json(text: str):
    json.loads(redact(text))


@pytest.mark.parametrize("text", [it for it, _ in REMOVED["YAML"] if not it.startswith("- {")])
def test_a_secret_in_yaml_leaves_the_other_keys(text: str):
    def keys(value: object) -> set[object]:
        match value:
            case dict():
                return {*value} | {key for it in value.values() for key in keys(it)}  # pyright: ignore
            case list():
                return {key for it in value for key in keys(it)}  # pyright: ignore
            case _:
                return set()

    before, after = keys(yaml.safe_load(text)), keys(yaml.safe_load(redact(text)))
    assert after <= before
    assert {"user", "username", "name", "auth_url", "ssh_pwauth"} & before <= after


@pytest.mark.parametrize(
    "text",
    [
        "publicKey: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGw4 ada@example.com",
        '"keyPair": "dev-key", "key_name": "dev-key"',
        "ssh_authorized_keys:\n- ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGw4 ada",
        "AuthorizedKeysFile=/home/debian/.ssh/authorized_keys",
        f"{CONSOLE}ci-info: | ssh-ed25519 | 5a:d5:ee:f1:2c:68:bd:11 | - | ada@example.com |",
        f"{CONSOLE}256 SHA256:Hq6zS2tX+YF5c1GmGz6cO3d0VJYB4pG3o7e1yZ5fJ2k root@dev-lb-0 (ED25519)",
        "-----BEGIN SSH HOST KEY KEYS-----\nssh-ed25519 AAAAC3NzaC1lZDI1 root@lb\n-----END SSH HOST KEY KEYS-----",
        "198.51.100.11 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGw4",
        '{"openstack-ha-api:sshPrivateKey": {"secret": true}, "openstack-ha-api:vip": {"value": "198.51.100.10"}}',
        '{"kubeadmConfig": "[secret]", "vrrpPassword": "[secret]"}',
        f"{JOURNAL}Accepted publickey for debian from 198.51.100.1 port 40712 ssh2: ED25519 SHA256:Hq6zS2tX",
        f"{JOURNAL}Failed password for invalid user admin from 198.51.100.66 port 40712 ssh2",
        f"{JOURNAL}pam_unix(sshd:auth): authentication failure; logname= uid=0 tty=ssh ruser= rhost=198.51.100.66",
        f"{JOURNAL}debian : PWD=/home/debian ; USER=root ; COMMAND=/usr/bin/python3 -",
        f"{JOURNAL}Started systemd-ask-password-wall.path - Forward Password Requests to Wall Directory Watch.",
        f"{JOURNAL}systemd-ask-password-wall.path: Deactivated successfully.",
        f"{JOURNAL}Set the basic configuration: basic authentication is off",
        "finish: modules-config/config-set-passwords: SUCCESS: config-set-passwords ran successfully",
        "Upgrade: passwd:amd64 (1:4.13+dfsg1-1, 1:4.13+dfsg1-2), libsecret-1-0:amd64 (0.20.5-3)",
        "LoadCredential=smtp:/etc/app/smtp\nImportCredential=app.*",
        "passwd\t1:4.13+dfsg1-1+deb12u1\nlibsecret-1-0\t0.20.5-3\npass\t1.7.4-6",
        "PassEnvironment=\nKeyringMode=private\nSetLoginEnvironment=no\nPasswordAuthentication no",
        "SslFrontendKeyRate: 0\nSslBackendMaxKeyRate: 0",
        "haproxy_process_frontend_ssl_key_rate 0",
        "ssh_pwauth: true\nlock_passwd: true\nchpasswd: {expire: false}",
        "        auth_type PASS",
        "debian ALL=(ALL) NOPASSWD:ALL",
        "token_type: bearer\npassword_file: /etc/x\nsecret_ref: a\ntokenExpires=3600",
        "stick-table type ip size 1m expire 10s store http_req_rate(10s)",
        "docker run --user 1000:1000 -u 0:0 image",
        "journalctl --unit=haproxy --since=-24h -u keepalived",
        "    server k8s-cp-0 198.51.100.21:6443 check fall 2 verify required ca-file /etc/haproxy/ha-api/ca.pem",
        "tcp LISTEN 0 4096 0.0.0.0:6443 0.0.0.0:* users:((\"haproxy\",pid=812,fd=7))",
        "10: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 link/ether fa:16:3e:00:00:31 brd ff:ff:ff:ff:ff:ff",
    ],
)  # fmt: skip
def test_what_is_no_secret_is_kept(text: str):
    assert redact(text) == text


CARRYING = """
password PASSWORD adminPass SMTP_PASS auth_pass vrrpPassword db-passwd passphrase apiKey API_KEY APIKey apikey
access_key AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID sshPrivateKey private-key PresharedKey client_secret secretKey
X-Auth-Token authtoken refreshToken credential credentials Authorization proxy-authorization Cookie GITHUB_AUTH
requirepass MYSQL_PWD applicationCredentialSecret tls.client.key PASSWORD_2 SetCredential
"""
OTHERS = """
user publicKey public_key hostKey keyPair key_name authorized_keys knownHosts auth_type authUrl author password_file
tokenType secret_name bypass passive passed monkey keyboard PWD OLDPWD token_ttl tls.crt applicationCredentialId
PassEnvironment set_passwords LoadCredential
"""


@pytest.mark.parametrize("name", CARRYING.split())
def test_names_that_carry_secrets(name: str):
    assert carries_secret(name)


@pytest.mark.parametrize("name", OTHERS.split())
def test_names_that_do_not(name: str):
    assert not carries_secret(name)
