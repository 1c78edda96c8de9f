"""Flask without what this service does not use: sessions, host matching, async views, header guessing.

Each override drops work that was measured on the way of every request (docs/decisions.md); what views see is the
same. Knows nothing of the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter


class _NoSessions(SessionInterface):
    """One session, empty and closed, for all requests."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:  # noqa: ARG002 - Flask's signature
        return self._none

    def is_null_session(self, obj: object) -> bool:  # noqa: ARG002
        return True


class LeanFlask(Flask):
    """Flask that matches paths only, on any host, and calls plain functions."""

    session_interface = _NoSessions()

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Routes by path and method."""
        if request is None:
            return super().create_url_adapter(request)
        environ = request.environ
        return MapAdapter(
            self.url_map, "localhost", "/", "", environ["wsgi.url_scheme"], request.path, environ["REQUEST_METHOD"]
        )

    def preprocess_request(self) -> Any:
        """The application's own hooks; blueprints have none here."""
        for hook in self.before_request_funcs[None]:
            answer = hook()
            if answer is not None:
                return answer
        return None

    def process_response(self, response: Response) -> Response:
        """The application's own hooks; there is no session to save."""
        for hook in self.after_request_funcs[None]:
            response = hook(response)  # type: ignore[assignment]
        return response

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """All functions here are plain ones."""
        return func


class BytesResponse(Response):
    """An answer whose body is bytes and whose headers are sent as they were set."""

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
    ) -> Iterable[bytes]:
        """WSGI."""
        body = b"".join(self.iter_encoded())
        start_response(self.status, [*self.headers, ("Content-Length", str(len(body)))])
        return () if environ["REQUEST_METHOD"] == "HEAD" else (body,)
