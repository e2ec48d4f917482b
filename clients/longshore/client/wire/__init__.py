"""gRPC over a Unix socket, the client's half, in a few files: what `ctr` speaks.

`grpc` takes 100 ms of processor time to import, `asyncio` with it: half of a
short command. Here `hpack` and `http2` turn calls into bytes and back and do
no I/O; `channel` has the calls, and `blocking` and `loop` carry the bytes, the
one for programs without an event loop, the other on asyncio. Stubs take these
channels as they take `grpc.aio`'s. No TLS, no TCP, no compression, no retries.
"""
