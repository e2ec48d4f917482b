"""Volumes: directories that outlive containers, under <data-root>/volumes/<name>/_data."""
