"""The command `schema`: what the bridge writes, for editors, code generators and consumers' tests."""

import json
from os import environ
from pathlib import Path

import click

from bridge import config_file
from bridge.cli_target import config_option


@click.command()
@click.argument("what", type=click.Choice(["events", "dead-letter", "asyncapi"]), default="events")
@config_option
def schema(what: str, config: Path | None) -> None:
    """Print the JSON Schema of events or dead letters, or an AsyncAPI document of a configuration.

    Connects to nothing. Only asyncapi needs the configuration: its channels are the configured topics or exchanges,
    with their message's headers, keys and values.

    \b
    Examples:
      walrus-bridge schema > event.schema.json
      walrus-bridge schema dead-letter > dead-letter.schema.json
      walrus-bridge schema asyncapi --config bridge.yaml > asyncapi.json
    """
    if what == "asyncapi":
        if config is None:
            raise click.UsageError(
                "asyncapi needs '-c' / '--config' (or WALRUS_BRIDGE_CONFIG): its channels come from there."
            )
        from bridge import asyncapi

        made = asyncapi.document(config_file.load(config, environ))
    else:
        from bridge import schema as schemas

        made = schemas.document(what)
    click.echo(json.dumps(made, indent=2, ensure_ascii=False))
