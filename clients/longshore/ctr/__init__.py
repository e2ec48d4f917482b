"""``ctr``: containerd by hand, one file per noun."""
