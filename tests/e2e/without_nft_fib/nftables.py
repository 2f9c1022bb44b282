"""Answers as python-nftables does with a kernel without nft_fib_inet.

Python finds it before Debian's, which it loads and changes.
"""

from importlib import import_module
from typing import Any

__path__ = ["/usr/lib/python3/dist-packages/nftables"]
nftables: Any = import_module("nftables.nftables").Nftables
json_cmd = nftables.json_cmd


def refuse_fib(self: Any, json_root: Any) -> Any:
    if "'fib'" in str(json_root):
        return 1, "", "internal:0:0-0: Error: Could not process rule: No such file or directory\n"
    return json_cmd(self, json_root)


nftables.json_cmd = refuse_fib
