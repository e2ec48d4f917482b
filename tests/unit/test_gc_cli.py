"""`longshore gc` where there is no daemon."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from longshore.containerd.gc import cli


def test_without_a_daemon_it_says_what_to_do(tmp_path: Path) -> None:
    address = str(tmp_path / "none")
    done = CliRunner().invoke(cli.cli, ["--address", address, "plan"])
    assert done.exit_code == 1
    assert address in done.output and "longshore up" in done.output and "CONTAINERD_ADDRESS" in done.output
