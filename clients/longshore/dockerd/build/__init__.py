"""The classic builder: a Dockerfile's instructions, one image after each."""
