"""docker-proxy's command line, its status pipe, and the same as a function for dockerd's zygote.

    docker-proxy -proto tcp|udp|sctp -host-ip A -host-port P -container-ip B -container-port Q [-use-listen-fd]

Descriptor 3, where there is one, is told "0\\n" once we listen or "1\\n" and
the reason why not; with -use-listen-fd the listening socket is descriptor 4.

One runs per published port, and a start of it is waited for: nothing is
imported that the work doesn't need, `socket` itself is too much.
"""

from __future__ import annotations

import os
import resource
import sys
from _signal import SIGINT, SIGTERM, signal  # type: ignore[import-not-found]
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    inet_pton,
    socket,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

STATUS_FD = 3
LISTEN_FD = 4
PROTOCOLS = {"tcp": (SOCK_STREAM, 0), "udp": (SOCK_DGRAM, 0), "sctp": (SOCK_STREAM, 132)}
_BACKLOG = 4096
_FDS = 1 << 20
_USAGE = """Usage of docker-proxy:
  -container-ip string
    \tcontainer ip
  -container-port int
    \tcontainer port (default -1)
  -host-ip string
    \thost ip
  -host-port int
    \thost port (default -1)
  -proto string
    \tproxy protocol (default "tcp")
  -use-listen-fd
    \tuse a supplied listen fd
  -v\tprint version information and quit
  -version
    \tprint version information and quit
"""


class Failure(Exception):
    """Said on the status pipe, and on stderr."""


class Target:
    """Where connections go."""

    __slots__ = ("address", "family", "protocol")

    def __init__(self, ip: str, port: int, protocol: int) -> None:
        self.family = family_of(ip)
        self.address = (ip, port)
        self.protocol = protocol


class Options:
    """The command line. `listen_fd` is -1 for a socket of our own."""

    __slots__ = ("container_ip", "container_port", "host_ip", "host_port", "listen_fd", "proto")

    def __init__(self) -> None:
        self.proto = "tcp"
        self.host_ip = ""
        self.host_port = -1
        self.container_ip = ""
        self.container_port = -1
        self.listen_fd = -1


_FLAGS = {
    "proto": ("proto", str),
    "host-ip": ("host_ip", str),
    "host-port": ("host_port", int),
    "container-ip": ("container_ip", str),
    "container-port": ("container_port", int),
}


def parse(words: list[str]) -> Options:
    """-flag value and -flag=value, with one dash or two. Raises Failure; SystemExit for help and version."""
    options = Options()
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("-") or word in ("-", "--"):
            break
        name, equals, value = word.lstrip("-").partition("=")
        if name in ("v", "version"):
            print("docker-proxy (longshore) version 0.1.0")
            raise SystemExit(0)
        if name in ("h", "help"):
            sys.stderr.write(_USAGE)
            raise SystemExit(0)
        if name == "use-listen-fd":
            options.listen_fd = -1 if value in ("false", "0") else LISTEN_FD
            continue
        if name not in _FLAGS:
            sys.stderr.write(f"flag provided but not defined: -{name}\n{_USAGE}")
            raise SystemExit(2)
        if not equals:
            if position == len(words):
                raise Failure(f"flag needs an argument: -{name}")
            value = words[position]
            position += 1
        member, kind = _FLAGS[name]
        try:
            setattr(options, member, kind(value))
        except ValueError:
            raise Failure(f'invalid value "{value}" for flag -{name}: parse error') from None
    return options


def family_of(ip: str) -> int:
    """Raises Failure for what is no address."""
    for family in (AF_INET, AF_INET6):
        try:
            inet_pton(family, ip)
        except OSError:
            continue
        return family
    raise Failure(f"invalid IP address: {ip!r}")


def listen(options: Options) -> socket:
    """The listening socket, non-blocking. Raises Failure."""
    if options.proto not in PROTOCOLS:
        raise Failure(f"unsupported protocol {options.proto}")
    kind, protocol = PROTOCOLS[options.proto]
    if options.listen_fd >= 0:
        return _taken_over(options.listen_fd, kind)
    family = family_of(options.host_ip)
    address = (options.host_ip, options.host_port)
    try:
        listener = socket(family, kind, protocol)
        if family == AF_INET6:
            listener.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
        if kind == SOCK_STREAM:
            listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        listener.bind(address)
        if kind == SOCK_STREAM:
            listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        text = (getattr(error, "strerror", None) or str(error)).lower()
        host = f"[{options.host_ip}]" if family == AF_INET6 else options.host_ip
        raise Failure(f"listen {options.proto} {host}:{options.host_port}: bind: {text}") from None
    listener.setblocking(False)
    return listener


def _taken_over(fd: int, kind: int) -> socket:
    try:
        listener = socket(fileno=fd)
    except OSError as error:
        raise Failure(f"listen fd {fd}: {error.strerror}") from None
    if listener.type != kind:
        raise Failure(f"listen fd {fd}: not a socket of that protocol")
    if kind == SOCK_STREAM:
        try:
            listener.listen(_BACKLOG)  # it may have been bound only
        except OSError as error:
            raise Failure(f"listen fd {fd}: {error.strerror}") from None
    listener.setblocking(False)
    return listener


def make(options: Options, listener: socket) -> Any:
    """The proxy, to be `run`. Raises Failure."""
    _, protocol = PROTOCOLS[options.proto]
    target = Target(options.container_ip, options.container_port, protocol)
    if options.proto == "udp":
        from longshore.proxy.udp import DatagramProxy

        anywhere = listener.getsockname()[0] in ("0.0.0.0", "::")
        return DatagramProxy(listener, target, anywhere=anywhere)
    from longshore.proxy.tcp import StreamProxy, tune

    tune(listener)
    return StreamProxy(listener, target)


def main() -> int:
    """The program. Ends with SIGTERM or SIGINT, status 0."""
    status = _status_pipe()
    try:
        options = parse(sys.argv[1:])
        proxy = make(options, listen(options))
    except Failure as failure:
        _report(status, f"1\n{failure}")
        print(f"docker-proxy: {failure}", file=sys.stderr)
        return 1
    _prepare()
    _report(status, "0\n")
    proxy.run()
    return 0


def start(arguments: dict[str, Any], fds: list[int]) -> dict[str, int]:
    """Worker of dockerd's zygote: leave a proxy behind that listens already; its pid.

    `arguments` are named like the flags ("proto", "host_ip", ...); a descriptor, if there is one, is the listening
    socket. With "outlive" the proxy goes on without dockerd, else it ends when dockerd's zygote does. Raises OSError
    with the words of the command's status pipe.
    """
    options = Options()
    for name in ("proto", "host_ip", "host_port", "container_ip", "container_port"):
        setattr(options, name, arguments[name])
    if fds:
        options.listen_fd = fds[0]
    try:
        listener = listen(options)
        proxy = make(options, listener)
    except Failure as failure:
        raise OSError(str(failure)) from None
    parent = -1 if arguments.get("outlive") else os.pidfd_open(os.getppid())
    pid = os.fork()
    if pid:
        return {"pid": pid}
    _serve(proxy, parent, {listener.fileno(), parent})


def _serve(proxy: Any, parent: int, kept: set[int]) -> NoReturn:
    try:
        os.setsid()
        _set_name(b"docker-proxy")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        start = 3
        for fd in sorted(kept - {-1}):
            os.closerange(start, fd)
            start = fd + 1
        os.closerange(start, _FDS)
        _prepare()
        proxy.run(parent)
    finally:
        os._exit(1)


def _set_name(name: bytes) -> None:
    """What ps shows. Without a file object, which would cost a forked proxy 30 pages."""
    comm = os.open("/proc/self/comm", os.O_WRONLY)
    os.write(comm, name)
    os.close(comm)


def _prepare() -> None:
    signal(SIGTERM, _end)
    signal(SIGINT, _end)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _end(*_: object) -> NoReturn:
    os._exit(0)


def _status_pipe() -> int:
    """Asked before anything is opened: run by hand, there is none."""
    try:
        os.fstat(STATUS_FD)
    except OSError:
        return -1
    return STATUS_FD


def _report(status: int, text: str) -> None:
    if status >= 0:
        os.write(status, text.encode())
        os.close(status)


if __name__ == "__main__":
    sys.exit(main())
