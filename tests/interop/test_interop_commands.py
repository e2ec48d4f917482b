"""The command line of Debian's runc and ours, call by call on the same bundle: output, errors and exit status."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support import goparts, require
from support.bundles import Bundle, bundle
from support.daemon import LONGSHORE
from support.process import eventually

# One call a line, in this order. "!" marks those whose process stays; its streams are then a file.
NOTHING_THERE = """
state c
start c
delete c
delete --force c
kill c
pause c
resume c
ps c
events c
events --stats c
exec c true
update c
checkpoint c
list
list --quiet
list --format json
list --format x
state
state a b
exec
kill
checkpoint
create --nope c
create bad/id
run --preserve-fds x c
--log-format xml list
--debug=maybe list
--log-format json run --bundle /nope c
--log log --log-format json run --bundle /nope c
run --console-socket nope c
"""
CREATED = """
!create --pid-file pid c
!create c
state c
ps --format json c
exec c echo hi
pause c
state c
resume c
start c
start c
"""
RUNNING = """
state c
list
list --format json
list --quiet
resume c
delete c
exec c sh -c 'exit 300'
exec c nope
exec c /etc
exec c /etc/passwd
exec --cwd /nope c pwd
exec --cwd rel c pwd
exec -u 1:2 -g 5 -g 6 c id
exec --env A=b --env C=d c env
exec --env NOEQ c env
exec --env =x c env
exec --cap CAP_NET_RAW c grep Cap /proc/self/status
exec --cap NOPE c true
exec --no-new-privs c grep NoNew /proc/self/status
exec --process-label x c true
exec --preserve-fds 1 c true
exec --cgroup memory:/ c true
exec --cgroup nope c true
exec --cgroup nope:/ c true
exec --cgroup ../.. c true
exec --user abc c id
exec --env A=b -e C=d c env
exec --apparmor x c true
exec --process nofile c
exec --process empty c
exec --tty --detach c true
exec --console-socket x c true
ps c -o comm
ps --format x c
events --interval 0s c
events --interval -1s c
events --interval x c
update --memory 64M c
update --memory x c
update --cpu-share 100 c
update --pids-limit 50 c
update --cpuset-cpus 77 c
update --resources nofile c
update --l3-cache-schema x c
update --kernel-memory 1 c
kill c NOPE
kill c 0
pause c
pause c
start c
exec c true
delete c
update --memory 32M c
resume c
kill c sigkill
"""
STOPPED = """
state c
kill c 9
kill --all c 9
exec c true
pause c
resume c
update --memory 64M c
ps c
events --stats c
start c
checkpoint c
list --quiet
delete c
delete c
"""
ENDS = """
run --keep --pid-file pid c
state c
run c
delete c
run --no-subreaper c
run --no-new-keyring c
run --no-pivot c
--systemd-cgroup run c
restore c
"""

# Calls that both refuse, or only one of them, and why not alike.
DIFFERENT = {
    "--systemd-cgroup run c": "there is no such driver",
    "exec --user abc c id": "Go's name for its own function is left out",
    "exec --env A=b -e C=d c env": "one flag by both of its names is fine",
    "exec --apparmor x c true": "without AppArmor it is refused before anything is done",
    "exec --cgroup nope c true": "looked for before it is joined",
    "exec --cgroup nope:/ c true": "the flag is named, not a field of Go's",
    "exec --cgroup ../.. c true": "the words are the same, without the stage of the start",
    "update --cpuset-cpus 77 c": "the path alone; the old limits could be set again",
    "restore c": "the images are looked for first, criu second",
}


class Answer(NamedTuple):
    status: int
    out: str
    err: str


def answers(runtime: list[str | Path]) -> Iterator[tuple[str, Answer]]:
    with bundle(runtime) as box:
        (box.folder / "empty").write_text("{}")
        box.config["annotations"] = {"a": "b"}
        box.shell("while :; do sleep 1; done")
        yield from carry_out(box, NOTHING_THERE + CREATED + RUNNING)
        eventually(lambda: box.inspect()["status"] == "stopped")
        yield from carry_out(box, STOPPED)
        box.shell("echo out; exit 3")
        yield from carry_out(box, ENDS)


def carry_out(box: Bundle, lines: str) -> Iterator[tuple[str, Answer]]:
    for line in filter(None, lines.splitlines()):
        words = shlex.split(line.removeprefix("!"))
        if line.startswith("!"):
            with (box.folder / "said").open("w+") as said:
                status = box.call(*words, stdout=said, stderr=said).returncode
            done = Answer(status, "", (box.folder / "said").read_text())
        else:
            called = box.call(*words)
            done = Answer(called.returncode, called.stdout, called.stderr)
        yield line, Answer(done.status, normal(box, done.out), normal(box, done.err))


def normal(box: Bundle, text: str) -> str:
    """Without times, pids, figures, names, the manual that runc prints with a complaint, and the width
    of a column of times (which have no zeros at their ends)."""
    if text.startswith("Incorrect Usage"):
        return ""
    text = (
        text.replace(f"{box.runtime[0]}:", "runc:").replace(str(box.folder), "/B").replace(box.name, "NAME")
    )
    text = re.sub(r'time="[^"]*" |"time":"[^"]*"', "", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"CREATED +OWNER", "CREATED OWNER", text)
    text = re.sub(r'"ociVersion": ?"[^"]*"', "VERSION", text)
    return re.sub(r"\b\d{3,}\b *|(?<=pid\": )[1-9]\d*", "N ", text)


def test_same_answers() -> None:
    require.root()
    require.go("runc")
    pairs = zip(answers([goparts.path("runc")]), answers([LONGSHORE, "runc"]), strict=True)
    different = {line: (theirs, ours) for (line, theirs), (_, ours) in pairs if theirs != ours}
    assert {line: pair for line, pair in different.items() if line not in DIFFERENT} == {}
    assert different.keys() == DIFFERENT.keys()
