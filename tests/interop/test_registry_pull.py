"""Pull and push through Debian's docker-registry: our client on both daemons, beside Debian's ctr."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from longshore import registry as registry_package
from longshore.api.errors import DataLoss, Error, InvalidArgument, NotFound, Unauthenticated
from longshore.client import AsyncClient, Client
from longshore.client.oci import parse_platform
from longshore.client.pull import INTERRUPTED
from longshore.client.registries import Progress, options
from longshore.linux import mounts
from longshore.registry.client import Options
from longshore.registry.hosts import TLS, Settings
from longshore.registry.policy import Policy
from support import ctr, goparts, images, layers, require
from support.badregistry import BadRegistry
from support.daemon import LONGSHORE, Longshore
from support.realdaemon import RealContainerd
from support.registry import PASSWORD, STYLES, USER, Registry, publish, publish_index
from support.soak import times
from support.tokens import TokenServer

Daemon = RealContainerd | Longshore

IMPATIENT = Policy(attempts=2, first_delay=0.02, longest_delay=0.1)
PATIENT = Policy(attempts=200, first_delay=0.05, longest_delay=0.5)  # longer than any registry takes to start


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    require.go("docker-registry")
    with Registry() as running:
        yield running


@pytest.fixture(scope="module")
def real() -> Iterator[RealContainerd]:
    require.root()
    with RealContainerd() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def ours() -> Iterator[Longshore]:
    require.root()
    with Longshore() as daemon:
        yield daemon


@pytest.fixture(scope="module", params=["real", "ours"])
def daemon(request: pytest.FixtureRequest) -> Daemon:
    found: Daemon = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module", autouse=True)
def published(registry: Registry) -> None:
    """The images that most tests pull."""

    async def push() -> None:
        for style in STYLES:
            await publish(registry.name(f"tree/{style}:1"), TREE, style=style)
        many = [layers.layer(layers.member(f"f{n}", data=str(n).encode())) for n in range(126)]
        await publish(registry.name("tree/many:1"), many)
        there = [
            await publish(registry.name("tree/index:x"), [TREE[0], tagged(text)], platform=text)
            for text in ("linux/arm64", "linux/amd64", "linux/arm/v7")
        ]
        await publish_index(registry.name("tree/index:1"), there)

    asyncio.run(push())


def tagged(text: str) -> bytes:
    return layers.layer(layers.member("platform", data=text.encode()))


def busybox_like() -> list[bytes]:
    """Layers with what layers can have: modes, owners, links, devices, xattrs, whiteouts, opaque directories."""
    directory, member = layers.directory, layers.member
    return [
        layers.layer(
            directory("tmp", mode=0o1777),
            directory("etc", mode=0o755, mtime=1_600_000_000),
            member("etc/shadow", data=b"x", mode=0o640, uid=0, gid=42, mtime=1_600_000_001),
            directory("old"),
            member("old/a", data=b"a"),
            member("old/b", data=b"b"),
            directory("kept"),
            member("kept/gone", data=b"1"),
            member("kept/stays", data=b"2"),
            member("su", data=b"#!", mode=0o4755, uid=7, gid=8),
            layers.hardlink("su2", "su"),
            layers.symlink("link", "/etc/shadow", mode=0o777),
            member("cap", data=b"c", mode=0o755, xattrs={"user.color": b"red"}),
            member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            member("pipe", tarfile.FIFOTYPE, mode=0o600),
        ),
        layers.layer(
            directory("old"),
            directory("kept"),
            directory("tmp", mode=0o1777),
            member("old/.wh..wh..opq"),
            member("old/new", data=b"new"),
            member("kept/.wh.gone"),
            member(".wh.link"),
            member("tmp/file", data=b"t"),
        ),
        layers.layer(directory("etc"), member("etc/shadow", data=b"other", mode=0o600), directory("link")),
    ]


TREE = busybox_like()


# -- helpers --------------------------------------------------------------------------------------------------


def call(
    program: Path, daemon: Daemon, namespace: str, *words: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """A ctr on the daemon from outside of its private host, where the registry is."""
    line = [str(program), *(["ctr"] if program == LONGSHORE else [])]
    line += ["--address", str(daemon.address), "--namespace", namespace, *words]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, env={**os.environ, **env}
    )


def go_ctr(daemon: Daemon, namespace: str, *words: str) -> str:
    return ctr.checked(call(goparts.path("ctr"), daemon, namespace, *words)).stdout


def our_ctr(daemon: Daemon, namespace: str, *words: str, **env: str) -> str:
    return ctr.checked(call(LONGSHORE, daemon, namespace, *words, **env)).stdout


def unpacked(daemon: Daemon, namespace: str, name: str, folder: Path) -> dict[str, tuple[Any, ...]]:
    """The image's file system, entry by entry."""
    # The lease is for the look, which no collection may take away.
    with Client(str(daemon.address), namespace) as client, client.leased() as leased:
        chain = client.images.get(name).chain_id()
        snapshots = leased.snapshots()
        key = f"look-{random.getrandbits(32)}"
        plan = [mounts.Mount(each.type, each.source, each.options) for each in snapshots.view(key, chain)]
        folder.mkdir()
        try:
            with mounts.mounted(plan, str(folder)):
                return layers.tree(folder)
        finally:
            snapshots.remove(key)


def state(daemon: Daemon, namespace: str) -> dict[str, Any]:
    """What a pull left: blobs and snapshots with labels, images; nothing of when."""
    with Client(str(daemon.address), namespace) as client:
        return {
            "content": {info.digest: dict(info.labels) for info in client.content.list()},
            # Their label (snapshot.ref) is newer than Debian's ctr, which unpacks without it.
            "snapshots": {info.name: (info.kind, info.parent) for info in client.snapshots().list()},
            "images": {
                image.name: (image.record.target.digest, dict(image.labels)) for image in client.images.list()
            },
            "leases": [lease.id for lease in client.leases.list()],
            "ingests": [status.ref for status in client.content.statuses()],
        }


# -- the same as containerd's own client ----------------------------------------------------------------------


@pytest.mark.parametrize("image", ["tree/oci:1", "tree/docker:1", "tree/zstd:1", "tree/plain:1"])
def test_labels_snapshots_and_tree_are_those_of_gos_client(
    image: str, registry: Registry, real: RealContainerd, ours: Longshore, tmp_path: Path
) -> None:
    name, namespace = registry.name(image), image.replace("/", "-").replace(":", "-")
    go_ctr(real, f"go-{namespace}", "images", "pull", "--plain-http", name)
    our_ctr(real, f"py-{namespace}", "images", "pull", name)
    our_ctr(ours, f"py-{namespace}", "images", "pull", name)
    expected = state(real, f"go-{namespace}")
    assert state(real, f"py-{namespace}") == expected
    assert state(ours, f"py-{namespace}") == expected
    tree = unpacked(real, f"go-{namespace}", name, tmp_path / "go")
    assert len(tree) > 10
    assert unpacked(real, f"py-{namespace}", name, tmp_path / "py") == tree
    assert unpacked(ours, f"py-{namespace}", name, tmp_path / "ours") == tree


def test_an_index(registry: Registry, daemon: Daemon, tmp_path: Path) -> None:
    name = registry.name("tree/index:1")
    our_ctr(daemon, "index", "images", "pull", name)
    assert unpacked(daemon, "index", name, tmp_path / "amd64")["platform"]
    with Client(str(daemon.address), "index") as client:
        assert client.images.get(name).platforms() == ["linux/amd64"]
        image = client.images.pull(name, platform=parse_platform("linux/arm/v7"))
        assert image.is_unpacked("overlayfs")
        with pytest.raises(NotFound, match="there is linux/amd64, linux/arm/v7, linux/arm64") as caught:
            client.images.pull(name, platform=parse_platform("linux/s390x"))
        assert "--platform" in caught.value.hint
    our_ctr(daemon, "index", "images", "pull", "--all-platforms", name)
    with Client(str(daemon.address), "index") as client:
        assert sorted(client.images.get(name).platforms()) == ["linux/amd64", "linux/arm/v7", "linux/arm64"]


def test_126_layers(registry: Registry, daemon: Daemon, tmp_path: Path) -> None:
    name = registry.name("tree/many:1")
    our_ctr(daemon, "many", "images", "pull", name)
    assert len(unpacked(daemon, "many", name, tmp_path / "many")) >= 126


def test_a_second_pull_fetches_nothing(registry: Registry, daemon: Daemon) -> None:
    name, news = registry.name("tree/oci:1"), list[Progress]()
    our_ctr(daemon, "twice", "images", "pull", name)
    with Client(str(daemon.address), "twice") as client:
        client.images.pull(name, progress=news.append)
    assert {each.stage for each in news} == {"resolved", "exists"}


def test_pulled_images_run(registry: Registry, ours: Longshore, tmp_path: Path) -> None:
    name = registry.name("box/run:1")
    asyncio.run(publish(name, [images.busybox_layer()]))
    ours.ctr("images", "pull", name)
    assert ours.ctr("run", "--rm", name, "pulled", "echo", "hello").stdout == "hello\n"


# -- pushing --------------------------------------------------------------------------------------------------


def test_push_and_what_others_make_of_it(registry: Registry, daemon: Daemon, tmp_path: Path) -> None:
    archive = images.busybox_archive(tmp_path, "example.org/box:1")
    our_ctr(daemon, "push", "images", "import", "--no-unpack", str(archive))
    name = registry.name(f"pushed/{type(daemon).__name__.lower()}:1")
    said = our_ctr(daemon, "push", "images", "push", name, "example.org/box:1")
    assert "uploaded" in said
    go_ctr(daemon, "pushed", "images", "pull", "--plain-http", name)
    with Client(str(daemon.address), "push") as client:
        digest = client.images.get("example.org/box:1").record.target.digest
        assert said.split()[-1] == digest
        stages = set[str]()
        assert (
            client.images.push(name, source="example.org/box:1", progress=lambda news: stages.add(news.stage))
            == digest
        )
        assert "uploading" not in stages
    with Client(str(daemon.address), "pushed") as client:
        assert client.images.get(name).record.target.digest == digest


def test_a_push_elsewhere_mounts(registry: Registry, daemon: Daemon) -> None:
    kind = type(daemon).__name__.lower()
    with Client(str(daemon.address), "mount") as client:
        source, stages = registry.name("tree/oci:1"), list[str]()
        client.images.pull(source)
        client.images.push(
            registry.name(f"mounted/{kind}:1"), source=source, progress=lambda news: stages.append(news.stage)
        )
        assert stages.count("mounted") == 4 and "uploading" not in stages


def test_an_index_goes_as_a_whole_or_by_platform(registry: Registry, ours: Longshore) -> None:
    with Client(str(ours.address), "partial") as client:
        source = registry.name("tree/index:1")
        client.images.pull(source)
        with pytest.raises(NotFound, match="is not in the store") as caught:
            client.images.push(registry.name("index/whole:1"), source=source)
        assert "--all-platforms" in caught.value.hint
        client.images.push(
            registry.name("index/one:1"), source=source, platform=parse_platform("linux/amd64")
        )
        client.images.pull(source, all_platforms=True)
        whole = client.images.push(registry.name("index/whole:1"), source=source)
        assert whole == client.images.get(source).record.target.digest
        client.images.pull(registry.name("index/whole:1"), platform=parse_platform("linux/arm64"))


def test_chunked_push(registry: Registry, ours: Longshore) -> None:
    name = registry.name("chunked/box:1")
    asyncio.run(publish(name, [noise(5 << 20)], style="plain", options=Options(chunk_size=1 << 20)))
    with Client(str(ours.address), "chunked") as client:
        client.images.pull(name)


# -- authentication and TLS -----------------------------------------------------------------------------------


def test_tls_and_basic_authentication(daemon: Daemon, tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf, ca = authority.issue_cert("localhost"), tmp_path / "ca.crt"
    authority.cert_pem.write_to_path(str(ca))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "crt"))
    leaf.private_key_pem.write_to_path(str(tmp_path / "key"))
    kind = type(daemon).__name__
    with Registry(tls=(tmp_path / "crt", tmp_path / "key"), htpasswd=True) as guarded:
        name = guarded.name("a/b:1")
        tls = Settings(tls=TLS((str(ca),)))
        pushing = options(user=f"{USER}:{PASSWORD}", registry=guarded.address, ca=str(ca))
        assert pushing.settings == tls
        asyncio.run(publish(name, TREE, options=pushing))
        flags = ("--tlscacert", str(ca), "--user", f"{USER}:{PASSWORD}")
        our_ctr(daemon, f"tls-{kind}", "images", "pull", *flags, name)
        our_ctr(daemon, f"tls-{kind}", "images", "push", *flags, guarded.name("c/d:1"), name)

        # The same from files: hosts.toml names the CA, docker's config.json the user.
        (tmp_path / "certs" / guarded.address).mkdir(parents=True)
        (tmp_path / "certs" / guarded.address / "hosts.toml").write_text(
            f'server = "https://{guarded.address}"\n[host."https://{guarded.address}"]\nca = "{ca}"\n'
        )
        auth = {"auths": {guarded.address: {"username": USER, "password": PASSWORD}}}
        (tmp_path / "config.json").write_text(json.dumps(auth))
        found = ("images", "pull", "--hosts-dir", str(tmp_path / "certs"), guarded.name("c/d:1"))
        our_ctr(daemon, f"tls2-{kind}", *found, DOCKER_CONFIG=str(tmp_path))
        go_ctr(daemon, f"tls-go-{kind}", *found[:-1], "--user", f"{USER}:{PASSWORD}", found[-1])
        assert state(daemon, f"tls2-{kind}") == state(daemon, f"tls-go-{kind}")

        for words, expected, hint in (
            (("--tlscacert", str(ca)), "wants a user name and password", "--user"),
            (("--tlscacert", str(ca), "--user", "anna:no"), "did not accept", "docker login"),
            (("--user", f"{USER}:{PASSWORD}"), "not trusted", "--tlscacert"),
            (("--tlscacert", "/nothing"), "/nothing: no such file", "PEM"),
        ):
            line = ("images", "pull", *words, name)
            done = call(LONGSHORE, daemon, f"tls-{kind}", *line, DOCKER_CONFIG="/nonexistent")
            assert done.returncode == 1 and expected in done.stderr and hint in done.stderr


@pytest.mark.parametrize("oauth", [True, False])
def test_tokens(oauth: bool, daemon: Daemon, tmp_path: Path) -> None:
    kind = f"{type(daemon).__name__}-{oauth}"
    with (
        TokenServer(tmp_path, oauth=oauth, **{USER: PASSWORD}) as tokens,
        Registry(token=tokens.table()) as guarded,
        Client(str(daemon.address), f"tokens-{kind}") as client,
    ):
        anna = options(user=f"{USER}:{PASSWORD}", registry=guarded.address)
        asyncio.run(publish(guarded.name("a/b:1"), TREE, options=anna))
        assert tokens.asked[0][0] == "POST" and tokens.asked[-1][0] == ("POST" if oauth else "GET")
        before = len(tokens.asked)
        client.images.pull(guarded.name("a/b:1"))  # anonymous
        assert [form["scope"] for _, form in tokens.asked[before:]] == [["repository:a/b:pull"]]
        client.images.push(
            guarded.name("c/d:1"), source=guarded.name("a/b:1"), registry=anna
        )  # mounts from a/b
        scopes = {scope for _, form in tokens.asked for scope in " ".join(form["scope"]).split()}
        assert {"repository:a/b:pull", "repository:c/d:pull,push"} <= scopes
        with pytest.raises(Unauthenticated, match="refuses the tokens") as caught:
            client.images.push(guarded.name("e/f:1"), source=guarded.name("a/b:1"))
        assert "docker login" in caught.value.hint
        wrong = options(user=f"{USER}:no", registry=guarded.address)
        with pytest.raises(Unauthenticated, match="answered 401"):
            client.images.pull(guarded.name("a/b:1"), registry=wrong)


# -- breaks ---------------------------------------------------------------------------------------------------


def noise(size: int, seed: int | None = None) -> bytes:
    data = random.Random(seed).randbytes(size)
    return layers.layer(layers.member(f"noise{seed}", data=data))


@pytest.mark.parametrize("round", range(times(5, 20)))
def test_a_registry_killed_in_the_middle(round: int, daemon: Daemon) -> None:
    """In even rounds the pull fails and a second one goes on; in odd ones the registry returns during the first."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    dice = random.Random(seed)
    parts = [noise(size << 20, seed + size) for size in (2, 5, 9)]
    with Registry() as breaking:
        name, namespace = breaking.name("a/b:1"), f"kill{round}"
        asyncio.run(publish(name, parts, style="plain"))
        total = sum(map(len, parts))
        at, came, first = dice.randrange(total // 20, total * 9 // 10), dict[str, int](), dict[str, int]()
        timers = list[threading.Timer]()

        def watch(news: Progress) -> None:
            if news.stage == "waiting":
                return
            first.setdefault(news.digest, news.offset)
            came[news.digest] = news.offset
            if sum(came.values()) >= at and not timers:
                breaking.kill()
                timers.append(threading.Timer(0.2, breaking.start))
                if round % 2:
                    timers[0].start()

        with Client(str(daemon.address), namespace) as client:
            policy = PATIENT if round % 2 else IMPATIENT
            try:
                client.images.pull(name, registry=options(policy=policy), progress=watch)
            except Error as error:
                assert not round % 2 and error.hint
                client.leases.delete(client.leases.create().id, sync=True)  # a collection takes none of it
                held = {status.ref: status.offset for status in client.content.statuses()}
                breaking.start()
                first.clear()
                client.images.pull(name, registry=options(policy=policy), progress=watch)
                resumed = {ref: offset for ref, offset in held.items() if ref.startswith("layer-") and offset}
                # A daemon may still have been writing what had reached it.
                assert all(first[ref.removeprefix("layer-")] >= offset for ref, offset in resumed.items())
            assert timers
            for timer in timers:
                if timer.ident is not None:
                    timer.join()
            image = client.images.get(name)
            assert image.is_unpacked("overlayfs")
            assert not client.content.statuses() and not client.leases.list()
            client.images.delete(name, sync=True)


async def test_a_puller_killed_in_the_middle(daemon: Daemon) -> None:
    """kill -9 of our ctr; the next pull asks for the rest only."""
    data = noise(6 << 20)
    async with BadRegistry() as server:
        server.add_image("1", [data], [layers.digest(data)])
        layer = layers.digest(data)
        server.blobs[server.tags["1"]] = retyped(server.blobs[server.tags["1"]])
        server.tags["1"] = rename(server, server.tags["1"])
        hang = [True]

        async def slow(request: Any) -> Any:
            if hang and server.asked(request) == ("blobs", layer):
                return await server.send(request, data, {}, hang_after=4 << 20)
            return None

        server.faults.append(slow)
        namespace = f"puller-{type(daemon).__name__}"
        line = [LONGSHORE, "ctr", "--address", daemon.address, "--namespace", namespace]
        line += ["images", "pull", "--plain-http", f"{server.address}/a:1"]
        puller = await asyncio.create_subprocess_exec(*map(str, line), stdout=subprocess.DEVNULL)
        async with AsyncClient(str(daemon.address), namespace) as client:
            async with asyncio.timeout(60):
                while not any(s.offset >= 3 << 20 for s in await client.content.statuses()):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            puller.kill()
            await puller.wait()
            hang.clear()
            server.requests.clear()
            assert len(await client.leases.list()) == 1  # what came is kept for a day
            await client.images.pull(f"{server.address}/a:1", registry=options(plain_http=True))
            assert await client.leases.list() == []
        (asked,) = [r for r in server.requests if server.asked(r) == ("blobs", layer)]
        assert (asked.http_range.start or 0) >= 3 << 20


async def test_an_importer_killed_in_the_middle(daemon: Daemon, tmp_path: Path) -> None:
    """kill -9 of our ctr while the archive comes through a pipe; the next import ends what it left."""
    path = images.oci_archive(tmp_path / "a.tar", "example.org/killed:1", [noise(6 << 20)], compress=False)
    archive, namespace = path.read_bytes(), f"import-{type(daemon).__name__}"
    line = [LONGSHORE, "ctr", "--address", daemon.address, "--namespace", namespace, "images", "import", "-"]
    importer = await asyncio.create_subprocess_exec(*map(str, line), stdin=subprocess.PIPE)
    assert importer.stdin is not None
    async with AsyncClient(str(daemon.address), namespace) as client:
        try:
            importer.stdin.write(archive[: len(archive) * 2 // 3])
            async with asyncio.timeout(60):
                while not await client.content.statuses():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            importer.kill()
            await importer.wait()
            importer.stdin.close()
        assert len(await client.leases.list()) == 1
        await client.images.import_archive(io.BytesIO(archive))
        await client.leases.delete((await client.leases.create()).id, sync=True)
        assert await client.leases.list() == []
        assert await client.content.statuses() == []


def retyped(blob: tuple[str, bytes]) -> tuple[str, bytes]:
    """Its layers are uncompressed."""
    return blob[0], blob[1].replace(b".tar+gzip", b".tar")


def rename(server: BadRegistry, digest: str) -> str:
    media_type, data = server.blobs[digest]
    return str(server.add(data, media_type)["digest"])


async def test_lies_never_become_images(daemon: Daemon) -> None:
    """A wrong digest, through the whole stack: nothing is recorded, and nothing bad is kept for a resume."""
    data = noise(3 << 20)
    async with BadRegistry() as server:
        server.add_image("1", [data], [layers.digest(data)])
        server.blobs[server.tags["1"]] = retyped(server.blobs[server.tags["1"]])
        server.tags["1"] = rename(server, server.tags["1"])
        layer = layers.digest(data)
        server.blobs[layer] = ("", data[:-1] + b"\1")
        async with AsyncClient(str(daemon.address), f"lies-{type(daemon).__name__}") as client:
            name, chosen = f"{server.address}/a:1", options(plain_http=True, policy=IMPATIENT)
            with pytest.raises(Error, match="has the digest"):
                await client.images.pull(name, registry=chosen)
            assert await client.images.list() == []
            assert await client.content.statuses() == []
            server.blobs[layer] = ("", data)
            await client.images.pull(name, registry=chosen)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("manifest", {"layers": {}}),
        ("manifest", {"layers": [None]}),
        ("manifest", {"config": {"digest": 5}}),
        ("manifest", {"config": None}),
        ("manifest", {"annotations": {"a": 1}}),
        ("config", {"config": {"Env": True}}),
        ("config", {"config": {"User": [None]}}),
        ("config", {"rootfs": {"diff_ids": "sha256"}}),
        ("config", {"rootfs": None}),
        ("config", {"architecture": {}}),
        ("config", {"os": "\ud800"}),
        ("index", {"manifests": [{"platform": [1]}]}),
        ("index", {"manifests": [{"annotations": [1]}]}),
        ("index", {"manifests": [{"size": 1 << 70}]}),
    ],
)
async def test_documents_of_another_form(kind: str, change: dict[str, Any], ours: Longshore) -> None:
    """Digests agree, the JSON is what no image has: an error with words, and nothing begun is left."""
    async with BadRegistry() as server:
        entry = server.add_image("1", [TREE[2]], [layers.digest(TREE[2])])
        manifest = json.loads(server.blobs[entry["digest"]][1])
        config = json.loads(server.blobs[manifest["config"]["digest"]][1])
        manifest["config"] = server.add(json.dumps(config | (change if kind == "config" else {})).encode())
        manifest["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json"
        manifest |= change if kind == "manifest" else {}
        entry = server.add(json.dumps(manifest).encode(), entry["mediaType"])
        if kind == "index":
            index = {"manifests": [entry | change["manifests"][0]]}
            entry = server.add(json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json")
        server.tags["1"] = entry["digest"]
        async with AsyncClient(str(ours.address), "forms") as client:
            with pytest.raises((DataLoss, InvalidArgument)):
                await client.images.pull(f"{server.address}/a:1", registry=options(policy=IMPATIENT))
            assert await client.images.list() == []
            assert [lease for lease in await client.leases.list() if INTERRUPTED not in lease.labels] == []


async def test_a_size_of_another_namespaces_blob(daemon: Daemon) -> None:
    """A blob that is here already, under a manifest that lies about its size, isn't tried for ever."""
    async with BadRegistry() as server:
        server.add_image("1", [TREE[2]], [layers.digest(TREE[2])])
        server.blobs[server.tags["1"]] = retyped(server.blobs[server.tags["1"]])
        server.tags["1"] = rename(server, server.tags["1"])
        async with AsyncClient(str(daemon.address), "honest") as client:
            await client.images.pull(f"{server.address}/a:1")
        manifest = json.loads(server.blobs[server.tags["1"]][1])
        manifest["layers"][0]["size"] = 0
        server.tags["1"] = server.add(json.dumps(manifest).encode(), manifest["mediaType"])["digest"]
        async with AsyncClient(str(daemon.address), "lied-to") as client:
            with pytest.raises(DataLoss):
                await client.images.pull(f"{server.address}/a:1", registry=options(policy=IMPATIENT))
            assert await client.images.list() == []


async def test_mirrors_that_fail_in_the_middle_of_a_blob(daemon: Daemon, tmp_path: Path) -> None:
    data = noise(6 << 20)
    async with BadRegistry() as mirror, BadRegistry() as origin:
        for server in (mirror, origin):
            server.add_image("1", [data], [layers.digest(data)])
            server.blobs[server.tags["1"]] = retyped(server.blobs[server.tags["1"]])
            server.tags["1"] = rename(server, server.tags["1"])

        async def drop(request: Any) -> Any:
            if mirror.asked(request) == ("blobs", layers.digest(data)):
                return await mirror.send(
                    request, data, {}, drop_after=2 << 20 if not request.http_range.start else 0
                )
            return None

        mirror.faults.append(drop)
        (tmp_path / "_default").mkdir()
        (tmp_path / "_default" / "hosts.toml").write_text(
            f'server = "http://{origin.address}"\n'
            f'[host."http://{mirror.address}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        async with AsyncClient(str(daemon.address), f"mirror-{type(daemon).__name__}") as client:
            chosen = options(hosts_dir=str(tmp_path), policy=IMPATIENT)
            image = await client.images.pull("r.example.com/a:1", registry=chosen)
            assert await image.is_unpacked("overlayfs")
        (asked,) = [r for r in origin.requests if origin.asked(r)[0] == "blobs"]
        assert asked.http_range.start


# -- the README -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_readme(number: int, registry: Registry, ours: Longshore, tmp_path: Path) -> None:
    """As they stand, but for the names of registries and folders."""
    text = (Path(registry_package.__path__[0]) / "README.md").read_text()
    example = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[number]
    for name in ("localhost:5000", "registry.example.com"):
        example = example.replace(name, registry.address)
    asyncio.run(publish(registry.name("team/app:1"), TREE))
    done = subprocess.run(
        [sys.executable, "-c", example.replace("/etc/containerd/certs.d", str(tmp_path))],
        env={**os.environ, "CONTAINERD_ADDRESS": str(ours.address), "CONTAINERD_NAMESPACE": "readme"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("sha256:" in done.stdout) if number == 0 else ("unpacked" in done.stdout)


# -- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("pull", "a//b"), "invalid reference", ""),
        (("pull", "localhost:1/a:1"), "localhost:1: connection refused", "is the registry running"),
        (("pull", "{address}/tree/oci:no"), "answered 404", "check name and tag"),
        (("pull", "{address}/tree/oci@sha256:" + "0" * 64), "answered 404", "check name and tag"),
        (("pull", "--platform", "a/b/c/d", "{address}/tree/oci:1"), "bad platform", ""),
        (
            ("pull", "--platform", "linux/s390x", "{address}/tree/index:1"),
            "there is linux/amd64",
            "--platform",
        ),
        (("pull", "--snapshotter", "nothing", "{address}/tree/oci:1"), "nothing", ""),
        (("push", "{address}/no/image:1"), "not found", ""),
        (("push", "{address}/tree/x:1", "no/image:1"), "not found", ""),
        (("push", "--manifest", "sha256:" + "0" * 64, "{address}/tree/x:1"), "not found", ""),
    ],
)
def test_what_goes_wrong_is_said(
    words: tuple[str, ...], message: str, hint: str, registry: Registry, ours: Longshore
) -> None:
    done = call(
        LONGSHORE, ours, "wrong", "images", *(word.format(address=registry.address) for word in words)
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ctr: ") and message in done.stderr and hint in done.stderr
    assert "Traceback" not in done.stderr
