"""The same session of three hundred docker commands on our dockerd and on Debian's: the same answers.

The client is the machine's docker CLI where there is one (28 here), else
Debian's 20.10; it speaks the API of 20.10 to both. `DIFFERENT` lists the
commands that ours answers otherwise, each with the reason; a line that is the
same again must go from it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from support import goparts, require, session, soak
from support.dockerd import PARTS, AnyDockerd, Dockerd
from support.folders import short_folder
from support.ourdockerd import PARTS as OUR_PARTS
from support.ourdockerd import OurDockerd
from support.session import Said, Session, Step

# A whole session is the set-up of one test: on a busy machine that takes minutes.
pytestmark = pytest.mark.timeout(900)

STEPS = list(session.steps())
STACKS: dict[str, Callable[[], AbstractContextManager[AnyDockerd]]] = {
    "ours": lambda: OurDockerd(cli=session.which_cli()),
    "ours-on-real": lambda: OurDockerd("real", cli=session.which_cli()),
}

# How a line begins -> why our answer is another one.
DIFFERENT = {
    "image inspect no-such": "20.10 says it twice; these are the words since 23",
    "events --since {mark} --until {now} --filter type=image": "an image's name is told with its tag",
    "events --since {mark} --until {now} --filter type=volume": "a volume is created once, not at each use",
    "run --rm --volume x:not-absolute": "a target that isn't absolute is refused, as the documentation says",
    "ps --filter nonsense=1": "the words since 23 begin with a small letter",
    "inspect --format '{{.HostConfig.NetworkMode}}": "images and roots are containerd's, whose overlay is overlayfs",
    "inspect --format '{{json .HostConfig}}' box": "two more masked paths: /proc/interrupts and powercap, as in 28",
    "exec box no-such-program": "127, as `docker run` has it, and `docker exec` since 23",
    "exec --privileged box true": "Go's runc can't give capabilities that root itself lacks here; ours gives the rest",
    "cp box:/etc/passwd -": "the tar names no users and no file types beside its own: only numbers are true in there",
    "run --rm --network inner base": "an internal network has no default route since 23",
    "info --format '{{json .Plugins.Volume}}": "no overlay (it needs a swarm) and no ipvlan",
}


def play(stack: AbstractContextManager[AnyDockerd]) -> dict[int, Said]:
    with short_folder() as folder, stack as docker:
        return Session(docker, folder).play(STEPS)


@pytest.fixture(scope="module")
def reference() -> dict[int, Said]:
    require.root()
    require.go(*PARTS)
    cli = session.which_cli() or goparts.path("docker")
    version = subprocess.run([cli, "--version"], capture_output=True, text=True, check=True).stdout
    print(f"the client is {version.strip()}")
    return play(Dockerd("real", cli=session.which_cli()))


# What is another's containerd below ours is also test_dockerd_survival's business.
@pytest.fixture(scope="module", params=STACKS if soak.SOAK else ["ours"])
def answers(request: pytest.FixtureRequest) -> Iterator[dict[int, Said]]:
    require.go(*OUR_PARTS)
    yield play(STACKS[request.param]())


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_same_answer(reference: dict[int, Said], answers: dict[int, Said], step: Step) -> None:
    reason = next((why for begin, why in DIFFERENT.items() if step.line.startswith(begin)), "")
    ours, real = str(answers[step.number]), str(reference[step.number])
    if reason:
        assert ours != real, f"no longer different: {reason}"
    else:
        assert ours == real, step.line


def test_it_is_long() -> None:
    assert len(STEPS) > 120
    assert all(any(step.line.startswith(begin) for step in STEPS) for begin in DIFFERENT)
