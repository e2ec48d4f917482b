"""Diffs: layers applied to snapshots, and snapshots turned into layers."""
