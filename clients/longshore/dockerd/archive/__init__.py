"""Files of a container in and out as tar streams: `docker cp`, export, diff.

All of it runs in a forked worker. Paths are a container's or a stranger's:
each is opened by openat2 below the container's root, so that links and ".."
end inside, whoever changes them meanwhile.
"""
