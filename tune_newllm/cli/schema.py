"""The command that prints the sweep file's JSON schema."""

import json

import click


@click.command()
def schema() -> int:
    """Print the JSON schema of sweep files, with which editors complete and check them.

    \b
      python -m tune_newllm schema > sweep.schema.json

    A file then begins with `# yaml-language-server: $schema=sweep.schema.json`.
    """
    from tune_newllm.sweep.schema import schema as grammar

    click.echo(json.dumps(grammar(), indent=2))
    return 0
