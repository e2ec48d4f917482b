"""A small warm process from which shims and unpack workers are forked. See README.md."""
