"""A provider of its own process that answers each call after a fixed time: ``python -m benchmarks.slow_provider MS``.

A request with a ``response_format`` is answered with the larger output, under its schema of ten properties.

It prints its port, and counts: ``GET /calls`` returns how many it answered.
"""

import asyncio
import json
import sys

from benchmarks.app_rows import LARGER_OUTPUT, OUTPUT


def _answer(output: object) -> dict[str, object]:
    return {
        "id": "gen-1",
        "object": "chat.completion",
        "model": "small",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": json.dumps(output)}}
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46},
    }


_ANSWER, _LARGER_ANSWER = _answer(OUTPUT), _answer(LARGER_OUTPUT)


class Provider:
    """Speaks as much HTTP as our client does."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._calls = 0

    async def serve(self) -> None:
        """Serve until the process ends."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET /calls "):
                    writer.write(_response({"calls": self._calls}))
                    continue
                body = await reader.readexactly(_length(head))
                self._calls += 1
                await asyncio.sleep(self._seconds)
                writer.write(_response(_LARGER_ANSWER if b'"response_format"' in body else _ANSWER))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left
        finally:
            writer.close()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def _response(body: object) -> bytes:
    content = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(content),
        content,
    )


if __name__ == "__main__":
    asyncio.run(Provider(float(sys.argv[1]) / 1000).serve())
