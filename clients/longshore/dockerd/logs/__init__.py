"""Container logs: one logger process per running container, and how what it wrote is read."""
