"""Registries: the distribution protocol over HTTP. `client.Registry` is the door; see README.md."""
