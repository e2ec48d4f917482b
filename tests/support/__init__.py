"""What the tests stand on: the Go parts, daemons of both kinds, images, and the search for leaks."""
