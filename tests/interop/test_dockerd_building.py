"""Ways to build on our dockerd: cache, contexts of all kinds, hostile ones, and builds that are cut short."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import random
import re
import signal
import socket
import subprocess
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

from support import goparts, host, require, soak
from support.dockerd import BUSYBOX, AnyDockerd
from support.ourdockerd import PARTS, OurDockerd
from support.process import eventually

pytestmark = [pytest.mark.interop, pytest.mark.root, pytest.mark.slow]

CLASSIC = {"DOCKER_BUILDKIT": "0"}


@pytest.fixture(scope="module")
def shared() -> Iterator[AnyDockerd]:
    require.root()
    require.go(*PARTS)
    with OurDockerd() as docker:
        yield docker
        eventually(lambda: leftovers(docker) == ([], [], []))


@pytest.fixture
def docker(shared: AnyDockerd) -> Iterator[AnyDockerd]:
    yield shared
    shared.clean()


def leftovers(docker: AnyDockerd) -> tuple[list[str], list[str], list[str]]:
    """What a build may not leave: folders, snapshots and leases of its own."""
    moby = ("--namespace", "moby")
    folders = docker.host.run(["ls", "/run/d/builds"]).stdout.split()
    snapshots = docker.containerd.go_ctr(*moby, "snapshots", "ls").stdout
    leases = docker.containerd.go_ctr(*moby, "leases", "ls").stdout
    return folders, re.findall(r"build-\w+", snapshots), re.findall(r"\S*dockerd/build\S*", leases)


def build(
    docker: AnyDockerd, folder: Path, *flags: str, check: bool = True, **files: str
) -> subprocess.CompletedProcess[str]:
    """`files`: the Dockerfile as `Dockerfile`, and others."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return docker("build", *flags, folder, check=check, env=docker.environment() | CLASSIC)


def image(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.partition("Successfully built ")[2].split()[0]


def shown(docker: AnyDockerd, name: str, *command: str) -> str:
    return docker("run", "--rm", "--network", "none", name, *command).stdout


# -- the cache ----------------------------------------------------------------------------------------------

STEPS = f"FROM {BUSYBOX}\nARG a=1\nENV x=$a\nCOPY file /file\nRUN cat /file; echo $a\n"


def test_what_was_built_is_not_built_again(docker: AnyDockerd, tmp_path: Path) -> None:
    first = build(docker, tmp_path / "c", Dockerfile=STEPS, file="one")
    os.utime(tmp_path / "c/file", (1, 1))
    os.chown(tmp_path / "c/file", 5, 5)
    again = build(docker, tmp_path / "c")
    assert again.stdout.count("Using cache") == 4 and image(again) == image(first)
    changed = build(docker, tmp_path / "c", file="two")
    assert changed.stdout.count("Using cache") == 2 and "two1\n" in changed.stdout
    argument = build(docker, tmp_path / "c", "--build-arg", "a=2")
    assert argument.stdout.count("Using cache") == 1
    assert "Using cache" not in build(docker, tmp_path / "c", "--no-cache").stdout
    (tmp_path / "c/file").chmod(0o600)
    assert build(docker, tmp_path / "c").stdout.count("Using cache") == 2


def test_cache_from_an_image_that_came_from_elsewhere(docker: AnyDockerd, tmp_path: Path) -> None:
    unique = f"LABEL unique={uuid.uuid4()}\n"
    text = STEPS.replace("ARG", f"{unique}ARG", 1)
    made = image(build(docker, tmp_path / "c", "-t", "source:1", Dockerfile=text, file="f"))
    archive = tmp_path / "source.tar"
    docker("save", "-o", archive, "source:1")
    docker("rmi", "source:1")
    docker("load", "-i", archive)
    assert "Using cache" not in build(docker, tmp_path / "c", "--cache-from", "none:1").stdout
    docker("image", "prune", "--force")
    again = build(docker, tmp_path / "c", "--cache-from", "source:1")
    assert again.stdout.count("Using cache") == 5 and image(again) == made
    more = build(docker, tmp_path / "c", "--cache-from", "source:1", Dockerfile=f"{text}RUN echo more\n")
    assert more.stdout.count("Using cache") == 5 and "more\n" in more.stdout
    less = build(docker, tmp_path / "c", "--cache-from", "source:1", file="other")
    assert less.stdout.count("Using cache") == 3
    assert shown(docker, image(less), "cat", "/file") == "other"


# -- contexts -----------------------------------------------------------------------------------------------


def archive(files: Mapping[str, str | tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
            else:
                entry = tarfile.TarInfo(name)
                entry.size = len(content.encode())
                tar.addfile(entry, io.BytesIO(content.encode()))
    return buffer.getvalue()


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo()
    entry.type, entry.linkname = kind, target
    return entry


def post(docker: AnyDockerd, query: str, body: bytes) -> list[dict[str, Any]]:
    """POST /build by hand; an answer with a status of its own is {"status", "message"}."""
    head = f"POST /v1.41/build?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(120)
        client.connect(str(docker.socket))
        client.sendall(f"{head}Content-Type: application/x-tar\r\n\r\n".encode() + body)
        answer = b""
        while block := client.recv(65536):
            answer += block
    top, _, rest = answer.partition(b"\r\n\r\n")
    status = int(top.split()[1])
    if status != 200:
        return [{"status": status, **json.loads(rest)}]
    return [json.loads(line) for line in rest.decode().splitlines() if line.startswith("{")]


def said(lines: list[dict[str, Any]]) -> str:
    return "".join(line.get("stream", line.get("error", "")) for line in lines)


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["plain", "gzip", "bzip2", "xz", "zstd"],
)
def test_contexts_may_be_compressed(docker: AnyDockerd, pack: Any) -> None:
    files = {"Dockerfile": f"FROM {BUSYBOX}\nCOPY f /f\nRUN cat /f\n", "f": f"content {uuid.uuid4()}\n"}
    assert files["f"] in said(post(docker, "rm=1", pack(archive(files))))


def test_what_is_no_context(docker: AnyDockerd) -> None:
    whole = archive({"Dockerfile": f"FROM {BUSYBOX}\n", "f": "x" * 5000})
    for body in (b"this is no archive", b"x" * 5000, gzip.compress(whole)[:100], whole[:2500]):
        (answer,) = post(docker, "", body)
        assert answer["status"] == 500 and answer["message"]
    (answer,) = post(docker, "", archive({"f": ""}))
    assert answer == {"status": 500, "message": "Cannot locate specified Dockerfile: Dockerfile"}
    (answer,) = post(docker, "", b"")
    assert answer["message"] == "Cannot locate specified Dockerfile: Dockerfile"


def test_contexts_stay_in_their_folder(docker: AnyDockerd) -> None:
    docker.host.run(["sh", "-c", "echo secret > /run/secret"])
    base = {"Dockerfile": f"FROM {BUSYBOX}\nCOPY . /all\nCOPY there/secret* /got/\nRUN cat /got/*\n"}
    hostile: list[dict[str, str | tarfile.TarInfo]] = [
        {"../../escaped": "x"},
        {"there": link("/run"), "there/planted": "x"},
        {"there": link("../../.."), "there/run/planted": "x"},
        {"there/secret": link("/run/secret", tarfile.LNKTYPE)},
        {"there/secret": link("../../../secret", tarfile.LNKTYPE)},
        {"there/secret": link("/run/secret")},
        {"there": link("/run")},
    ]
    for files in hostile:
        answer = said(post(docker, "", archive({**base, **files})))
        assert "secret\n" not in answer, files
        assert "Successfully built" not in answer, files
    found = docker.host.run(
        ["sh", "-c", "ls -d /run/planted /run/d/planted /run/escaped /run/d/escaped /planted"]
    )
    assert found.stdout == ""
    for query in ("dockerfile=../../../../run/secret", "dockerfile=there/secret", "dockerfile=/run/secret"):
        (answer2,) = post(docker, query, archive({"there": link("/run")}))
        assert "Cannot locate specified Dockerfile" in answer2["message"]
    fifo = tarfile.TarInfo()
    fifo.type = tarfile.FIFOTYPE
    (answer2,) = post(docker, "", archive({"Dockerfile": fifo}))
    assert "is no regular file" in answer2["message"]


def test_images_stay_in_their_root(docker: AnyDockerd, tmp_path: Path) -> None:
    """Links of an image lead to places in it, whether one copies to them or from them."""
    text = f"""
    FROM {BUSYBOX} AS hostile
    RUN ln -s /run /out && ln -s ../../../../../run/d /up && ln -s /run/secret /file
    RUN mkdir /run && echo mine > /run/mine
    FROM hostile
    COPY f /out/planted
    COPY f /up/planted
    COPY --from=hostile /out/mine /copied
    RUN cat /run/planted /run/d/planted /copied
    """
    docker.host.run(["sh", "-c", "echo secret > /run/secret"])
    done = build(docker, tmp_path / "c", Dockerfile=text, f="content\n")
    assert "content\ncontent\nmine\n" in done.stdout
    assert docker.host.run(["sh", "-c", "ls -d /run/planted /run/d/planted"]).stdout == ""
    text += "COPY --from=hostile /file /stolen\n"
    failed = build(docker, tmp_path / "c", check=False, Dockerfile=text)
    assert "COPY failed: stat file: file does not exist" in failed.stderr


@contextmanager
def served(docker: AnyDockerd, folder: Path) -> Iterator[str]:
    """The folder by HTTP, inside the private host."""
    command: list[str | Path] = [
        "python3",
        "-u",
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "--directory",
        folder,
        "8123",
    ]
    server = docker.host.popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    with server.stdout:
        assert b"8123" in server.stdout.readline()
        try:
            yield "http://127.0.0.1:8123"
        finally:
            os.kill(host.child_of(server.pid), signal.SIGTERM)
            server.wait()


def test_urls(docker: AnyDockerd, tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    (tmp_path / "www/a.txt").write_text("from afar")
    os.utime(tmp_path / "www/a.txt", (1_600_000_000, 1_600_000_000))
    (tmp_path / "www/a.tar").write_bytes(archive({"inside": "x"}))
    (tmp_path / "www/c.tar.gz").write_bytes(
        gzip.compress(
            archive({"sub/Other": f"FROM {BUSYBOX}\nCOPY x /x\nRUN cat /x\n", "x": "of the context"})
        )
    )
    (tmp_path / "www/plain.txt").write_text(f"FROM {BUSYBOX}\nRUN echo alone\n")
    with served(docker, tmp_path / "www") as url:
        text = f"FROM {BUSYBOX}\nADD {url}/a.txt /dir/\nADD {url}/a.tar /b.tar\n"
        text += "RUN stat -c '%a %Y %u' /dir/a.txt; ls /b.tar\n"
        done = build(docker, tmp_path / "c", Dockerfile=text)
        assert "600 1600000000 0\n/b.tar\n" in done.stdout
        assert build(docker, tmp_path / "c").stdout.count("Using cache") == 3
        assert "of the context" in said(post(docker, f"dockerfile=sub/Other&remote={url}/c.tar.gz", b""))
        assert "alone\n" in said(post(docker, f"remote={url}/plain.txt", b""))
        (answer,) = post(docker, f"remote={url}/none", b"")
        assert answer["status"] == 500 and "with status 404" in answer["message"]
        missing = build(
            docker, tmp_path / "c", check=False, Dockerfile=f"FROM {BUSYBOX}\nADD {url}/none /x\n"
        )
        assert "ADD failed: failed to GET" in missing.stderr and "404" in missing.stderr
    (answer,) = post(docker, "remote=https://example.org/repository.git", b"")
    assert answer["status"] == 501 and "git repository" in answer["message"]
    (answer,) = post(docker, "remote=nonsense", b"")
    assert answer["message"] == "remoteURL (nonsense) could not be recognized as URL"


def test_what_this_builder_has_not(docker: AnyDockerd, tmp_path: Path) -> None:
    (answer,) = post(docker, "version=2", b"")
    assert answer["status"] == 501 and "DOCKER_BUILDKIT=0" in answer["message"]
    (answer,) = post(docker, "squash=1", b"")
    assert answer["message"] == "squash is only supported with experimental mode"
    for text in ("RUN --mount=type=cache,target=/x true", "COPY --link a b", "RUN <<E\ntrue\nE"):
        failed = build(docker, tmp_path / "c", check=False, Dockerfile=f"FROM {BUSYBOX}\n{text}\n", a="")
        assert "BuildKit" in failed.stderr
    for query in ("t=UPPER", "t=a@sha256:" + "0" * 64, "buildargs=[]", "memory=much", "platform=a/b/c/d"):
        (answer,) = post(docker, query, b"")
        assert answer["status"] == 400, query


def test_a_quiet_build_says_the_id_alone(docker: AnyDockerd, tmp_path: Path) -> None:
    done = build(docker, tmp_path / "c", "-q", "--iidfile", str(tmp_path / "id"), Dockerfile=STEPS, file="q")
    assert done.stdout.strip() == (tmp_path / "id").read_text().strip()
    failed = build(
        docker, tmp_path / "c", "-q", check=False, Dockerfile=f"FROM {BUSYBOX}\nRUN echo why; false\n"
    )
    assert "why" in failed.stdout + failed.stderr and "returned a non-zero code: 1" in failed.stderr


def test_containers_of_steps_stay_if_asked(docker: AnyDockerd, tmp_path: Path) -> None:
    text = f"FROM {BUSYBOX}\nRUN echo {uuid.uuid4()}\nRUN exit 7\n"
    failed = build(docker, tmp_path / "c", check=False, Dockerfile=text)
    assert failed.returncode == 7 and failed.stdout.count("Removing intermediate") == 1
    (left,) = docker("ps", "-aq").stdout.split()
    docker("rm", left)
    build(docker, tmp_path / "c", "--force-rm", check=False)
    assert docker("ps", "-aq").stdout == ""
    build(docker, tmp_path / "c", "--rm=false", "--no-cache", check=False)
    assert len(docker("ps", "-aq").stdout.split()) == 2


# -- cut short ----------------------------------------------------------------------------------------------

SLEEPING = f"FROM {BUSYBOX}\nCOPY f /f\nRUN echo begun; sleep 1000\n"


@contextmanager
def sleeping(docker: AnyDockerd, folder: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """A build that stands in a RUN."""
    folder.mkdir()
    (folder / "Dockerfile").write_text(SLEEPING)
    (folder / "f").write_text(str(uuid.uuid4()))
    command: list[str | Path] = [goparts.path("docker"), "build", *flags, folder]
    environment = docker.environment() | CLASSIC
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as client:
        assert client.stdout is not None
        while (line := client.stdout.readline()) != "begun\n":
            assert line
        yield client


def test_a_client_that_leaves_leaves_nothing(docker: AnyDockerd, tmp_path: Path) -> None:
    with sleeping(docker, tmp_path / "c") as client:
        assert docker("ps", "-q").stdout
        client.kill()
    eventually(lambda: docker("ps", "-aq").stdout == "")
    eventually(lambda: leftovers(docker) == ([], [], []))


def test_a_crash_leaves_nothing(docker: AnyDockerd, tmp_path: Path) -> None:
    with sleeping(docker, tmp_path / "c"):
        docker.kill9()
    docker.start()
    eventually(lambda: docker("ps", "-aq").stdout == "")
    eventually(lambda: leftovers(docker) == ([], [], []))
    text = SLEEPING.replace("sleep 1000", "true")
    assert build(docker, tmp_path / "c", Dockerfile=text).stdout.count("Using cache") == 1


STEP_BY_STEP = f"""
FROM {BUSYBOX} AS one
WORKDIR /work
COPY f .
RUN cat f && mkdir d && cp f d/
FROM {BUSYBOX}
ENV a=b
VOLUME /v
COPY --from=one /work /work
RUN rm /work/d/f && echo x > /v/x
CMD ["cat", "/work/f"]
"""


@pytest.mark.parametrize("victim", ["client", "daemon"])
def test_a_build_may_be_cut_at_any_moment(docker: AnyDockerd, tmp_path: Path, victim: str) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/Dockerfile").write_text(STEP_BY_STEP)
    moments = random.Random(victim)
    command: list[str | Path] = [goparts.path("docker"), "build", tmp_path / "c"]
    for _ in range(40 if soak.SOAK else 4):
        (tmp_path / "c/f").write_text(str(uuid.uuid4()))
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env=docker.environment() | CLASSIC
        ) as client:
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(moments.uniform(0.05, 2))
            if victim == "client":
                client.kill()
            else:
                docker.kill9()
        if victim == "daemon":
            docker.start()
        eventually(lambda: docker("ps", "-aq").stdout == "")
        eventually(lambda: leftovers(docker) == ([], [], []))
        eventually(lambda: docker("volume", "ls", "-q").stdout == "")
        done = build(docker, tmp_path / "c")
        assert shown(docker, image(done)) == (tmp_path / "c/f").read_text()


def test_a_build_is_cancelled_by_its_id(docker: AnyDockerd) -> None:
    files = {"Dockerfile": f"FROM {BUSYBOX}\nRUN sleep 1000\n"}
    body = archive(files)
    head = (
        f"POST /v1.41/build?buildid=mine HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(120)
        client.connect(str(docker.socket))
        client.sendall(head + body)
        eventually(lambda: docker("ps", "-q").stdout != "")
        docker.call(
            ["curl", "-sS", "--unix-socket", docker.socket, "-XPOST", "http://x/v1.41/build/cancel?id=mine"]
        )
        while client.recv(65536):
            pass
    eventually(lambda: docker("ps", "-aq").stdout == "")


def test_a_prune_of_the_cache_is_answered(docker: AnyDockerd) -> None:
    assert "0B" in docker("builder", "prune", "--force").stdout
