"""Which names carry a secret: of settings, variables, headers, options and fields, in whatever style they are written.

Pure; no I/O.
"""

import re
from itertools import pairwise

# camelCase, PascalCase, snake_case, kebab-case, and runs of capitals before a word (APIKey).
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET = re.compile(r"pass(words?|wds?|phrases?|codes?|keys?)|pwd?|psk|secrets?|tokens?|cred(ential)?s?")
# Written together, as in adminpass, authtoken, chpasswd.
_TOGETHER = re.compile(
    r".*(password|passwd|passphrase|secret|token|credentials|(api|auth|access|private|secret|shared)key|auth)|"
    r"(?!bypass|compass|encompass|trespass).*pass"
)
# "key" alone is a column of a table; a public key, a host key or the name of a key pair is no secret.
_KEY_OF = re.compile(
    r"access|account|api|auth|client|deploy|encryption|hmac|master|preshared|priv(ate)?|secret|service|session|shared|"
    r"signing|storage|ticket"
)
# The last word of a name that is about a secret, and is none.
_ABOUT = re.compile(
    r"age|algorithm|authentication|count|dir(ectory)?|enabled|environment|expir(ation|ed|es|y)|file|fingerprint|format|"
    r"ids?|len(gth)?|method|mode|name|path|policy|py|ref|required|security|service|size|socket|status|target|timeout|"
    r"ttl|type|ur[il]|user(name)?|version"
)


def carries_secret(name: str) -> bool:
    """Whether what is called so is probably a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    while words and words[-1].isdigit():
        words.pop()
    # The shell's folders; and systemd's names of files with credentials, but for SetCredential.
    if not words or name in ("PWD", "OLDPWD") or re.match(r"(Load|Import|Condition)Credential", name):
        return False
    last = words[-1]
    if last in ("authorization", "cookie"):
        return True
    if any(key in ("key", "keys") and _KEY_OF.fullmatch(of) for of, key in pairwise(words)):
        return last == "id" or not _ABOUT.fullmatch(last)  # an access key's id is half of it
    if _ABOUT.fullmatch(last) or words[-2:] == ["set", "passwords"]:  # the latter is a module of cloud-init
        return False
    return any(map(_SECRET.fullmatch, words)) or bool(_TOGETHER.fullmatch(last))
