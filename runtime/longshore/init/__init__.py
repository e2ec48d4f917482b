"""docker-init: PID 1 of containers started with ``--init``. It is native: a container has no Python."""
