"""The one exception of this package."""


class LocalError(RuntimeError):
    """Something on this machine is in the way. The message is one plain sentence that names the remedy."""
