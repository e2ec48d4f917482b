"""What a container does: made, started, watched, stopped, attached to, described."""
