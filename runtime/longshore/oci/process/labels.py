"""AppArmor profiles and SELinux labels: what the next execve of this process becomes.

The attribute file is opened while /proc is still the host's, and written to
after the container was entered: the container's /proc may be anything.
(`config.check_process` has refused what this kernel doesn't have.)
"""

from __future__ import annotations

import os

from longshore.oci.errors import StartFailed, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Label:
    """Opened by the process it is about, before it enters anything."""

    def __init__(self, process: dict[str, Any]) -> None:
        self.fd = -1
        self._value = ""
        profile, label = process.get("apparmorProfile"), process.get("selinuxLabel")
        if profile:
            self._value = f"exec {profile}"
            self._open("/proc/self/attr/apparmor/exec", "/proc/self/attr/exec")
        elif label:
            self._value = label
            self._open("/proc/self/attr/exec")

    def _open(self, *paths: str) -> None:
        for path in paths:
            if os.path.exists(path):
                self.fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                return
        raise StartFailed(f"security label {self._value} asked for, but there is no {paths[-1]}")

    def apply(self) -> None:
        """Ask for the label at the next execve; StartFailed if it is refused. Nothing to do without one."""
        if self.fd < 0:
            return
        try:
            os.write(self.fd, self._value.encode())
        except OSError as error:
            raise StartFailed(f"unable to apply security label {self._value}: {explain(error)}") from None
        finally:
            os.close(self.fd)
            self.fd = -1
