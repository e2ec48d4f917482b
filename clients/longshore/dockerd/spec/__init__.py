"""From a container's record to what the runtime is told (OCI runtime specification 1.0.2).

Nothing here starts or mounts anything. At create::

    config = merge.merge(body, merge.image_config(image.config))
    warnings = validate.create(config, host, settings)
    record.path, record.args = merge.command(config)
    record.mounts = await points.resolve(points.plan(config, host, peer), id, volumes)

and at each start::

    record.mounts = await points.resolve(record.mounts, id, volumes)
    shm.shareable(record, settings)   # what must be mounted on the host first
    document = build.make(record, Place(network, users.layers(mounts), peer, settings))
"""
