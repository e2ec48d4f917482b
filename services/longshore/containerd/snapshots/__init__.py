"""Snapshots: filesystem trees, each the changes on top of a parent."""
