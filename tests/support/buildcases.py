"""Dockerfiles with their contexts, to be built by two daemons and compared."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from support import goparts

BASE = "base:1"


class Case(NamedTuple):
    """`files`: path -> text; `prepare` makes what is no plain file; `flags` are of docker build."""

    name: str
    dockerfile: str
    files: Mapping[str, str] = {}
    prepare: Callable[[Path], None] | None = None
    flags: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        folder.mkdir()
        for name, text in {"Dockerfile": self.dockerfile, **self.files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        if self.prepare is not None:
            self.prepare(folder)
        for path in sorted(folder.rglob("*")):
            os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)


def _links(folder: Path) -> None:
    (folder / "tree/sub").mkdir(parents=True)
    (folder / "tree/one").write_text("one")
    os.link(folder / "tree/one", folder / "tree/sub/two")
    (folder / "tree/link").symlink_to("../etc/passwd")
    (folder / "tree/dangling").symlink_to("nowhere")
    (folder / "tree/set").write_text("#!")
    (folder / "tree/set").chmod(0o6755)
    (folder / "tree/secret").write_text("")
    (folder / "tree/secret").chmod(0o600)
    (folder / "tree/sub").chmod(0o1777)
    os.mkfifo(folder / "tree/fifo")
    os.chown(folder / "tree/one", 12, 34)
    (folder / "alias").symlink_to("tree/one")
    (folder / "where").symlink_to("tree")


def _archives(folder: Path) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
    }
    for packing, pack in packers.items():
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for kind, path, text in (
                (tarfile.DIRTYPE, "dir", ""),
                (tarfile.REGTYPE, f"dir/file{packing}", "text"),
                (tarfile.SYMTYPE, "dir/link", "/etc/passwd"),
            ):
                entry = tarfile.TarInfo(path)
                entry.type, entry.mode, entry.uid, entry.gid = kind, 0o750, 7, 8
                entry.mtime, entry.size = 1_500_000_000, len(text) if kind == tarfile.REGTYPE else 0
                entry.linkname = text if kind == tarfile.SYMTYPE else ""
                tar.addfile(entry, io.BytesIO(text.encode()) if entry.size else None)
        name = f"a.tar.{packing}" if packing else "a.tar"
        (folder / name).write_bytes(pack(buffer.getvalue()))
    (folder / "none.tar").write_text("this is no archive")


def _busybox(folder: Path) -> None:
    (folder / "busybox").write_bytes(goparts.path("busybox").read_bytes())
    (folder / "busybox").chmod(0o755)


METADATA = r"""
FROM base:1
MAINTAINER Some One <some@one.example>
ENV one=1 two="2 3" three='$one' four=$PATH
ENV old form with spaces
LABEL a=b "c d"="e f" multi="x\
y"
EXPOSE 80 8000-8002/udp 53/tcp
VOLUME /v1 /v2
VOLUME ["/v3", "/v 4"]
USER nobody:adm
WORKDIR /srv
WORKDIR sub/../deep
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=5m --timeout=3s --start-period=1500ms --retries=3 CMD test -e /x
SHELL ["/bin/sh", "-e", "-c"]
ENTRYPOINT echo $one
CMD ["x", "y \"z\""]
ARG name=value
ONBUILD RUN echo trigger
ONBUILD COPY . /ctx
"""

COPIES = r"""
FROM base:1
COPY tree /copied
COPY tree/ /tmp
COPY tree/sub/../one /one
COPY alias where /links/
COPY tree/o* tree/s?t /glob/
WORKDIR /work
COPY tree/one .
COPY tree/one named
COPY tree/one deep/er/
COPY ["tree/one", "name with space"]
COPY tree/secret /etc/
COPY tree/[p-t]e* /class/
"""

CHOWN = r"""
FROM base:1
COPY --chown=nobody:nogroup tree /by-name
COPY --chown=nobody:adm tree/one /by-group/one
COPY --chown=12:34 tree/one /etc/deeper/one
COPY --chown=55 tree/one /by-number
RUN stat -c '%n %a %u %g' /by-number /by-group/* /etc/deeper/* /by-name/*
"""

ADDS = r"""
FROM base:1
ADD a.tar /plain/
ADD a.tar.gz /gz
ADD a.tar.bz2 a.tar.xz /others/
ADD none.tar /none/
COPY a.tar /copied.tar
ADD a.tar /plain
"""

STAGES = r"""
ARG version=1
FROM base:$version AS first
RUN mkdir -p /out/sub && echo built > /out/file && chown -R 3:4 /out && chmod 4755 /out/file
FROM base:${version:-2}
COPY --from=first /out /from-name
COPY --from=0 /out/file /from/number
COPY --from=base:1 /etc/passwd /from/image
COPY --from=first --chown=nobody:4 /out /owned
FROM first as third
RUN cat /out/file
FROM third
CMD ["last"]
"""

ARGUMENTS = r"""
ARG global=outer
FROM base:1
ARG global
ARG plain
ARG default=standard
ARG given=no
ENV kept=$given
RUN echo "$global $plain $default $given $kept" > /args
RUN echo "$HTTP_PROXY" > /proxy
ARG kept=never
RUN echo "$kept" > /kept
LABEL l=$given-$global
"""

WORDS = r"""
FROM base:1
ENV a=one b=${a:-no} c=${missing:-fallback} d=${a:+set} e=${missing:+set} f="x${a}y" g=\$a h='$a'
ENV i=${c:-z} j=pre$c.post k=${a}${a} l="a \"quoted\" word" m=back\\slash
WORKDIR /${c}
COPY file $d/
USER ${b:-root}
USER root
EXPOSE $a80 ${missing:-81}
LABEL "$c"="v $i"
VOLUME /vol/$c
STOPSIGNAL ${missing:-9}
"""

RUNS = r"""
FROM base:1
RUN echo one > /one; mkdir /dir; echo two > /dir/two
RUN rm /one /etc/group && echo changed > /dir/two && ln -s two /dir/link
RUN ["sh", "-c", "echo $0 \"$@\" > /exec", "a", "b c"]
RUN rm -r /dir && mkdir /dir && touch /dir/new && chown 9:9 /dir
USER nobody
WORKDIR /tmp/mine
RUN id > /tmp/id; pwd >> /tmp/id
USER root
RUN chmod 700 /tmp && chmod u+s /bin/busybox
RUN true
SHELL ["/bin/sh", "-x", "-c"]
RUN : traced
RUN mkdir -p /a/b \
    # a comment inside
    && touch /a/b/c \

    && : end
"""

VOLUMES = r"""
FROM base:1
RUN mkdir /data && echo kept > /data/before
VOLUME /data
RUN echo lost > /data/after && ls /data
RUN ls /data
"""

PLACES = r"""
FROM base:1
RUN mkdir -p /real/inner /keep && ln -s real /linked && ln -s /real/file /to-file
RUN ln -s gone/deep /broken && echo old > /keep/tree
COPY file /linked/
COPY file /to-file
COPY file /broken
COPY tree /linked
COPY over /keep
COPY file /linked/inner/
RUN ls -R /real /keep /gone
"""

INHERITED = r"""
FROM base:1 AS one
ENTRYPOINT ["entry"]
CMD ["cmd"]
HEALTHCHECK CMD ["a", "b"]
LABEL x=1 y=2
FROM one
ENTRYPOINT ["other"]
LABEL x=3
HEALTHCHECK NONE
CMD
"""

ESCAPES = (
    "\ufeff# syntax=whatever\n# escape=`\n\n# comment\nFROM base:1\r\n"
    '   RUN echo one `\r\n  && echo two > /two`\r\n  && true\r\nENV x=a`$b y=c:\\d\nENV z="q`"r"\nCMD echo `\n end\n'
)

CASES: tuple[Case, ...] = (
    Case("metadata", METADATA),
    Case("copies", COPIES, prepare=_links),
    Case("chown", CHOWN, prepare=_links),
    Case("adds", ADDS, prepare=_archives),
    Case("stages", STAGES),
    Case("target", STAGES, flags=("--target", "First")),
    Case(
        "arguments",
        ARGUMENTS,
        flags=(
            *("--build-arg", "given=yes", "--build-arg", "unused=1", "--build-arg", "other=2"),
            *("--build-arg", "HTTP_PROXY=http://proxy.example:1", "--label", "flag=one two", "--label", "b=$x"),
        ),
    ),
    Case("words", WORDS, {"file": "f"}),
    Case("runs", RUNS),
    Case("volumes", VOLUMES),
    Case("places", PLACES, {"file": "new", "tree/inner/a": "a", "tree/b": "b", "over/tree/c": "c"}),
    Case("inherited", INHERITED),
    Case("escapes", ESCAPES),
    Case(
        "scratch",
        "FROM scratch\nCOPY busybox /bin/sh\nENV X=1\nRUN echo $X > /x\nCMD [\"/bin/sh\"]\n",
        prepare=_busybox,
    ),
    Case(
        "ignored",
        "FROM base:1\nCOPY . /all\nRUN find /all | sort\n",
        {
            ".dockerignore": "# comment\n*.log\n!keep.log\nsub/*.txt\nDockerfile\n.dockerignore\n",
            "a.log": "",
            "keep.log": "",
            "sub/a.txt": "",
            "sub/b": "",
        },
    ),
    Case("elsewhere", "FROM base:1\n", {"x/Other": "FROM base:1\nCOPY y /y\n", "y": ""}, flags=("-f", "x/Other")),
    Case("triggers", "FROM base:1\nONBUILD ARG t=1\nONBUILD COPY f /f\nONBUILD RUN echo $t > /t\n"),
    Case("triggered", "FROM triggers\nRUN cat /t\n", {"f": "f"}, flags=("--build-arg", "t=2")),
    Case("limits", "FROM base:1\nRUN df /dev/shm | tail -1 && ulimit -n && cat /etc/hosts | tail -n +1 | grep some\n",
         flags=("--shm-size", "8m", "--ulimit", "nofile=123:123", "--add-host", "some:1.2.3.4",
                "--memory", "64m", "--network", "none")),
    # What fails.
    Case("status", "FROM base:1\nRUN echo no; exit 3\n"),
    Case("executable", "FROM base:1\nRUN [\"/no/such\"]\n"),
    Case("missing", "FROM base:1\nCOPY missing /x\n"),
    Case("outside", "FROM base:1\nCOPY ../../../etc/passwd /x\n"),
    Case("several", "FROM base:1\nCOPY a b /x\n", {"a": "", "b": ""}),
    Case("nobody", "FROM base:1\nCOPY --chown=stranger a /x\n", {"a": ""}),
    Case("url", "FROM base:1\nCOPY http://localhost/x /x\n"),
    Case("nothing", "FROM base:1\nCOPY *.none /x\n"),
    Case("stage", "FROM base:1\nCOPY --from=0 /a /x\n"),
    Case("taken", "FROM base:1 AS a\nFROM base:1 AS A\n"),
    Case("blank", "FROM $none\n"),
    Case("trigger", "FROM base:1\nONBUILD FROM x\n"),
    Case("port", "FROM base:1\nEXPOSE x\n"),
    Case("signal", "FROM base:1\nSTOPSIGNAL X\n"),
    Case("substitution", "FROM base:1\nENV a=${b?not there}\n"),
    Case("pair", "FROM base:1\nENV a=b c\n"),
    Case("json", "FROM base:1\nRUN [1]\n"),
    Case("instruction", "FROM base:1\nNOTHING x\n"),
    Case("empty", ""),
    Case("comments", "# only\n"),
    Case("absent", "FROM base:1\n", flags=("-f", "Nowhere")),
    Case("unbuilt", "FROM base:1\n", flags=("--target", "none")),
    Case("beginning", "RUN true\n"),
)  # fmt: skip
