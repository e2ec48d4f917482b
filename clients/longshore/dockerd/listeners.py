"""Where dockerd listens: unix://, tcp://, fd://, several at once."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import ssl
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from longshore.api.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from longshore.dockerd.config import Config

log = structlog.get_logger("dockerd.listeners")

MAX_SOCKET_PATH: Final = 107  # bytes; a sockaddr_un has 108, one of them the NUL
PORT: Final = 2375
TLS_PORT: Final = 2376
FIRST_FD: Final = 3  # of those that systemd hands over
BACKLOG: Final = 512
_CONNECT_SECONDS: Final = 1.0


class Address(NamedTuple):
    """`kind` is unix, tcp or fd; `place` a path, "host:port" or what follows fd://."""

    kind: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind}://{self.place}"


class Listener(NamedTuple):
    address: Address
    socket: socket.socket
    secure: bool


def parse(host: str, *, tls: bool) -> Address:
    """What -H means. InvalidArgument."""
    kind, found, place = host.strip().partition("://")
    if not found:
        kind, place = ("unix", kind) if kind.startswith("/") else ("tcp", kind)
    if kind == "unix":
        return Address(kind, _unix(place or "/var/run/docker.sock"))
    if kind == "tcp":
        return Address(kind, _tcp(place, TLS_PORT if tls else PORT))
    if kind == "fd":
        return Address(kind, place)
    raise InvalidArgument(f"invalid bind address ({host}): unix://, tcp:// and fd:// are known")


def _unix(path: str) -> str:
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise InvalidArgument(
            f"socket path {path!r} is longer than the kernel allows ({MAX_SOCKET_PATH} bytes): give a shorter one"
        )
    return path


def _tcp(place: str, port: int) -> str:
    host, number = split_port(place)
    if number and not number.isdigit():
        raise InvalidArgument(f"invalid bind address (tcp://{place}): {number!r} is no port")
    return f"{host or 'localhost'}:{number or port}"


def split_port(place: str) -> tuple[str, str]:
    """Host and port of "h:1", "[::1]:1", "h"; the brackets stay."""
    if place.startswith("["):
        host, _, rest = place.partition("]")
        return host + "]", rest.removeprefix(":")
    host, _, port = place.partition(":")
    return host, port


# -- TLS ----------------------------------------------------------------------------------------------------


def context(config: Config) -> ssl.SSLContext | None:
    """For tcp://, None without TLS. InvalidArgument for files that can't be used."""
    if not (config.tls or config.tlsverify):
        return None
    folder = os.path.expanduser("~/.docker")
    certificate, key, authority = (
        path or os.path.join(folder, name)
        for path, name in (
            (config.tlscert, "cert.pem"),
            (config.tlskey, "key.pem"),
            (config.tlscacert, "ca.pem"),
        )
    )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(certificate, key)
        if config.tlsverify:
            made.load_verify_locations(authority)
            made.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        where = f"certificate {certificate}, key {key}" + (f", CA {authority}" if config.tlsverify else "")
        raise InvalidArgument(f"could not load the X509 files ({where}): {error}") from None
    return made


# -- sockets ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listening(config: Config, inherited: Mapping[int, str]) -> Iterator[list[Listener]]:
    """Sockets for every host of `config`; ours are closed and their files removed at the end."""
    tls = config.tls or config.tlsverify
    with contextlib.ExitStack() as stack:
        made: list[Listener] = []
        for host in config.hosts:
            address = parse(host, tls=tls)
            if address.kind == "unix":
                made.append(_listen_unix(address, config, stack))
            elif address.kind == "tcp":
                made += _listen_tcp(address, tls, config.tlsverify, stack)
            else:
                made += _adopt(address, inherited, tls, stack)
        yield made


def _listen_unix(address: Address, config: Config, stack: contextlib.ExitStack) -> Listener:
    path = address.place
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    remove_stale(path)
    group = _group(config.group)
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    before = os.umask(0o117)  # never open to all, not even for a moment
    try:
        sock.bind(path)
    except OSError as error:
        raise FailedPrecondition(f"can't create unix socket {path}: {error.strerror}") from None
    finally:
        os.umask(before)
    made = os.stat(path)
    stack.callback(_remove, path, made.st_ino)
    if group is not None:
        os.chown(path, 0, group)
    sock.listen(BACKLOG)
    return Listener(address, sock, False)


def _remove(path: str, inode: int) -> None:
    """Only what we made: another daemon may have put its own there since."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


def _group(name: str) -> int | None:
    """The socket's group. The default's absence is no error, as with the original."""
    if os.geteuid() != 0:
        return None
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid if name else 0
    except KeyError:
        if name != "docker":
            raise InvalidArgument(f"group {name} not found") from None
        log.warning("could not change group of the socket to docker: group docker not found")
        return 0


def remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on. FailedPrecondition if somebody does, or it is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FailedPrecondition(f"{path} exists and is not a socket: remove it, or give another --host")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError as error:
            raise FailedPrecondition(f"{path} can't be probed: {error}") from None
    raise FailedPrecondition(f"another process is listening on {path}: stop it, or give another --host")


def _listen_tcp(address: Address, tls: bool, verify: bool, stack: contextlib.ExitStack) -> list[Listener]:
    if not tls:
        log.warning(
            "[DEPRECATION NOTICE] API is accessible without encryption: access to the remote API is equivalent"
            " to root access on the host. Use --tlsverify",
            host=str(address),
        )
    elif not verify:
        log.warning("API is accessible without client certificates. Use --tlsverify", host=str(address))
    host, port = split_port(address.place)
    made = []
    for family, place in _resolve(host.strip("[]"), int(port), address):
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _keep_alive(sock)
        try:
            sock.bind(place)
        except OSError as error:
            raise FailedPrecondition(f"can't listen on {address}: {error.strerror}") from None
        sock.listen(BACKLOG)
        made.append(Listener(address, sock, tls))
    return made


def _resolve(host: str, port: int, address: Address) -> list[tuple[int, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, OverflowError) as error:
        raise InvalidArgument(f"invalid bind address ({address}): {error}") from None
    # One address of a name, as the original: IPv4 first.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, _, _, _, place = found[0]
    return [(family, (str(place[0]), int(place[1])))]


def _keep_alive(sock: socket.socket) -> None:
    """Accepted connections inherit it: a client that vanished is found after about two minutes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


# -- systemd ------------------------------------------------------------------------------------------------


def inherited(environment: dict[str, str]) -> dict[int, str]:
    """Descriptors that systemd opened for us, with their names; taken out of the environment, and cloexec."""
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    found = {}
    for index in range(int(count)):
        fd = FIRST_FD + index
        os.set_inheritable(fd, False)
        found[fd] = names[index] if index < len(names) else ""
    return found


def _adopt(
    address: Address, inherited: Mapping[int, str], tls: bool, stack: contextlib.ExitStack
) -> list[Listener]:
    fds = _chosen(address.place, inherited)
    if not fds:
        raise FailedPrecondition(f"no sockets found for {address}: it was not started by socket activation")
    made = []
    for fd in fds:
        sock = stack.enter_context(socket.socket(fileno=os.dup(fd)))
        is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        made.append(Listener(address, sock, tls and is_tcp))
    return made


def _chosen(place: str, inherited: Mapping[int, str]) -> Sequence[int]:
    if place in ("", "*"):
        return sorted(inherited)
    if place.isdigit():
        return [int(place)] if int(place) in inherited else []
    return [fd for fd, name in sorted(inherited.items()) if name == place]
