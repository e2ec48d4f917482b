"""The metrics endpoint and the debug socket of a running daemon."""

from __future__ import annotations

import http.client
import socket
import urllib.request
from pathlib import Path

from support.daemon import Longshore
from support.images import BUSYBOX, busybox_archive
from support.registry import free_port

CONFIG = """version = 2
[metrics]
address = "127.0.0.1:{port}"
grpc_histogram = true
[debug]
address = "{debug}"
"""


def test_a_container_is_measured_and_stacks_are_shown(tmp_path: Path, short_tmp: Path) -> None:
    port, debug = free_port(), short_tmp / "debug.sock"
    with Longshore(config=CONFIG.format(port=port, debug=debug)) as daemon:
        daemon.ctr("images", "import", busybox_archive(tmp_path))
        daemon.ctr("run", "-d", BUSYBOX, "box", "sleep", "1000")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/metrics", timeout=60) as answer:
            page = answer.read().decode()
        assert f'{{container_id="box",namespace="{daemon.namespace}"}} ' in page
        assert "process_resident_memory_bytes" in page and "longshore_tasks 1\n" in page
        labels = 'grpc_method="Create",grpc_service="containerd.services.tasks.v1.Tasks",grpc_type="unary"'
        assert f'grpc_server_handled_total{{grpc_code="OK",{labels}}} 1\n' in page
        assert f'grpc_server_handling_seconds_bucket{{{labels},le="+Inf"}} 1\n' in page
        assert page.count("# TYPE grpc_server_handling_seconds histogram\n") == 1
        assert "MainThread" in _over(debug, "/debug/stacks") and '"tasks"' in _over(debug, "/debug/vars")
        assert debug.stat().st_mode & 0o777 == 0o660
        daemon.ctr("tasks", "rm", "-f", "box")
    assert not debug.exists()


def _over(path: Path, page: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        client = http.client.HTTPConnection("d")
        client.sock = connection
        client.request("GET", page)
        return client.getresponse().read().decode()
