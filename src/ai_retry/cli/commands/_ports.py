"""A few addresses that a worker answers: metrics, and whether it is well. Plain HTTP, for machines of one's own."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

from ai_retry.domain.errors import NotConfigured

Answer: TypeAlias = tuple[int, str, bytes]  # status, content type, body
_SECONDS = 5.0  # for a request to arrive


@contextmanager
def answering(port: int, address: str, pages: Mapping[str, Callable[[str], Answer]]) -> Iterator[int]:
    """Answer these paths meanwhile, in threads of their own; give the port.

    Args:
        port: to listen at; 0: any that is free.
        address: of this machine.
        pages: by path; each is called with the request's ``Accept``.

    Raises:
        NotConfigured: it can't be listened at.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _SECONDS

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            status, content_type, body = page(self.headers.get("Accept", "")) if page else (404, "text/plain", b"")
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the base class)
            """Write nothing: these requests are many, and say nothing."""

    try:
        server = ThreadingHTTPServer((address, port), Handler)
    except OSError as error:
        raise NotConfigured(f"port {port} of {address} can't be listened at ({error.strerror})") from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="ai-retry-port", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
