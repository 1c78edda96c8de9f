"""The command line, `python -m coatcheck`: run, process, audit, artifacts, resume-version, key, keys, accounts, ...

An entry file: it reads the environment.
"""

from __future__ import annotations

import os
import sys

import click
import redis
from rich.console import Console
from rich.markup import escape

from coatcheck import service
from coatcheck.accounts import Accounts
from coatcheck.audit import audit as find_violations
from coatcheck.cli_accounts_delete import delete_command
from coatcheck.cli_artifacts import artifacts_commands, artifacts_group
from coatcheck.cli_audit_log import audit_log_group, log_commands, verify_command
from coatcheck.cli_keys import groups as key_groups
from coatcheck.cli_webhooks import listen_command, webhooks_group
from coatcheck.connections import connect
from coatcheck.errors import CoatcheckError
from coatcheck.preflight import ensure_key
from coatcheck.settings import Settings
from coatcheck.store import JobStore

REFUSED = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Coatcheck: drop off a job, keep the ticket, pick up the result. Settings: COATCHECK_* (README.md)."""


@cli.command()
def run() -> None:
    """Start the service and keep it running until Ctrl-C or SIGTERM."""
    service.run(Settings.from_env(os.environ), os.environ)


@cli.command()
@click.argument("name")
def process(name: str) -> None:
    """Become one process of the service: redis, web, worker-predict, worker-train or worker-io."""
    service.become(name, Settings.from_env(os.environ), os.environ)


@cli.command()
@click.option("--repair", is_flag=True, help="Put right what can be put right, one job at a time.")
def audit(repair: bool) -> None:
    """Check every job record against the invariants; exit 1 if one is violated."""
    settings = Settings.from_env(os.environ)
    console = Console()
    with console.status("reading job records in slices"):
        store = JobStore(connect(settings.effective_redis_url, timeout_s=30))
        violations = find_violations(store, repair=repair)
    for violation in violations:
        console.print(f"[bold]{violation.invariant}[/] {escape(violation.id)}: {escape(violation.detail)}")
    count = f"{len(violations)} violation{'' if len(violations) == 1 else 's'}"
    console.print(count + (", repaired where possible" if repair and violations else ""))
    if violations:
        sys.exit(1)


@cli.command()
@click.argument("version")
def resume_version(version: str) -> None:
    """Take new jobs again for a version that was suspended because its jobs ended their worker."""
    settings = Settings.from_env(os.environ)
    resumed = JobStore(connect(settings.effective_redis_url)).resume_version(version)
    click.echo(f"version {version} takes jobs again" if resumed else f"version {version} was not suspended")
    if not resumed:
        sys.exit(1)


@cli.command()
def key() -> None:
    """Make the first account and admin key if they are not there; print where the key lies.

    For services that are not started by `run` (Procfile, containers).
    """
    settings = Settings.from_env(os.environ)
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    value, new = ensure_key(settings)
    Accounts(connect(settings.effective_redis_url)).ensure(settings.account, value)
    if new:
        click.echo(value)
    where = "COATCHECK_API_KEY" if settings.api_key else settings.home / "api-key"
    click.echo(f"account {settings.account}: its admin key is in {where}", err=True)


keys_group, accounts_group = key_groups(lambda: Settings.from_env(os.environ))
accounts_group.add_command(delete_command(lambda: Settings.from_env(os.environ)))
cli.add_command(keys_group)
cli.add_command(accounts_group)
webhooks_group.add_command(listen_command(lambda: Settings.from_env(os.environ)))
cli.add_command(webhooks_group)
for _command in artifacts_commands(lambda: Settings.from_env(os.environ)):
    artifacts_group.add_command(_command)
cli.add_command(artifacts_group)
audit_log_group.add_command(verify_command(lambda: Settings.from_env(os.environ)))
cli.add_command(audit_log_group)
log_commands(cli, lambda: Settings.from_env(os.environ))


def main() -> None:
    """Run a command; a refusal is one line (or the lines to change) on stderr and exit status 2."""
    try:
        cli(prog_name="coatcheck")
    except CoatcheckError as error:
        click.echo(f"coatcheck: {error}", err=True)
        sys.exit(REFUSED)
    except redis.exceptions.RedisError as error:
        told = f"Redis does not answer as it should: {error}"
        if isinstance(error, redis.exceptions.ConnectionError) and not os.environ.get("COATCHECK_REDIS_URL"):
            told += "; the service is to run, and COATCHECK_HOME to name the home it was started with"
        click.echo(f"coatcheck: {told}", err=True)
        sys.exit(REFUSED)
