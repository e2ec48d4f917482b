"""`longshore up`: where things lie, and that every socket's path is short enough."""

from __future__ import annotations

import os

from longshore import up


def test_defaults_of_root() -> None:
    found = up.places(None, uid=0, environment={})
    assert found.address == "/run/longshore/containerd.sock"
    assert found.root == "/var/lib/longshore/containerd"


def test_defaults_of_a_user() -> None:
    found = up.places(None, uid=7, environment={"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"})
    assert found.address == "/run/user/7/longshore/containerd.sock"
    assert found.root == "/home/u/.local/share/longshore/containerd"


def test_all_below_one_folder() -> None:
    found = up.places("/srv/stack", uid=0, environment={})
    assert all(path.startswith("/srv/stack/") for path in found)


def test_a_deep_folder_gets_a_short_socket() -> None:
    deep = "/srv/" + "d" * 90
    found = up.places(deep, uid=0, environment={})
    assert len(os.fsencode(found.address)) <= up.LONGEST_ADDRESS
    assert found.address != up.places(deep + "e", uid=0, environment={}).address
    assert found.state.startswith(deep)
