"""Options that several commands share."""

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
concurrent_option = click.option("--max-concurrent", type=click.IntRange(1), help="Most trials at once.")
