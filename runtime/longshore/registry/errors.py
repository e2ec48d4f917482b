"""What can go wrong with a registry: a closed set. A message names host and deed; `hint` says what to do next."""

from __future__ import annotations

from typing import ClassVar


class RegistryError(Exception):
    """Base of all.

    `hint` is for people, and "" when there is nothing to advise. `said` is the
    reason in the words of the distribution specification, as far as somebody
    gave one: "manifest unknown: manifest unknown", "no basic auth credentials".
    """

    code: ClassVar[int] = 2
    """The gRPC status that it becomes on a socket."""

    def __init__(self, message: str, hint: str = "", said: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.said = said


class InvalidReference(RegistryError):
    """A name that is no image name."""

    code = 3


class BadConfiguration(RegistryError):
    """hosts.toml, config.json, a certificate or a proxy that can't be used; the message names the file."""

    code = 3


class NotFound(RegistryError):
    """The registry doesn't have it."""

    code = 5


class Unauthorized(RegistryError):
    """The registry wants credentials, or other ones."""

    code = 16


class Denied(RegistryError):
    """The registry knows us and says no."""

    code = 7


class RateLimited(RegistryError):
    """Too many requests, also after waiting as long as the registry asked."""

    code = 8


class Unavailable(RegistryError):
    """Nobody answers, or only with server errors, or the connection keeps breaking."""

    code = 14


class Untrusted(RegistryError):
    """TLS: the certificate isn't one that we trust."""

    code = 9


class BadContent(RegistryError):
    """What came isn't what was promised: digest, size or media type."""

    code = 15


class Refused(RegistryError):
    """The registry rejected a request for a reason of its own (any other 4xx)."""

    code = 9
