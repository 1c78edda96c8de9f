"""`coatcheck webhooks listen`: a receiver for development that checks signatures and prints what comes. One thread."""

from __future__ import annotations

import http.client
import http.server
import json
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import click

from coatcheck import webhooks
from coatcheck.errors import CoatcheckError, SettingsError, Unauthenticated
from coatcheck.settings import Settings

#: Larger bodies are refused with 413.
LONGEST_BODY = 64 * 1024**2
#: Characters of a body that are printed, unless all are asked for.
SHOWN = 400
SECRET_PATH = "/v1/webhooks/default/secret"  # noqa: S105 - a path  # nosec B105


def account_secret(settings: Settings) -> str:
    """The secret of jobs' own webhooks, asked of the running service with the key of its home.

    Raises:
        SettingsError: there is no key, or the service does not answer.
    """
    key_file = settings.home / "api-key"
    try:
        key = settings.api_key or key_file.read_text().strip()
    except OSError:
        raise SettingsError(f"no --secret was given and {key_file} cannot be read") from None
    parts = urlsplit(settings.base_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=5)
    try:
        connection.request("GET", parts.path + SECRET_PATH, headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        raise SettingsError(
            f"no --secret was given and {settings.base_url} does not answer: {error}; "
            "set COATCHECK_PORT or COATCHECK_PUBLIC_URL as the service has them"
        ) from None
    finally:
        connection.close()
    if answer.status != 200:
        raise SettingsError(f"no --secret was given and {settings.base_url} answered {answer.status}")
    return str(json.loads(body)["key"])


def listen(
    secret: str, *, host: str, port: int, status: int, count: int, whole: bool, say: Callable[[str], object]
) -> int:
    """Receive until Ctrl-C, or until `count` were valid (0: no end); returns how many were not valid.

    Raises:
        OSError: the address is taken.
    """
    good = bad = 0

    class Receiver(http.server.BaseHTTPRequestHandler):
        timeout = 15

        def do_POST(self) -> None:
            nonlocal good, bad
            length = self.headers.get("content-length", "")
            if not length.isdecimal() or int(length) > LONGEST_BODY:
                return self._answer(413)
            body = self.rfile.read(int(length))
            given = {name.lower(): value for name, value in self.headers.items()}
            try:
                event = webhooks.verify(secret, given, body, now_s=time.time())
            except Unauthenticated as error:
                bad += 1
                say(f"REFUSED {self.path}: {error}")
                return self._answer(401)
            good += 1
            say(f"{time.strftime('%H:%M:%S')} {event} {_summary(body)}, {len(body)} bytes, signature is valid")
            text = body.decode("utf-8", "replace")
            say("  " + (text if whole or len(text) <= SHOWN else text[:SHOWN] + " ..."))
            return self._answer(status)

        def _answer(self, code: int) -> None:
            self.send_response(code)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing: what matters is printed above."""

    with http.server.HTTPServer((host, port), Receiver) as server:
        shown = f"[{host}]" if ":" in host else host
        say(f"listening on http://{shown}:{server.server_port}/ (Ctrl-C ends)")
        try:
            while not count or good < count:
                server.handle_request()
        except KeyboardInterrupt:
            say("")
    say(f"{good} valid, {bad} refused")
    return bad


def _summary(body: bytes) -> str:
    """What a body is about, in a word or two."""
    try:
        told = json.loads(body)
    except ValueError:
        return "(no JSON)"
    if not isinstance(told, dict):
        return "(no object)"
    return " ".join(str(told[name]) for name in ("type", "model", "status") if name in told) or "(an object)"


@click.group("webhooks")
def webhooks_group() -> None:
    """Receive webhooks while developing."""


def listen_command(read_settings: Callable[[], Settings]) -> click.Command:
    """The command `listen`; settings are read only where no secret is given."""

    @click.command("listen")
    @click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
    @click.option("--port", default=8900, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
    @click.option("--secret", default="", help="whsec_...; without it the account's own is asked of the service.")
    @click.option("--status", default=200, show_default=True, type=click.IntRange(200, 599), help="What to answer.")
    @click.option("--count", default=0, type=click.IntRange(0), help="End after so many valid ones.")
    @click.option("--whole", is_flag=True, help="Print bodies in full.")
    def command(host: str, port: int, *, secret: str, status: int, count: int, whole: bool) -> None:
        """Listen for webhooks, check their signatures, print them. COATCHECK_WEBHOOK_ALLOW must list the host."""
        secret = secret or account_secret(read_settings())
        if not webhooks.is_secret(secret):
            raise SettingsError("--secret is no webhook secret; expected whsec_ and 24 to 64 bytes in base64")
        try:
            bad = listen(secret, host=host, port=port, status=status, count=count, whole=whole, say=click.echo)
        except OSError as error:
            raise CoatcheckError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        if bad and count:
            raise SystemExit(1)

    return command
