"""Takes secrets out of text, those that are known and whatever looks like one. Pure; no I/O."""

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"
# Shorter lines of a longer secret, as the last one of a PEM text, tell nothing by themselves, and stand in many a word.
SHORTEST_LINE = 8

# What a private key is in, whatever stands in front of its lines; also where one of its ends was cut off.
_KEY = r"-----(?:BEGIN|END) [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_BEGIN, _END = _KEY.replace("(?:BEGIN|END)", "BEGIN"), _KEY.replace("(?:BEGIN|END)", "END")
_PATTERNS = (
    (re.compile(rf"{_BEGIN}.*?(?:{_END}|\Z)", re.DOTALL), REDACTED),
    (re.compile(rf"(\A|-----)(?:(?!-----).)*{_END}", re.DOTALL), rf"\1{REDACTED}"),
    (re.compile(r"(auth_pass[ \t]+)[^\r\n]+"), rf"\1{REDACTED}"),
    # HAProxy's own passwords, should a hand have added some.
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
            # Quoted to the closing quote or the end of the line, else to a space or &, which separates fields of a URL.
            # In JSON that is a string of another one's, quotes have backslashes.
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
    """A function that takes these secrets out of a text, each of their lines too, and whatever looks like a secret."""
    known = {form for secret in secrets for part in _parts(secret) for form in _forms(part)}
    # The longest first, or a part would be taken out of the whole and the rest be left.
    ordered = sorted(known, key=len, reverse=True)

    def redact(text: str) -> str:
        for form in ordered:
            text = text.replace(form, REDACTED)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    return redact


def _parts(secret: str) -> Iterator[str]:
    """The whole of it, and what stands alone where it is written line by line, as a journal does."""
    whole = secret.strip()
    if whole:
        yield whole
    lines = [line.strip() for line in whole.splitlines()]
    if len(lines) > 1:
        # The line around a PEM text is in every other one too.
        yield from (line for line in lines if len(line) >= SHORTEST_LINE and not line.startswith("-----"))


def _forms(secret: str) -> Iterator[str]:
    """As it stands, and as JSON, Go's JSON, XML, URLs and Base64 have it."""
    escaped = json.dumps(secret)[1:-1]
    yield from (secret, json.dumps(secret, ensure_ascii=False)[1:-1], escaped)
    yield escaped.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
    yield from (html.escape(secret), quote(secret, safe=""), quote_plus(secret))
    yield base64.b64encode(secret.encode()).decode()
