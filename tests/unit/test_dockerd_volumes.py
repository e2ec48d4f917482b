"""Names, options and filters of volumes: no daemon, no root."""

from __future__ import annotations

import pytest

from longshore.api import errors
from longshore.dockerd.volumes import documents, filters, options
from longshore.dockerd.volumes.documents import ANONYMOUS, Volume


@pytest.mark.parametrize("name", ["ab", "a.b_c-d", "0" * 64, "A1"])
def test_good_names(name: str) -> None:
    documents.check_name(name)


@pytest.mark.parametrize("name", ["..", ".a", "a/b", "../../etc", "a\n", "-a", "a b", "ä1", "a\x00b"])
def test_names_that_could_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="includes invalid characters for a local volume name"):
        documents.check_name(name)


def test_a_name_of_one_letter() -> None:
    with pytest.raises(errors.InvalidArgument, match="create a: volume name is too short"):
        documents.check_name("a")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"foo": "x"}, 'invalid option: "foo"'),
        ({"device": "/x"}, 'missing required option: "type"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"o": "bind"}, 'missing required option: "device"'),
        ({"size": "10m"}, "quota size requested but no quota support"),
        ({"size": "many"}, "invalid size: 'many'"),
        ({"type": "cifs", "device": "//host:445/x"}, "port not allowed in CIFS device URL"),
    ],
)
def test_bad_options(given: dict[str, str], words: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=words):
        options.check(given)


def test_options_become_a_mount() -> None:
    given = {"type": "none", "device": "/srv", "o": "bind,ro"}
    options.check(given)
    found = options.device(given)
    assert found is not None
    assert (found.mount.type, found.mount.source, found.mount.options) == ("none", "/srv", ("bind", "ro"))
    assert options.device({}) is None


def test_a_password_is_not_told() -> None:
    device = options.Device("//host/x", "cifs", "user=a,password=secret")
    assert options.hidden("data: user=a,password=secret: no", device) == "data: user=a,password=********: no"


VOLUMES = (
    Volume(name="data", labels={"a": "1"}),
    Volume(name="data2", labels={"a": "2", "b": ""}),
    Volume(name="f" * 64, labels={ANONYMOUS: ""}),
    Volume(name="remote", labels=None, options={"type": "nfs", "device": ":/x"}),
)


def listed(used: str = "", **wanted: list[str]) -> list[str]:
    test = filters.listing(wanted, lambda name: name == used)
    return [volume.name[:6] for volume in VOLUMES if test(volume)]


def test_filters_of_a_listing() -> None:
    assert listed() == ["data", "data2", "ffffff", "remote"]
    assert listed(name=["dat"]) == ["data", "data2"]
    assert listed(name=["^data$", "rem"]) == ["data", "remote"]
    assert listed(name=["*"]) == []
    assert listed(label=["a"]) == ["data", "data2"]
    assert listed(label=["a=1"]) == ["data"]
    assert listed(driver=["other"]) == []
    assert listed("data", dangling=["false"]) == ["data"]
    assert listed("data", dangling=["1"]) == ["data2", "ffffff", "remote"]
    with pytest.raises(errors.InvalidArgument, match=r"invalid filter 'dangling=\[maybe\]'"):
        listed(dangling=["maybe"])


def test_a_prune_takes_anonymous_ones_unless_told_otherwise() -> None:
    def pruned(**wanted: list[str]) -> list[str]:
        test = filters.prunable({key.replace("_not", "!"): value for key, value in wanted.items()})
        return [volume.name[:6] for volume in VOLUMES if test(volume)]

    assert pruned() == ["ffffff"]
    assert pruned(all=["true"]) == ["data", "data2", "ffffff"]
    assert pruned(all=["1"], label_not=["a=1"]) == ["data2", "ffffff"]
    assert pruned(all=["1"], label=["b"]) == ["data2"]
