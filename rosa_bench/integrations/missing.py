"""The error of an integration whose library is not installed."""

from rosa_bench.system.errors import UserError


class MissingExtraError(UserError, ImportError):
    """A library that an integration needs is not installed. The message says how to install it."""
