"""Images: containerd's image store seen as the Engine API sees images.

A record of containerd's is one name. The image that clients see is the
configuration below it: its digest is the image's ID, and names that lead to
the same configuration are tags of one image. What the API needs beyond that
(an image without a name, digests that were pulled) is a record with a name of
its own: see `names`.
"""
