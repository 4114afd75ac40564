"""The commands about what the bridge keeps in the database: `migrate` and `slot`."""

import json
from pathlib import Path

import click

from bridge import migrations
from bridge.cli_target import config_of, target
from bridge.slot import create_slot, drop_slot, second_slot, show_slot
from bridge.window_facts import drop_second


@click.group()
def migrate() -> None:
    """The bridge's own objects in the database: the schema realtime, its subscription table, and walrus_bridge."""


@migrate.command("deploy")
@target(slot=False)
@click.option(
    "--print",
    "only_print",
    envvar="WALRUS_BRIDGE_MIGRATE_DEPLOY_PRINT",
    is_flag=True,
    help="Print the plain SQL instead, for psql; connects to nothing.",
)
def migrate_deploy(config: Path | None, connection: str, only_print: bool) -> None:
    """Apply the missing migrations.

    \b
    Examples:
      walrus-bridge migrate deploy --connection postgresql://postgres@localhost:5432/postgres
      walrus-bridge migrate deploy --print | psql --set ON_ERROR_STOP=1 …
    """
    if only_print:
        click.echo(migrations.plain_sql(), nl=False)
        return
    applied = migrations.deploy(config_of(config, connection).source.connection)
    click.echo(f"applied {', '.join(applied)}" if applied else "all migrations were applied already")


@migrate.command("status")
@target(slot=False)
def migrate_status(config: Path | None, connection: str) -> None:
    """Say which migrations are applied and which are not.

    \b
    Example: walrus-bridge migrate status --config bridge.yaml
    """
    click.echo(migrations.status(config_of(config, connection).source.connection))


@migrate.command("verify")
@target(slot=False)
def migrate_verify(config: Path | None, connection: str) -> None:
    """Check that what the migrations made is there.

    \b
    Example: walrus-bridge migrate verify --config bridge.yaml
    """
    migrations.verify(config_of(config, connection).source.connection)
    click.echo("all migrations are applied")


@migrate.command("revert")
@target(slot=False)
@click.option("--to", metavar="CHANGE", help="Revert down to this migration, which stays; default: all of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def migrate_revert(config: Path | None, connection: str, to: str | None, yes: bool) -> None:
    """Take the migrations back.

    Only what the bridge made is dropped, and nothing where subscriptions or a slot's state would be lost.

    \b
    Example: walrus-bridge migrate revert --config bridge.yaml --yes
    """
    conninfo = config_of(config, connection).source.connection
    _confirm(f"Revert {f'the migrations after {to}' if to else 'all migrations'}?", yes)
    reverted = migrations.revert(conninfo, to)
    click.echo(f"reverted {', '.join(reverted)}" if reverted else "nothing was there to revert")


@click.group()
def slot() -> None:
    """The replication slot, which holds the position and keeps the WAL that is not delivered yet."""


@slot.command("create")
@target(slot=True)
def slot_create(config: Path | None, connection: str, slot: str) -> None:
    """Make the slot: changes from now on are kept for the bridge. `run` does this by itself.

    \b
    Example: walrus-bridge slot create --config bridge.yaml
    """
    source = config_of(config, connection, slot).source
    create_slot(source.connection, source.slot, source.plugin)
    click.echo(f"made slot {source.slot} with the plugin {source.plugin}")


@slot.command("drop")
@target(slot=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def slot_drop(config: Path | None, connection: str, slot: str, yes: bool) -> None:
    """Drop the slot, and with it the position: what has not been delivered is lost to the bridge.

    The second slot, which source.replay_window keeps, goes too.

    \b
    Example: walrus-bridge slot drop --config bridge.yaml --yes
    """
    source = config_of(config, connection, slot).source
    _confirm(f"Drop slot {source.slot} and lose its position?", yes)
    drop_slot(source.connection, source.slot)
    second = drop_second(source.connection, source.slot)
    click.echo(f"dropped slot {source.slot}{f' and {second_slot(source.slot)}' if second else ''}")


@slot.command("show")
@target(slot=True)
@click.option("--json", "as_json", envvar="WALRUS_BRIDGE_SLOT_SHOW_JSON", is_flag=True, help="Print it as JSON.")
def slot_show(config: Path | None, connection: str, slot: str, as_json: bool) -> None:
    """Show the slot: plugin, position, who streams from it, how much WAL it holds.

    \b
    Example: walrus-bridge slot show --config bridge.yaml
    """
    source = config_of(config, connection, slot).source
    facts = show_slot(source.connection, source.slot)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:{width}}  {'-' if value is None else value}")


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        click.confirm(question, abort=True, err=True)
