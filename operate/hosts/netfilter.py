"""Packet filter rules of our own, in tables that firewalld ignores."""

import shlex

# firewalld installs this library; the `nft` program is missing on hosts of older versions.
NFT = shlex.join(
    [
        *("python3", "-c"),
        "import nftables, sys; code, _, error = nftables.Nftables().cmd(sys.argv[1]); sys.exit(error if code else 0)",
    ]
)
"""A shell command for a host, as root; its argument has the syntax of an `nft` file (nft(8))."""
