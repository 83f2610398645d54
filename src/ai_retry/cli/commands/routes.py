"""``ai-retry routes``: providers and models that are unavailable or held; holds one, and opens one."""

from dataclasses import asdict
from datetime import datetime, timedelta
from shlex import quote

import click

from ai_retry.cli.commands._acting import acting, named, reading
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._shared import as_json_option, columns, connected, print_json
from ai_retry.domain.operation import RouteReport
from ai_retry.operate.acting import LONGEST_HOLD
from ai_retry.recovery.when import read_duration
from ai_retry.tables import text_table

_HOLD = "ai-retry routes hold api.x.ai/grok-4 --for 30m --operator ada --reason slow"
_OPEN = 'ai-retry routes open api.x.ai/grok-4 --operator ada --reason "it is back"'
_HEADER = ("provider and model", "state", "until", "since", "last failure", "running", "waiting")


def _duration(_context: click.Context, _parameter: click.Parameter, text: str) -> timedelta:
    duration = read_duration(text)
    if not duration:
        raise click.BadParameter("must be a duration, such as 30m or 2h")
    if duration > LONGEST_HOLD:
        raise click.BadParameter(f"must be at most {LONGEST_HOLD / timedelta(hours=1):g}h")
    return duration


@click.group(
    invoke_without_command=True,
    short_help="Show, hold and open providers' routes.",
    epilog=examples(
        "ai-retry routes",
        _HOLD,
        _OPEN,
    ),
)
@as_json_option
@click.pass_context
def routes(context: click.Context, *, as_json: bool) -> None:
    """Show each provider and model that is unavailable, held or coming back: since when, until when and by what."""
    if context.invoked_subcommand is not None:
        return
    with connected() as client:
        overview = reading(client).overview()
    if as_json:
        print_json([asdict(each) for each in overview.routes])
    elif overview.routes:
        rows = [_row(each, overview.as_of) for each in overview.routes]
        click.echo(text_table(_HEADER, rows, width=columns(), whole=True))
    else:
        click.echo("No route is held, and none is known to be unavailable.")


@routes.command("hold", short_help="Let no attempt call a route for a while.", epilog=examples(_HOLD))
@click.argument("route")
@click.option(
    "--for", "duration", required=True, metavar="DURATION", callback=_duration, help="Such as 30m or 2h; 24h at most."
)
@named
def hold(route: str, *, duration: timedelta, operator: str, reason: str) -> None:
    """Let no attempt call ROUTE for a while. Then it opens by itself.

    Clicks are refused, accepted retries and plans wait, and calls fall back, as in an outage; no probe is sent. Calls
    that run go on. A repeat replaces how long. ROUTE is the provider's name and the model, as the
    column `route` of `ai_retry_attempts` has it.
    """
    with connected() as client:
        acting(client, operator).hold_route(route, seconds=duration.total_seconds(), reason=reason)
    by_hand = f"ai-retry routes open {quote(route)} --operator {quote(operator)} --reason {quote('it is back')}"
    click.echo(f"Held. Next: ai-retry routes; it opens by itself, or by: {by_hand}")


@routes.command("open", short_help="Let calls go to a route at once.", epilog=examples(_OPEN))
@click.argument("route")
@named
def open_route(route: str, *, operator: str, reason: str) -> None:
    """Forget that ROUTE is held or unavailable: calls may start at once, and what waits for it goes on."""
    with connected() as client:
        found = acting(client, operator).open_route(route, reason=reason)
    click.echo("Open." if found else "Nothing was known of it: it was open.")


def _row(route: RouteReport, now: datetime) -> tuple[object, ...]:
    if route.held_until is not None:
        state = f"held by {route.held_by}"
    else:
        state = "unavailable" if route.not_before > now else "coming back"
    since = "" if route.began_at is None else f"{route.began_at:%Y-%m-%d %H:%M:%S}"
    until = f"{route.not_before:%Y-%m-%d %H:%M:%S}" if route.not_before > now else ""
    return route.route, state, until, since, route.code or "", route.running, route.waiting
