"""The commands of ctr that make calls one after the other need no event loop, and import none, and no grpc."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from longshore.client import Client, Null
from longshore.ctr.hostimage import build
from support.daemon import Longshore

LINES = """
version
info
deprecations ls
plugins ls -d
namespaces create {ns}-other
namespaces label {ns}-other a=b
namespaces ls
namespaces rm {ns}-other
leases create --id l1
leases ls
leases resources l1
leases rm l1
images ls
images ls --format json
images check
images tag {image} docker.io/other/name:1
images label docker.io/other/name:1 a=b
images inspect {image}
images usage {image}
images rm docker.io/other/name:1
content ls
content active
content get {digest}
content label {digest} a=b
containers ls
containers info c1
containers label c1 a=b
tasks ls
tasks ps c1
tasks pause c1
tasks resume c1
tasks metrics c1
tasks kill -s CONT c1
snapshots ls
snapshots tree
snapshots usage
snapshots info {layer}
snapshots prepare s1 {layer}
snapshots mounts /mnt s1
snapshots view s2 {layer}
snapshots label s1 a=b
snapshots commit s3 s1
snapshots rm s2 s3
containers rm nobody
content rm {digest}
"""
FAILS = {"containers rm nobody"}

RUN = """
import json, sys
for name in ("asyncio", "concurrent", "grpc", "socket"):
    sys.modules[name] = None
from longshore.ctr.main import main
answers = []
for line in json.load(sys.stdin):
    sys.argv = line
    answers.append(main())
print(json.dumps(answers), file=sys.stderr)
"""


def test_without_an_event_loop() -> None:
    with Longshore() as daemon, Client(str(daemon.address), daemon.namespace) as client:
        with tempfile.TemporaryFile() as archive:
            image = build(["sleep"], "host/sleep", archive).name
            archive.seek(0)
            client.images.import_archive(archive)
        container = client.containers.create("c1", image=image, args=["sleep", "1000"])
        task = container.create_task(io=Null())
        task.start()
        layer = next(info.name for info in client.snapshots().list() if not info.parent)
        digest = next(info.digest for info in client.content.list() if info.size < 3000)
        lines = [
            line.format(ns=daemon.namespace, image=image, digest=digest, layer=layer).split()
            for line in LINES.strip().splitlines()
        ]
        commands = [["ctr", "-a", str(daemon.address), "-n", daemon.namespace, *line] for line in lines]
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            input=json.dumps(commands),
            capture_output=True,
            text=True,
            check=True,
        )
        statuses = json.loads(done.stderr.splitlines()[-1])
        failed = {" ".join(line) for line, status in zip(lines, statuses, strict=True) if status}
        assert failed == FAILS, done.stderr
        task.kill(9)
        task.wait()
        task.delete()
        container.delete()
