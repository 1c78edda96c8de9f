"""The shell around Flask: a Granian (RSGI) application that calls it on the event loop and holds what takes long.

Short requests run on the loop itself: no thread hand-over, and a request that waits costs a timer, not a thread.
Whatever is slow (uploads, large bodies, storage) runs in bounded pools. Knows HTTP and `web/requests.py`, no routes.
Flask stays an ordinary WSGI application (`web/wsgi.py`), only without waits and streams then.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, BinaryIO, ParamSpec, Protocol, TypeVar, cast

import structlog
from flask import Flask

from coatcheck import keys
from coatcheck.connections import connect
from coatcheck.core import open_core
from coatcheck.errors import CoatcheckError, InvalidInput, TooLarge, TooManyWaits
from coatcheck.logs import configure_logs
from coatcheck.process_death import die_with_parent
from coatcheck.settings import Settings
from web.app import create_app
from web.bodies import Pipe, SlowBody, gather, read_whole
from web.errors import answer_error, answer_surprise, problem_answer
from web.loop_redis import LoopCalls, LoopRedis
from web.metrics import HttpStats, report_always
from web.requests import AFTER, BODY, LOOP, REQUEST_ID, OffLoop, SendFile, Stream, Wait, clean_request_id
from web.waits import REREAD_S, Hub

#: Bodies up to this are handled on the loop, bytes.
INLINE_BODY = 64 * 1024
#: What a multipart body may be larger than the file in it, bytes.
ENVELOPE = 64 * 1024
#: Threads for requests with large bodies or slow views, and apart from them for uploads.
SLOW_THREADS = 8
UPLOAD_THREADS = 8
#: A sent file's descriptor is kept this long: Granian opens the file by it a moment after it was told, seconds.
KEEP_OPEN_S = 30.0
#: Seconds between two comments on a quiet stream: a client that is gone shows only when written to.
COMMENT_S = 15.0
#: A process whose clients polled this recently hears of its new jobs' ends unasked, seconds.
POLLED_S = 2.0
#: A wait longer than this watches whether its client is still there, seconds.
WATCH_CLIENT_S = 2.0

Headers = list[tuple[str, str]]
Environ = dict[str, Any]

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


class Transport(Protocol):
    """RSGI's streaming answer."""

    async def send_bytes(self, data: bytes) -> None:
        """Send; returns when the peer takes more."""


class Proto(Protocol):
    """RSGI's protocol object, as far as it is used here."""

    def __call__(self) -> Any:
        """The whole body, awaitable."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body in chunks."""

    async def client_disconnect(self) -> None:
        """Returns when the client has hung up."""

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer at once."""

    def response_file_range(self, status: int, headers: Headers, file: str, start: int, end: int) -> None:
        """Answer with the bytes `start` up to `end` of a file that is opened at once."""

    def response_stream(self, status: int, headers: Headers) -> Transport:
        """Begin an answer in parts."""


class Answer:
    """What the WSGI call gave."""

    __slots__ = ("headers", "parts", "status")

    def __init__(self) -> None:
        self.status = 500
        self.headers: Headers = []
        self.parts: Iterable[bytes] = ()

    def start(self, status: str, headers: Headers, _exc_info: Any = None) -> Callable[[bytes], object]:
        """WSGI's start_response."""
        self.status = int(status[:3])
        self.headers = [(name.lower(), value) for name, value in headers]
        return _no_write

    def body(self) -> bytes:
        """All parts; closes the response."""
        try:
            return b"".join(self.parts)
        finally:
            self.close()

    def close(self) -> None:
        """WSGI's end of the response."""
        close = getattr(self.parts, "close", None)
        if close is not None:
            close()


class _Around:
    """`web.requests.Loop` over the hub."""

    def __init__(self, hub: Hub, *, on_loop: bool) -> None:
        self.on_loop = on_loop
        self.hears_of = hub.hears_of
        self.hear_of = hub.hear_of
        self._hub = hub

    @property
    def channel(self) -> str:
        return self._hub.channel if self._hub.listening else ""

    @property
    def full(self) -> bool:
        return self._hub.full

    @property
    def polled(self) -> bool:
        return time.monotonic() - self._hub.polled_at < POLLED_S


def _respond(environ: Environ, proto: Proto, answer: Answer) -> int:
    body = answer.body()
    # A length that is not the body's ends the connection, also where HEAD leaves the body out.
    headers = answer.headers if body or environ["REQUEST_METHOD"] != "HEAD" else _without_length(answer.headers)
    proto.response_bytes(answer.status, headers, body)
    return answer.status


def _no_write(_data: bytes) -> None:
    raise NotImplementedError("WSGI's write()")


class Shell:
    """One web process.

    Args:
        app: the Flask application.
        hub: wakes the waiting requests.
        settings: limits.
        stats: counts requests.
        redis: carries the store's calls of requests on the loop; None lets them block it.
        on_start: called with the loop when it is about to run.
    """

    def __init__(
        self,
        app: Flask,
        hub: Hub,
        settings: Settings,
        stats: HttpStats,
        *,
        redis: LoopRedis | None = None,
        on_start: Callable[[asyncio.AbstractEventLoop], object] = lambda _loop: None,
    ) -> None:
        self._app = app
        self._redis = redis
        self._hub = hub
        self._stats = stats
        self._on_start = on_start
        self._json_limit = settings.json_limit_bytes
        self._upload_limit = settings.upload_limit_bytes + ENVELOPE
        self._slow = ThreadPoolExecutor(SLOW_THREADS, "slow")
        self._uploads = ThreadPoolExecutor(UPLOAD_THREADS, "upload")
        self._here = _Around(hub, on_loop=True)
        self._elsewhere = _Around(hub, on_loop=False)
        self._fixed = {
            "SCRIPT_NAME": "",
            "SERVER_NAME": settings.host,
            "SERVER_PORT": str(settings.port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Granian: the loop is about to run."""
        if self._redis is not None:
            self._redis.start(loop)
        self._on_start(loop)

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """Granian: the loop has stopped."""
        self.close()

    def close(self) -> None:
        """Stop listening and let the threads end."""
        self._hub.wake_all()
        if self._redis is not None:
            self._redis.stop()
        self._slow.shutdown(wait=False, cancel_futures=True)
        self._uploads.shutdown(wait=False, cancel_futures=True)

    async def __rsgi__(self, scope: Any, proto: Proto) -> None:
        """Granian: one request."""
        if scope.proto != "http":
            return
        began = time.perf_counter()
        environ = self._environ(scope)
        try:
            status = await self._serve(environ, proto)
        except CoatcheckError as error:
            status = self._refuse(proto, environ, *answer_error(error, environ["coatcheck.request_id"]))
        except SlowBody:
            rid = environ["coatcheck.request_id"]
            detail = "The body came too slowly; send it faster, or in smaller files"
            body, headers = problem_answer(HTTPStatus.REQUEST_TIMEOUT, detail, "too_slow", rid=rid)
            status = self._refuse(proto, environ, HTTPStatus.REQUEST_TIMEOUT, body, headers)
        except (ConnectionError, RuntimeError) as error:
            # RSGI raises RuntimeErrors of its own when the client is gone; anything else is worth a line.
            log.info("request ended early", action="request_aborted", path=scope.path, error=str(error))
            status = 499
        except Exception as error:  # noqa: BLE001 - the last guard: a plain 500, the reason in the log
            status = self._refuse(proto, environ, *answer_surprise(error, environ["coatcheck.request_id"]))
        self._stats.count(environ.get("coatcheck.route", "-"), status, time.perf_counter() - began)

    # -- one request ---------------------------------------------------------------------------------

    def _environ(self, scope: Any) -> Environ:
        environ: Environ = {
            **self._fixed,
            "REQUEST_METHOD": scope.method,
            "PATH_INFO": scope.path.encode().decode("latin-1"),
            "QUERY_STRING": scope.query_string,
            "REMOTE_ADDR": scope.client.rpartition(":")[0],
            "wsgi.url_scheme": scope.scheme,
        }
        for name, value in scope.headers.items():
            if name == "content-type":
                environ["CONTENT_TYPE"] = value
            elif name == "content-length":
                environ["CONTENT_LENGTH"] = value
            elif "_" not in name:  # x_y and x-y would become the same key
                key = "HTTP_" + name.upper().replace("-", "_")
                environ[key] = f"{environ[key]},{value}" if key in environ else value
        environ["coatcheck.request_id"] = clean_request_id(environ.get(REQUEST_ID))
        return environ

    async def _serve(self, environ: Environ, proto: Proto) -> int:
        length = _content_length(environ)
        if not length and "HTTP_TRANSFER_ENCODING" not in environ:
            environ["wsgi.input"] = io.BytesIO()
            return await self._on_loop(environ, proto)
        if environ.get("CONTENT_TYPE", "").startswith("multipart/"):
            return await self._upload(environ, proto, length)
        if length is not None and length > self._json_limit:
            raise TooLarge(f"The body has {length} bytes; this route takes at most {self._json_limit}")
        body = await (gather(proto, self._json_limit) if length is None else read_whole(proto))
        environ[BODY] = body
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        if len(body) > INLINE_BODY:
            return await self._in_thread(environ, proto)
        return await self._on_loop(environ, proto)

    async def _on_loop(self, environ: Environ, proto: Proto) -> int:
        environ[LOOP] = self._here
        answer = await self._run(self._call, environ)
        if AFTER not in environ:
            return _respond(environ, proto, answer)
        if isinstance(environ[AFTER], OffLoop):
            answer.close()
            del environ[AFTER]
            environ["wsgi.input"].seek(0)
            return await self._in_thread(environ, proto)
        return await self._finish(environ, proto, answer, in_thread=False)

    async def _in_thread(self, environ: Environ, proto: Proto) -> int:
        environ[LOOP] = self._elsewhere
        answer = await asyncio.get_running_loop().run_in_executor(self._slow, self._call, environ)
        return await self._finish(environ, proto, answer, in_thread=True)

    async def _upload(self, environ: Environ, proto: Proto, length: int | None) -> int:
        if length is not None and length > self._upload_limit:
            raise TooLarge(f"The body has {length} bytes; an upload may have {self._upload_limit - ENVELOPE}")
        loop = asyncio.get_running_loop()
        pipe = Pipe(loop)
        environ["wsgi.input"] = io.BufferedReader(pipe, 256 * 1024)
        environ[LOOP] = self._elsewhere
        filling = loop.create_task(pipe.fill(proto, self._upload_limit))
        try:
            answer = await loop.run_in_executor(self._uploads, self._call, environ)
        finally:
            filling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await filling
        if isinstance(pipe.failure, (CoatcheckError, SlowBody)):
            raise pipe.failure
        return _respond(environ, proto, answer)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call on the loop; while it waits for Redis, other requests go on."""
        if self._redis is None:
            return function(*args, **kwargs)
        return await self._redis.run(function, *args, **kwargs)

    def _call(self, environ: Environ) -> Answer:
        answer = Answer()
        answer.parts = self._app.wsgi_app(environ, answer.start)
        return answer

    async def _finish(self, environ: Environ, proto: Proto, answer: Answer, *, in_thread: bool) -> int:
        """Do what the view asked for with `after`."""
        what = environ.get(AFTER)
        if isinstance(what, Wait):
            answer.close()
            body = await self._wait(what, proto, look_first=in_thread)
            headers = [*_without_length(answer.headers), ("content-length", str(len(body)))]
            proto.response_bytes(answer.status, headers, body)
        elif isinstance(what, Stream):
            answer.close()
            if self._hub.full:
                raise TooManyWaits(retry_after_s=5)
            await self._stream(what, proto, answer)
        elif isinstance(what, SendFile):
            await self._send_file(what, proto, answer)
        else:
            _respond(environ, proto, answer)
        return answer.status

    async def _wait(self, wait: Wait, proto: Proto, *, look_first: bool) -> bytes:
        """The body once the job has ended, or as it is when the time is up."""
        loop = asyncio.get_running_loop()
        clock = loop.time
        until = clock() + wait.seconds
        if wait.seconds < WATCH_CLIENT_S:
            self._hub.polled_at = time.monotonic()
        with self._hub.sleeper(wait.job_id) as sleeper, _watch_client(proto, sleeper, wait.seconds):
            sleeper.woken |= look_first
            while (left := until - clock()) > 0 and not sleeper.gone:
                await sleeper.sleep(min(left, REREAD_S))
                found = await self._run(wait.finish, clock() >= until)
                if isinstance(found, bytes):
                    return found
                if found is not None:
                    return await loop.run_in_executor(self._slow, found)
        return await loop.run_in_executor(self._slow, _at_once, wait)

    async def _stream(self, stream: Stream, proto: Proto, answer: Answer) -> None:
        feed = stream.feed
        transport = proto.response_stream(answer.status, _without_length(answer.headers))
        clock = asyncio.get_running_loop().time
        with self._hub.sleeper(feed.job_id) as sleeper, _watch_client(proto, sleeper, COMMENT_S):
            comment_at = clock() + COMMENT_S
            await transport.send_bytes(b": stream\n\n")
            while not sleeper.gone:
                events = await self._run(feed.read)
                if events:
                    await transport.send_bytes(events)
                    comment_at = clock() + COMMENT_S
                if feed.done:
                    return
                if clock() >= comment_at:
                    await transport.send_bytes(b": quiet\n\n")
                    comment_at = clock() + COMMENT_S
                await sleeper.sleep(min(comment_at - clock(), REREAD_S))

    async def _send_file(self, what: SendFile, proto: Proto, answer: Answer) -> None:
        answer.close()
        loop = asyncio.get_running_loop()
        stream = await loop.run_in_executor(self._slow, _with_descriptor, what.stream)
        # Granian reads the file itself, as fast as the client takes it; `send_bytes` would hold all of it in memory.
        headers = [*_without_length(answer.headers), ("content-length", str(what.stop - what.start))]
        proto.response_file_range(answer.status, headers, f"/dev/fd/{stream.fileno()}", what.start, what.stop)
        loop.call_later(KEEP_OPEN_S, stream.close)

    def _refuse(self, proto: Proto, environ: Environ, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> int:
        """Answer a problem that Flask did not see."""
        own = [(name.lower(), value) for name, value in headers.items()]
        own += [("content-length", str(len(body))), ("x-request-id", environ["coatcheck.request_id"])]
        with contextlib.suppress(RuntimeError):  # the client may be gone, or the answer begun
            proto.response_bytes(int(status), own, body)
        return int(status)


@contextlib.contextmanager
def _watch_client(proto: Proto, sleeper: Any, seconds: float) -> Any:
    """Wake the sleeper for good when the client hangs up; short waits are not worth the task."""
    if seconds < WATCH_CLIENT_S:
        yield
        return
    watching = asyncio.ensure_future(proto.client_disconnect())
    watching.add_done_callback(lambda done: None if done.cancelled() else sleeper.hang_up())
    try:
        yield
    finally:
        watching.cancel()


def _with_descriptor(stream: BinaryIO) -> BinaryIO:
    """The stream itself if it is an open local file, else a copy in an unnamed temporary one."""
    try:
        stream.fileno()
        return stream
    except (AttributeError, OSError):
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it was sent
        with stream:
            shutil.copyfileobj(stream, copy, 1024 * 1024)
        copy.flush()
        return cast(BinaryIO, copy)


def _at_once(wait: Wait) -> bytes:
    found = wait.finish(True)
    return found() if callable(found) else found or b"null"


def _content_length(environ: Environ) -> int | None:
    text = environ.get("CONTENT_LENGTH")
    if text is None:
        return None
    if not text.isdecimal():
        raise InvalidInput(f"Content-Length is {text[:40]!r}; expected a number of bytes", field="Content-Length")
    return int(text)


def _without_length(headers: Headers) -> Headers:
    return [header for header in headers if header[0] != "content-length"]


def create() -> Shell:
    """One web process's application, from the environment (Granian's factory; run in each of its workers)."""
    die_with_parent()
    settings = Settings.from_env(os.environ)
    configure_logs(settings, "web")
    client = connect(settings.effective_redis_url)
    core = open_core(settings, client, LoopCalls(client))
    stats = HttpStats()
    hub = Hub(keys.web_channel(secrets.token_hex(6)), settings.max_waits)
    app = create_app(core, stats)
    return Shell(
        app,
        hub,
        settings,
        stats,
        redis=LoopRedis(client, hub),
        on_start=lambda loop: report_always(loop, core, stats, hub),
    )
