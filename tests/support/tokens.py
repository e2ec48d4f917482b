"""A token server that docker-registry trusts: it signs who may do what, with a key of its own."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

SERVICE, ISSUER = "registry.test", "tokens.test"


class TokenServer:
    """``with TokenServer(folder, anna="secret") as tokens, Registry(token=tokens.table())``.

    Everybody may pull, users may push; `oauth` is whether it knows POST.
    """

    def __init__(self, folder: Path, *, oauth: bool = True, **users: str) -> None:
        self.users, self.oauth = users, oauth
        self.asked: list[tuple[str, Mapping[str, list[str]]]] = []
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "tokens.crt"))
        leaf = authority.issue_cert(ISSUER)
        key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._bundle, self._key = folder / "tokens.crt", key
        self._chain = [_der(pem.bytes()) for pem in leaf.cert_chain_pems]

    def __enter__(self) -> TokenServer:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name, _, secret = _basic(self.headers.get("Authorization", "")).partition(":")
                outer.answer(self, parse_qs(urlsplit(self.path).query), name, secret)

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                outer.answer(self, form, *(form.get(key, [""])[0] for key in ("username", "password")))

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def table(self) -> dict[str, Any]:
        """What docker-registry has to know of it."""
        realm = f"http://127.0.0.1:{self._server.server_port}/token"
        return {"realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(self._bundle)}

    def answer(
        self, handler: BaseHTTPRequestHandler, form: Mapping[str, list[str]], name: str, secret: str
    ) -> None:
        self.asked.append((handler.command, form))
        if handler.command == "POST" and not self.oauth:
            handler.send_error(405)
        elif name and self.users.get(name) != secret:
            handler.send_error(401)
        else:
            scopes = " ".join(form.get("scope", [])).split()
            body = json.dumps({"token": self.sign(name, scopes), "expires_in": 300}).encode()
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

    def sign(self, name: str, scopes: list[str]) -> str:
        """A JSON web token (ES256) with what of `scopes` is granted."""
        access = []
        for scope in scopes:
            kind, rest = scope.split(":", 1)
            target, _, actions = rest.rpartition(":")
            granted = [action for action in actions.split(",") if action == "pull" or name]
            access.append({"type": kind, "name": target, "actions": granted})
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": name,
            "aud": SERVICE,
            "access": access,
            "jti": secrets.token_hex(8),
        }
        claims |= {"jti": secrets.token_hex(8), "nbf": now - 10, "iat": now, "exp": now + 300}
        text = f"{_pack({'typ': 'JWT', 'alg': 'ES256', 'x5c': self._chain})}.{_pack(claims)}"
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _basic(header: str) -> str:
    return base64.b64decode(header.removeprefix("Basic ")).decode() if header.startswith("Basic ") else ""


def _pack(value: Any) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _der(pem: bytes) -> str:
    """A certificate as x5c has it."""
    lines = pem.decode().strip().splitlines()
    return "".join(lines[1:-1])
