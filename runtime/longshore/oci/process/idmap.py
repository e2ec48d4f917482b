"""A user namespace made only for its id maps, to be given to an idmapped mount."""

from __future__ import annotations

import os

from longshore.linux import files, namespaces
from longshore.oci.errors import RuntimeFailure, explain


def user_namespace(uid_map: str, gid_map: str) -> int:
    """A descriptor of a new user namespace with these maps."""
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        pid, pidfd = namespaces.clone(namespaces.CLONE_NEWUSER)
        if pid == 0:
            try:
                os.close(write)
                os.read(read, 1)  # until the maps are written and the namespace is open
            finally:
                os._exit(0)
        try:
            files.write_file(f"/proc/{pid}/uid_map", uid_map)
            files.write_file(f"/proc/{pid}/gid_map", gid_map)
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RuntimeFailure(f"id mapping of a mount: {explain(error)}") from None
        finally:
            os.close(write)
            write = -1
            os.waitpid(pid, 0)
            os.close(pidfd)
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
