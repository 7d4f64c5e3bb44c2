"""The command line: which commands there are, and how errors become one line and an exit code."""

import errno
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress

import click

from tune_newllm import __version__
from tune_newllm.cli.checkpoints import export, generate
from tune_newllm.cli.evaluation import evaluate
from tune_newllm.cli.resuming import extend, resume
from tune_newllm.cli.schema import schema
from tune_newllm.cli.sweeps import report, search, status
from tune_newllm.cli.training import train
from tune_newllm.errors import TuneError
from tune_newllm.sweep.stopping import Terminated, endable


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="tune_newllm")
def commands() -> None:
    """Hyper-parameter search for New-LLM, a language model that carries a context vector instead of attention.

    \b
    A first sweep, on text that comes with Python:
      python -m tune_newllm search search_spaces/lr_batch.yaml
    """


for command in (search, resume, extend, status, report, export, train, generate, evaluate, schema):
    commands.add_command(command)


def main() -> None:
    """Run one command and end the process with the exit code that README lists."""
    messages = logging.getLogger("tune_newllm")
    messages.addHandler(_Messages())
    messages.setLevel(logging.INFO)
    try:
        with endable():
            code = commands.main(prog_name="python -m tune_newllm", standalone_mode=False) or 0
    except click.exceptions.Exit as ending:
        code = ending.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except TuneError as error:
        click.echo("\n".join(f"error: {line}" for line in str(error).splitlines()), err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort) as ending:
        # click turns every kind of interrupt into its own error.
        terminated = isinstance(ending, Terminated) or isinstance(ending.__cause__, Terminated)
        code = 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    except PermissionError as error:
        click.echo(f"error: no permission to use {error.filename}: change its rights or give another place", err=True)
        code = 2
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has gone; nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _unforeseen(error)
    sys.exit(code)


def _unforeseen(error: Exception) -> int:
    """Say what went wrong: a disk that takes no more is nobody's fault, everything else is ours."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        click.echo(f"error: cannot write {error.filename or 'a file'} ({error.strerror}): make room", err=True)
        return 2
    traceback.print_exception(error)
    click.echo("error: this is a fault of tune_newllm itself; please report it with the lines above", err=True)
    return 1


class _Messages(logging.Handler):
    """Shows what the package has to say as it shows its other messages."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message to stderr."""
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        with suppress(OSError):
            click.echo(level + record.getMessage(), err=True)
