"""Packet filter rules of our own, in tables that firewalld ignores."""

import shlex

# firewalld installs this library, but not the `nft` program.
NFT = shlex.join(
    [
        *("python3", "-c"),
        "import nftables, sys; code, _, error = nftables.Nftables().cmd(sys.argv[1]); sys.exit(error if code else 0)",
    ]
)
"""A shell command for a host, as root; its argument has the syntax of an `nft` file (nft(8))."""
