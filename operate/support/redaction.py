"""Removes secrets from text: those that are known, and whatever looks like one. Pure; no I/O.

Three rules, from the surest to the broadest: the values of secrets that are known; what has a secret's shape (private
keys, tokens, password hashes); what follows a name that carries a secret, in any format that a bundle contains.

No library does the last: detect-secrets 1.5 points a person to lines of source code. With its rules for words and
shapes it recognizes 8 of the 124 samples in this package's test; with those for entropy it reports digests, ids and
public keys, too.
"""

import base64
import binascii
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, quote_plus

from operate.support.names import carries_secret

REDACTED = "[redacted]"
SHORTEST = 6
"""The shortest secret that is removed by its value. A shorter one occurs in other words, whose gaps would reveal it."""
# A shorter line of a longer secret, such as the last line of a PEM text, reveals nothing and occurs in ordinary words.
SHORTEST_LINE = 8
MOST_QUOTED = 10_000
"""A quoted value that has more characters than this has lost its closing quote."""
MOST_BRACKETED = 4000
_LOOK_BACK = 2000

Replace = str | Callable[[re.Match[str]], str]

# A private key, whatever precedes each of its lines; also if its beginning or end was cut off.
_KEY = r"-----(?:BEGIN|END) [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_BEGIN, _END = _KEY.replace("(?:BEGIN|END)", "BEGIN"), _KEY.replace("(?:BEGIN|END)", "END")
_WORD = r"(?!\[redacted\])(?:(?P<mark>[\"'])(?:(?!(?P=mark))[^\r\n])*(?P=mark)|[^\s\"',\]]+)"


def _without_rest(match: re.Match[str]) -> str:
    """The group `keep`, and what was removed in its quotes, the group `mark`."""
    mark = match["mark"] or ""
    return match["keep"] + mark + REDACTED + mark


def _if_named(match: re.Match[str]) -> str:
    """The same, if the group `name` carries a secret."""
    return _without_rest(match) if carries_secret(match["name"]) else match[0]


def _if_basic(match: re.Match[str]) -> str:
    """`Basic` is followed by a user and a password in Base64, or is a word of a sentence."""
    padded = match[2] + "=" * (-len(match[2]) % 4)
    try:
        return match[1] + REDACTED if b":" in base64.b64decode(padded, altchars=b"-_") else match[0]
    except binascii.Error:
        return match[0]


def _random_passwords(match: re.Match[str]) -> str:
    return match[1] + re.sub(r"(?m)(^|\s)([a-z_][\w.-]*:)\S+(?=[ \t\r]*$)", rf"\1\2{REDACTED}", match[2])


# By hint: a lower-case text without it has no match, and most texts have none.
_PATTERNS: tuple[tuple[str, re.Pattern[str], Replace], ...] = tuple(
    (hint, re.compile(pattern), replace)
    for hint, pattern, replace in (
        ("private key", rf"(?s){_BEGIN}.*?(?:{_END}|\Z)", REDACTED),
        ("private key", rf"(?s)(\A|-----)(?:(?!-----).)*{_END}", rf"\1{REDACTED}"),
        # In Base64, as in a Kubernetes secret: any PEM text but certificates and public keys.
        ("ls0tls1crudjti", r"LS0tLS1CRUdJTi(?!BDRVJU|BQVUJM)[\w+/=-]+", REDACTED),
        (
            "private-lines",
            r"(?s)(Private-Lines: \d+)(?! \[redacted\]).*?(?:Private-MAC:[^\r\n]*|\Z)",
            rf"\1 {REDACTED}",
        ),
        # cloud-init prints them to the console, other programs' lines in between. By default they have 20 characters.
        ("'random' passwords", r"(following 'random' passwords[^\n]*\n)((?:[^\n]*\n?){40})", _random_passwords),
        (":", r"(?m)((?:^|[ \t])[a-z_][a-z0-9_-]{0,31}:)[A-Za-z0-9]{20}(?=[ \t\r]*$)", rf"\1{REDACTED}"),
        # keepalived, HAProxy, netrc, sshpass.
        ("auth_pass", r"(auth_pass[ \t]+)[^\r\n]+", rf"\1{REDACTED}"),
        ("password", r"((?:user|login)[ \t]+\S+[ \t]+(?:insecure-)?password[ \t]+)\S+", rf"\1{REDACTED}"),
        ("stats", r"(stats[ \t]+auth[ \t]+)\S+", rf"\1{REDACTED}"),
        ("-p", r"(\b(?:sshpass|mysql\w*|mariadb[\w-]*)\b[^\r\n]{0,300}?[ \t]-p[ \t]?)[^\s-]\S*", rf"\1{REDACTED}"),
        # An HTTP header as HAProxy's directives and samples name it, and environment variables set there.
        (
            "",
            r"(?i)(?P<keep>\b(?:(?:set|add|replace)-header|replace-value|hdr|header|(?:pre)?setenv)[ \t]+"
            r"(?P<name>[\w.-]+)[ \t]+)(?!\[redacted\])(?P<mark>)[^\r\n]+",
            _if_named,
        ),
        (
            "hdr",
            r"(?i)(?P<keep>hdr\w*\((?P<name>[\w.-]+)[^)\r\n]{0,200}\)[ \t]*+)(?!\[redacted\])(?P<mark>)[^\r\n]+",
            _if_named,
        ),
        (
            "authorization",
            r"(?i)(authorization(?:\\*[\"'])?[ \t,]+(?:\\*[\"'])?)(?:basic|bearer|digest|negotiate|token|apikey)\b"
            r"[^\r\n\"']*",
            rf"\1{REDACTED}",
        ),
        ("basic", r"(?i)(\bbasic(?:[ \t]|\\ )+)([\w+/-]{4,}={0,2})", _if_basic),
        ("bearer", r"(?i)\b(bearer(?:[ \t]|\\ )+)[\w.~+/=-]{8,}", rf"\1{REDACTED}"),
        # user:password@ of a URL, to the last @ of its first part; or a token in place of both.
        ("@", r"(\w://)[^\s/@]*:[^\s/]*@", rf"\1{REDACTED}@"),
        ("@", r"(https?://)[^\s/@:]{16,}@", rf"\1{REDACTED}@"),
        ("</", r"(?P<keep><(?P<name>[\w.:-]+)(?:\s[^<>]*)?>)(?P<mark>)[^<]+", _if_named),
        # A name and its value on one line.
        (
            "",
            rf"(?m)^(?P<keep>[ \t]*(?P<name>[A-Za-z_-]+) +)(?![=:]){_WORD}(?=[ \t\r]*$)",
            _if_named,
        ),
        # A JSON web token, kubeadm's bootstrap tokens, Keystone's, and those that say by a prefix what they are.
        ("eyj", r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", REDACTED),
        (".", r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b", REDACTED),
        ("gaaaa", r"\bgAAAA[\w-]{20,}={0,2}", REDACTED),
        ("", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", REDACTED),
        ("", r"\b(?:gh[opsru]|github_pat|glpat|hvs|pul|sk|xox[abeprs])[-_.][\w.-]{16,}", REDACTED),
        # A password's hash, as crypt(3) writes it.
        ("$", r"\$(?:1|2[abxy]?|5|6|7|y|gy|apr1|argon2\w*)\$[\w./$=,+-]{8,}", REDACTED),
    )
)

# A name, quoted or not, and what separates it from its value. In a JSON text, line breaks are written as \n.
_NAME = re.compile(
    r"(?:(?<![\w.\\-])|(?<=\\[nrt]))-{0,2}(?P<name>[A-Za-z_][\w.-]*+)(?P<quote>\\*[\"'])?[ \t]*"
    r"(?:=>|:=|={1,3}|:(?!:|//))"
)
# Environment variables of a unit, of a container, of a job: the name is a value, too.
_PAIR = re.compile(
    r"(?i)\bname\\*[\"']?\s*[:=]\s*\\*[\"']?(?P<name>[\w.-]+)(?P<quote>\\*[\"'])?[,\s]*(?:-\s+)?\\*[\"']?value\\*[\"']?\s*[:=]"
)
# Options of commands, also as elements of a list; and those of curl that take user:password.
_OPTION = re.compile(
    r"(?<![\w-])--?(?P<name>[A-Za-z][\w-]*)(?:(?P<quote>[\"']),?)?[ \t]+(?!\||[\"']?--?[A-Za-z][\w-]*(?:[\s=\"']|\Z))"
)
_CREDENTIALS = re.compile(r"(?<![\w-])(?P<name>-[uU]|--(?:proxy-)?user)(?:(?P<quote>[\"']),?)?[ \t=]+")
_USER_AND_PASSWORD = re.compile(r"(?s)(?!\d+:\d+$)[\"']?[^:/]+:.+")
# Pieces in quotes and without, as a shell joins them.
_SHELL_WORD = r"(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|\\.|[^\s\"'\\])*"
_JOINED = rf"(?=[\w$\"'\\]){_SHELL_WORD}"
_OPENING = re.compile(r"[bru$]?(\"\"\"|'''|\\*[\"'])")
_BLOCK_SCALAR = re.compile(r"(?:[!&]\S*[ \t]+)*[|>][-+\d]*[ \t]*(?:#[^\r\n]*)?(?=\r?\n|\Z)")
# In a string of JSON.
_ESCAPED_BLOCK_SCALAR = re.compile(r"[|>][-+\d]*\\+n")
# What may precede a name that begins a line: a comment, a list's dash, a shell's word; a journal's prefix.
_LINE_BEGINS = re.compile(r"(?:.*\]: )?[ \t]*(?:[#;]+[ \t]*)?(?:- +)?(?:(?:export|set|setenv|declare -x|env) +)?")
# A name that contains "auth" at its end, and may have fields of its own that are no secrets.
_CONTAINER = re.compile(r"(?i).*auths?")
_HARMLESS = (
    r"(?:true|false|null|none|nil|yes|no|on|off|all|required|optional|disabled|enabled|chauthtok|amd64|arm64|"
    r"\[secret\]|\[redacted\]|[*x!]*)"
)
_HARMLESS_VALUE = re.compile(rf"(?i)(?:\\*[\"'])?[(]?{_HARMLESS}(?:\\*[\"'])?[),:;\]}}`]*")
_HARMLESS_OBJECT = re.compile(
    rf"(?i)\{{\s*(?:\\*[\"']?[\w.-]+\\*[\"']?\s*[:=]\s*(?:\\*[\"'])?{_HARMLESS}(?:\\*[\"'])?\s*,?\s*)*\}}"
)


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that removes these secrets from a text, and each of their lines, and whatever looks like a secret."""
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
        for pattern in (_CREDENTIALS, _OPTION, _NAME, _PAIR):
            text = "".join(_without_named(text, pattern))
        return text

    return redact


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


def _without_named(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """A text, in pieces, without the values of names that carry secrets."""
    done = 0
    for match in pattern.finditer(text):
        if match.start() < done or not (pattern is _CREDENTIALS or carries_secret(_whole_name(text, match))):
            continue
        begin = _skip_blanks(text, match.end(), lines=match["quote"] is not None)
        end = _end_of_value(text, begin, match)
        value = text[begin:end]
        if pattern is _CREDENTIALS and not _USER_AND_PASSWORD.fullmatch(value):
            continue
        if _HARMLESS_VALUE.fullmatch(value.strip()) or _HARMLESS_OBJECT.fullmatch(value):
            continue
        if value[0] in "\r\n{" and _CONTAINER.fullmatch(match["name"]):
            continue
        yield text[done:begin]
        yield " " if value[0] in "\r\n" else ""
        opening = _OPENING.match(value)
        # JSON stays JSON, and YAML stays YAML.
        mark = opening[1] if opening else (match["quote"] or "")
        yield mark + REDACTED + mark
        done = end
    yield text[done:]


def _whole_name(text: str, match: re.Match[str]) -> str:
    """A name with the word before it, if the name says nothing without it: `API key: ...`."""
    name = match["name"]
    if name.lower() not in ("key", "keys"):
        return name
    before = re.search(r"(\w+)[ ]$", text[max(0, match.start() - 20) : match.start()])
    return f"{before[1]}_{name}" if before else name


def _skip_blanks(text: str, position: int, *, lines: bool) -> int:
    blanks = re.compile(r"\s*" if lines else r"(?:[ \t]|\\\r?\n)*").match(text, position)
    return blanks.end() if blanks else position


def _end_of_value(text: str, begin: int, match: re.Match[str]) -> int:
    """Where a value that begins at `begin` ends."""
    line_begin = text.rfind("\n", 0, match.end()) + 1
    before = text[max(line_begin, match.start() - _LOOK_BACK) : match.start()]
    if match["quote"]:
        before = before.rpartition(match["quote"])[0]
    enclosing = next((mark for mark in ("'", '"') if before.count(mark) % 2), "")
    is_line = match.re in (_NAME, _PAIR) and not enclosing and bool(_LINE_BEGINS.fullmatch(before))
    if _BLOCK_SCALAR.match(text, begin) or text[begin : begin + 1] in ("\n", "\r", ""):
        return _end_of_block(text, begin, line_begin)
    if text.startswith(REDACTED, begin):
        end = begin + len(REDACTED)
    elif _ESCAPED_BLOCK_SCALAR.match(text, begin):
        end = _end(r"(?:\\.|[^\r\n\"\\])*", text, begin)
    elif before[-1:] in ("'", '"') and not match["quote"]:  # "NAME=a value with blanks"
        end = _end_of_quoted(text, begin, before[-1])
        joined = max(_end(_JOINED, text, end), _end(rf"[^{before[-1]}]*{before[-1]}{_JOINED}", text, begin))
        end = end - 1 if joined <= end and text[end - 1] == before[-1] else joined
    elif opening := _OPENING.match(text, begin):
        end = _end_of_quoted_word(
            text, begin, opening, enclosing, shell=not match["quote"] and text[match.end() - 1] in "= \t"
        )
    elif text[begin] in "{[":
        end = _end(rf"[^\s,;&)}}\]\\{enclosing}]*", text, _end_of_bracketed(text, begin))
    elif match["quote"] and match.re is _NAME:  # a number or a word in JSON; in YAML it is a line
        return _end(r"[^\r\n]*?(?=[,}\]]*[ \t]*(?:[\r\n]|\Z))" if is_line else r"[^\s,}\]]*", text, begin)
    else:
        end = begin if is_line else _end_of_plain(text, begin, before, enclosing, match)
    return max(end, _end_of_block(text, end, line_begin)) if is_line and not match["quote"] else end


def _end_of_plain(text: str, begin: int, before: str, enclosing: str, match: re.Match[str]) -> int:
    """Where a value without quotes of its own ends, which is not a line of its own: it depends on what precedes it."""
    if before[-1:] in ("?", "&"):
        pattern = r"[^\s&\"'<>#]*"
    elif re.search(r"\\[nr][ \t]*\Z", before):  # a text's line in a string of JSON
        pattern = rf"(?:\\[^\r\nnr]|[^\r\n\\{enclosing}])*"
    elif text[match.end() - 1] == ":" and begin > match.end():  # "name: value" ends with the line or the quotes
        pattern = rf"(?:\\[^\r\n]|[^\r\n\\{enclosing}])*"
    else:  # "name=value" ends with the word
        pattern = rf"(?:\\[^\r\n]|[^\s\\{enclosing}])*"
    # A shell's word may go on after the quotes.
    joined = rf"(?:{enclosing}{_JOINED})?" if enclosing else ""
    return _end(pattern + joined, text, begin)


def _end(pattern: str, text: str, begin: int) -> int:
    found = re.compile(pattern).match(text, begin)
    return found.end() if found else begin


def _end_of_line(text: str, begin: int) -> int:
    return _end(r"[^\r\n]*", text, begin)


def _end_of_quoted_word(text: str, begin: int, opening: re.Match[str], enclosing: str, *, shell: bool) -> int:
    """After a value that begins with a quote, and what a shell joins to it."""
    mark = opening[1]
    end = _end_of_quoted(text, opening.end(), mark)
    if len(mark) == 3:  # or YAML's single quotes around a value that begins with one
        end = max(end, _end_of_quoted(text, begin + 1, mark[0]))
    if mark == enclosing:  # the first closes the shell's word around the name: 'X-Auth-Token: '"'"'value'
        end = max(end, _end(_SHELL_WORD, text, begin + 1))
    if shell:
        end = max(end, _end(_SHELL_WORD, text, begin))
    return _end(_JOINED, text, end) if shell else end


def _end_of_quoted(text: str, begin: int, mark: str) -> int:
    """After the closing quote; or, if there is none, at the end of the line."""
    if mark.startswith("\\"):  # in a string inside of a string, on one line
        return _end(rf"(?:(?<!\\){re.escape(mark)}|.*?[^\\]{re.escape(mark)}|[^\r\n]*)", text, begin)
    # Whether a backslash escapes a quote depends on the format; doubling it does nearly everywhere.
    escaping = rf"(?:\\.|{mark}{mark}|[^\\{mark}])*+{mark}"
    patterns = (rf".*?{mark}",) if len(mark) == 3 else (escaping, rf"(?:{mark}{mark}|[^{mark}])*+{mark}")
    found = [re.compile(it, re.DOTALL).match(text, begin, begin + MOST_QUOTED) for it in patterns]
    end = max((it.end() for it in found if it), default=begin)
    if end == begin or "\n" in text[begin:end]:
        # A quote that was never closed ends at the next value's opening one: the rest of that line is the next value.
        return _end_of_line(text, end)
    return end


def _end_of_bracketed(text: str, begin: int) -> int:
    """After the bracket that closes the first; if there is none nearby, at the end of the line."""
    depth = 0
    for found in re.compile(r"\\*\"(?:[^\"\\]|\\[^\"])*\\*\"|'[^'\n]*'|[\[{]|[\]}]").finditer(
        text, begin, begin + MOST_BRACKETED
    ):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return _end_of_line(text, begin)


def _end_of_block(text: str, begin: int, line_begin: int) -> int:
    """At the end of the line, or of the lines below that are indented more (YAML, INI), or are its list's elements."""
    prefix = re.compile(r"[^\r\n]*\]: ").match(text, line_begin, begin)  # of each line in a journal
    line_begin, before = (prefix.end(), r"[^\r\n]*?\]: ") if prefix else (line_begin, "")
    indent = _end(r"[ \t]*", text, line_begin) - line_begin
    more, same = rf"[ \t]{{{indent + 1}}}[^\r\n]*", rf"[ \t]{{{indent}}}- [^\r\n]*"
    return _end(rf"(?:\r?\n{before}(?:[ \t]*(?=\r?\n)|{more}|{same}))*", text, _end_of_line(text, begin))
