"""A few addresses that a worker answers: metrics, and whether it is well. Plain HTTP, for machines of one's own."""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from logging import DEBUG, ERROR
from typing import Final, TypeAlias

from ai_retry.domain.errors import NotConfigured
from ai_retry.logs import write_line

Answer: TypeAlias = tuple[int, str, bytes]  # status, content type, body
_SECONDS = 5.0  # for a request to arrive
_NOT_FOUND: Final[Answer] = (404, "text/plain", b"")
_FAILED: Final[Answer] = (500, "text/plain", b"")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 (the base class calls it)
        """Log what ended a connection, such as a client that has gone, without any text of an exception."""
        write_line(DEBUG, "port_failed", error=type(sys.exception()).__qualname__)


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
            status, content_type, body = _shown(page, self.headers.get("Accept", "")) if page else _NOT_FOUND
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the base class)
            """Write nothing: these requests are many, and say nothing."""

    try:
        server = _Server((address, port), Handler)
    except OSError as error:
        raise NotConfigured(f"port {port} of {address} can't be listened at ({error.strerror})") from None
    thread = threading.Thread(target=server.serve_forever, name="ai-retry-port", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _shown(page: Callable[[str], Answer], accept: str) -> Answer:
    try:
        return page(accept)
    except Exception as error:  # noqa: BLE001 (the outermost place of a request)
        write_line(ERROR, "page_failed", error=type(error).__qualname__)
        return _FAILED
