"""The layer format: tar streams that say how one directory tree differs from another."""
