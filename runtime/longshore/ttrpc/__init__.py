"""ttrpc: the small RPC protocol between containerd and its shims. See README.md."""
