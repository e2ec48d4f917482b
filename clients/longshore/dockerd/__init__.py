"""The Docker Engine API as a gRPC client of containerd, ours or a real one."""
