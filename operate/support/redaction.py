"""Removes secrets from what a bundle contains: those that are known, and whatever looks like one. Pure; no I/O.

A list of shapes is never complete. So the bundle leaves out what it does not need (`on_host.py`, `bundle.py`), and
here more is removed than has to be: the rest of a line, after any name that may be a secret's.
"""

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"
SHORTEST = 6
"""The shortest secret that is removed by its value. A shorter one occurs in other words, whose gaps would reveal it."""
# A shorter line of a longer secret, such as the last line of a PEM text, reveals nothing and occurs in ordinary words.
SHORTEST_LINE = 8

# A private key, whatever precedes each of its lines; also if its beginning or end was cut off.
_KEY = r"-----(?:BEGIN|END) [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_BEGIN, _END = _KEY.replace("(?:BEGIN|END)", "BEGIN"), _KEY.replace("(?:BEGIN|END)", "END")
# Public keys, host keys and key pairs are no secrets, and operators need them.
_NAME = r"(?:pass|pwd|secret|token|auth|cred|key(?<!publickey)(?<!hostkey)(?!_?pair))[\w.-]{0,40}"
# Where a word begins, also after a line break that is escaped, as in the one-line messages of Kubernetes.
_START = r"(?:\b|(?<=\\[nrt]))"


def _random_passwords(match: re.Match[str]) -> str:
    return match[1] + re.sub(r"(?m)(^|\s)([a-z_][\w.-]*:)\S+(?=[ \t\r]*$)", rf"\1\2{REDACTED}", match[2])


# By hint: a lower-case text without it has no match, and most texts have none.
_PATTERNS: tuple[tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (hint, re.compile(pattern), replace)
    for hint, pattern, replace in (
        ("private key", rf"(?s){_BEGIN}.*?(?:{_END}|\Z)", REDACTED),
        ("private key", rf"(?s)(\A|-----)(?:(?!-----).)*{_END}", rf"\1{REDACTED}"),
        # In Base64, as in a Kubernetes secret: any PEM text but certificates and public keys.
        ("ls0tls1crudjti", r"LS0tLS1CRUdJTi(?!BDRVJU|BQVUJM)[\w+/=-]+", REDACTED),
        # cloud-init prints them to the console, other programs' lines in between. By default they have 20 characters.
        ("'random' passwords", r"(following 'random' passwords[^\n]*\n)((?:[^\n]*\n?){40})", _random_passwords),
        (":", r"(?m)((?:^|[ \t])[a-z_][a-z0-9_-]{0,31}:)[A-Za-z0-9]{20}(?=[ \t\r]*$)", rf"\1{REDACTED}"),
        # keepalived's password; and what an administrator may have added to haproxy.cfg.
        (
            "",
            r"(?i)((?:auth_pass|stats[ \t]+auth|insecure-password|"
            rf"(?:-header|hdr|setenv)[ \t]+\S{{0,40}}?{_NAME})[ \t]+)"
            r"(?!\[redacted\])[^\r\n]+",
            rf"\1{REDACTED}",
        ),
        # user:password@ of a URL, to the last @ of its first part; or a token in place of both.
        ("@", r"(\w://)[^\s/@]*:[^\s/]*@", rf"\1{REDACTED}@"),
        ("@", r"(https?://)[^\s/@:]{16,}@", rf"\1{REDACTED}@"),
        ("authorization", r"(?i)(authorization)\b(?! \[redacted\])[^\r\n]+", rf"\1 {REDACTED}"),
        ("", rf"(?i){_START}((?:basic|bearer)(?:[ \t]|\\ )+)[\w.~+/=-]{{4,}}", rf"\1{REDACTED}"),
        # A password's hash, as crypt(3) writes it; a JSON web token; a bootstrap token of kubeadm; a token of Keystone.
        ("$", r"\$(?:1|2[abxy]?|5|6|7|y|gy|apr1|argon2\w*)\$[\w./$=,+-]{8,}", REDACTED),
        ("eyj", rf"{_START}eyJ[\w-]{{8,}}\.[\w-]{{8,}}\.[\w-]*", REDACTED),
        (".", rf"{_START}[a-z0-9]{{6}}\.[a-z0-9]{{16}}\b", REDACTED),
        ("gaaaa", rf"{_START}gAAAA[\w-]{{20,}}={{0,2}}", REDACTED),
        # An option's value, on a command line or in a list of arguments, such as kubeadm's --certificate-key.
        ("--", rf"(?i)((?<!-)--[\w-]{{0,40}}?{_NAME}[\"',\\ \t]+)(?!-|\[redacted\])[^\s\"',\\]+", rf"\1{REDACTED}"),
        # The broad rule: all that follows the name on its line, or on the next. Not after a source file's name, with
        # which each message of Kubernetes begins (authentication.go:75).
        (
            "",
            rf"(?i)({_NAME}(?<!\.go)(?:\\*[\"'])?\s{{0,40}}[=:]\s{{0,40}}+)(?!\[redacted\])[^\r\n]+",
            rf"\1{REDACTED}",
        ),
    )
)
_NAMED = re.compile(rf"(?i){_NAME}")


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that removes secrets from a text, and each of their lines, and whatever looks like a secret."""
    known = {form for secret in secrets for part in _parts(secret) for form in _forms(part)}
    # The longest first, or only a part of a longer secret would be removed.
    ordered = sorted(known, key=len, reverse=True)

    def redact(text: str) -> str:
        for form in ordered:
            text = text.replace(form, REDACTED)
        lower = text.lower()
        for hint, pattern, replace in _PATTERNS:
            if hint in lower:
                text = pattern.sub(replace, text)
        return text

    return redact


def redact_json(text: str, redact: Callable[[str], str]) -> str:
    """JSON without secrets in its texts, and without the values of names that may be a secret's. Stays JSON."""

    def clean(value: Any, name: str) -> Any:
        match value:
            case dict():
                return {redact(key): clean(it, key) for key, it in cast("dict[str, Any]", value).items()}
            case list():
                return [clean(it, name) for it in cast("list[Any]", value)]
            case None | bool():
                return value
            case _ if _NAMED.search(name):
                return REDACTED
            case _:
                redacted = redact(str(value))
                return value if redacted == str(value) else redacted

    return json.dumps(clean(json.loads(text), ""), indent=2, ensure_ascii=False)


def _parts(secret: str) -> Iterator[str]:
    """The whole secret, and its lines, because a journal has one entry per line."""
    whole = secret.strip()
    if len(whole) >= SHORTEST:
        yield whole
    lines = [line.strip() for line in whole.splitlines()]
    if len(lines) > 1:
        # The first and last line of a PEM text are no secret.
        yield from (line for line in lines if len(line) >= SHORTEST_LINE and not line.startswith("-----"))


def _forms(secret: str) -> Iterator[str]:
    """As it is, and as JSON, Go's JSON, XML, URLs and Base64 encode it."""
    escaped = json.dumps(secret)[1:-1]
    yield from (secret, json.dumps(secret, ensure_ascii=False)[1:-1], escaped)
    yield escaped.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
    yield from (html.escape(secret), quote(secret, safe=""), quote_plus(secret))
    yield base64.b64encode(secret.encode()).decode()
