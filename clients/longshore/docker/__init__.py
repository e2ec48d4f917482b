"""The docker command: a client of the Engine API, of our dockerd or any other. Imports nothing else of ours."""
