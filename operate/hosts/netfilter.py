"""Rules of a host's packet filter beside firewalld's, in tables of their own that firewalld does not look at."""

import shlex

# firewalld comes with this library, and without the `nft` program.
NFT = shlex.join(
    [
        *("python3", "-c"),
        "import nftables, sys; code, _, error = nftables.Nftables().cmd(sys.argv[1]); sys.exit(error if code else 0)",
    ]
)
"""A command of a host's shell, as root; its argument is what `nft` would read from a file (nft(8))."""
