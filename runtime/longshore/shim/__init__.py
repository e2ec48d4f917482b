"""The process beside a container: its parent, its exit status, its streams. See README.md."""
