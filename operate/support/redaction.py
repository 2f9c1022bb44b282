"""Removes secrets from text: those that are known, and whatever looks like one. Pure; no I/O."""

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"
# A shorter line of a longer secret, such as the last line of a PEM text, reveals nothing and occurs in ordinary words.
SHORTEST_LINE = 8

# A private key, whatever precedes each of its lines; also if its beginning or end was cut off.
_KEY = r"-----(?:BEGIN|END) [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_BEGIN, _END = _KEY.replace("(?:BEGIN|END)", "BEGIN"), _KEY.replace("(?:BEGIN|END)", "END")
_PATTERNS = (
    (re.compile(rf"{_BEGIN}.*?(?:{_END}|\Z)", re.DOTALL), REDACTED),
    (re.compile(rf"(\A|-----)(?:(?!-----).)*{_END}", re.DOTALL), rf"\1{REDACTED}"),
    (re.compile(r"(auth_pass[ \t]+)[^\r\n]+"), rf"\1{REDACTED}"),
    # HAProxy's own passwords, if an administrator added some.
    (re.compile(r"((?:user[ \t]+\S+[ \t]+(?:insecure-)?password|stats[ \t]+auth)[ \t]+)\S+"), rf"\1{REDACTED}"),
    (
        re.compile(r"((?:authorization|x-auth-token|x-subject-token)[\"']?[ \t]*[:=][ \t]*)[^\r\n]+", re.I),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"\b(bearer[ \t]+)[\w.~+/=-]{8,}", re.I), rf"\1{REDACTED}"),
    # user:password@ of a URL, to the last @ of its first part.
    (re.compile(r"(\w://)[^\s/@]*:[^\s/]*@"), rf"\1{REDACTED}@"),
    (
        re.compile(
            r"((?:password|passwd|passphrase|admin_?pass|secret|token|api[_-]?key)(?:\\*[\"'])?[ \t]*[=:][ \t]*)"
            # A quoted value ends at its closing quote or the end of the line; others at a space or &, which separates
            # fields in a URL. In JSON inside a JSON string, quotes have backslashes.
            r"(?:\\+\"[^\"\r\n]*\"?|\"(?:[^\"\\\r\n]|\\.)*\"?|'[^'\r\n]*'?|(?![{\[]|(?:true|false|null)\b)[^\s\"'&]+)",
            re.IGNORECASE,
        ),
        rf"\1{REDACTED}",
    ),
    # A JSON web token (a service account's), and kubeadm's bootstrap tokens.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), REDACTED),
    (re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"), REDACTED),
)


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that removes these secrets from a text, and each of their lines, and whatever looks like a secret."""
    known = {form for secret in secrets for part in _parts(secret) for form in _forms(part)}
    # The longest first, or only a part of a longer secret would be removed.
    ordered = sorted(known, key=len, reverse=True)

    def redact(text: str) -> str:
        for form in ordered:
            text = text.replace(form, REDACTED)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    return redact


def _parts(secret: str) -> Iterator[str]:
    """The whole secret, and its lines, because a journal has one entry per line."""
    whole = secret.strip()
    if whole:
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
