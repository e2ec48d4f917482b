"""TLS contexts from the files that a `Host` names."""

from __future__ import annotations

import functools
import ssl

from longshore.registry.errors import BadConfiguration
from longshore.registry.hosts import TLS


@functools.lru_cache(maxsize=64)
def context(tls: TLS) -> ssl.SSLContext:
    """The system's authorities and those of `tls`, its client certificates, its laxity. Raises BadConfiguration."""
    made = ssl.create_default_context()
    for file in tls.ca:
        try:
            made.load_verify_locations(file)
        except (OSError, ssl.SSLError) as error:
            raise BadConfiguration(
                f"certificate authority {file}: {_reason(error)}", "it must be a readable PEM file"
            ) from None
    for certificate, key in tls.client:
        try:
            made.load_cert_chain(certificate, key or None)
        except (OSError, ssl.SSLError) as error:
            raise BadConfiguration(
                f"client certificate {certificate} with key {key or certificate}: {_reason(error)}",
                "both must be readable PEM files that belong together",
            ) from None
    if tls.skip_verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return (error.strerror or str(error)).lower()
