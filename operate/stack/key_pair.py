"""The key pair that new instances get, as the user who runs this sees it. In Nova key pairs belong to users."""

from model.settings import Settings


def key_pair_name(settings: Settings) -> str:
    """The name of the key pair of the stack's instances: the configured one, or the one that the program creates."""
    return settings.key_pair or settings.cluster_name


def key_pair_problem(settings: Settings, public_key: str | None, *, user: str, creator: str) -> tuple[str, str] | None:
    """What is wrong with a user's key pair of that name, and what to do; None if new instances can have it.

    `public_key` is that user's, None without such a key pair; `user` and `creator` are ids, the latter of the user who
    created the stack's instances.
    """
    name = key_pair_name(settings)
    create = f"`openstack keypair create --public-key FILE {name}`, with {settings.login_public_key} in FILE"
    creator_does_this = f"have the user {creator} do this"
    if public_key is None and user == creator:
        return f"the key pair {name} of this user ({user}) is gone", f"create it again: {create}"
    if public_key is None:
        return (
            f"this user ({user}) has no key pair {name}: it belongs to the user {creator}",
            f"{creator_does_this}; or create one with this name and the same public key: {create}",
        )
    if not settings.key_mismatch(public_key):
        return None
    found = f"this user's ({user}) key pair {name} has a public key other than the stack's"
    if user != creator:
        # Not to be deleted: what else this user has it for is unknown.
        return found, creator_does_this
    if settings.key_pair:
        return found, "set the private key that belongs to it: `pulumi config set --secret sshPrivateKey < FILE`"
    return found, f"delete it (`openstack keypair delete {name}`), and create it again: {create}"
