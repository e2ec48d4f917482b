"""From a container's record to what the runtime is told (OCI runtime specification 1.0.2).

Nothing here starts or mounts anything. `merge` and `validate` look at a body
of create, `points` turns its binds, volumes and mounts into a list, and
`build.make` writes the specification when the container starts.
"""
