"""What can go wrong with a registry: a closed set. A message names host and deed; `hint` says what to do next."""

from __future__ import annotations


class RegistryError(Exception):
    """Base of all. `hint` is for people, and "" when there is nothing to advise."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidReference(RegistryError):
    """A name that is no image name."""


class BadConfiguration(RegistryError):
    """hosts.toml, config.json, a certificate or a proxy that can't be used; the message names the file."""


class NotFound(RegistryError):
    """The registry doesn't have it."""


class Unauthorized(RegistryError):
    """The registry wants credentials, or other ones."""


class Denied(RegistryError):
    """The registry knows us and says no."""


class RateLimited(RegistryError):
    """Too many requests, also after waiting as long as the registry asked."""


class Unavailable(RegistryError):
    """Nobody answers, or only with server errors, or the connection keeps breaking."""


class Untrusted(RegistryError):
    """TLS: the certificate isn't one that we trust."""


class BadContent(RegistryError):
    """What came isn't what was promised: digest, size or media type."""


class Refused(RegistryError):
    """The registry rejected a request for a reason of its own (any other 4xx)."""
