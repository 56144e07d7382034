"""The command line: one file a command, loaded when it is called. Here is only the frame: names, errors, exit codes."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import click

from cellengine.errors import CellengineError, Interrupted, missing_package

COMMANDS = {
    "infer": "Label the objects in pictures and stacks, and measure them.",
    "prepare": "Turn data as they were published or annotated into lists that train and evaluate read.",
    "train": "Train a model from a configuration file or a preset.",
    "export": "Turn a training run into one portable, verified model file.",
    "bench": "Measure how fast models run here, in every combination, and in how much memory.",
    "evaluate": "Compare predicted labels with the truth.",
    "view": "Open a picture with its labels and its table in napari.",
    "watch": "Label pictures as they arrive in a folder, and show what was found.",
    "verify": "Check that an output is still what infer wrote.",
    "models": "List the models that come with the package.",
    "info": "Say what is in a model file or a picture.",
    "doctor": "Check what this machine can run, and prove it with the models' own tests.",
    "demo": "Run the main job on two example pictures.",
}
"""name -> one line of help, known without loading `cellengine.cli.<name>`, whose `command` is the rest"""

EXTRAS = {"train": "train", "export": "train", "watch": "watch"}
"""command -> the extra that brings the packages which the base install lacks"""

OUT_OF_MEMORY = 5
INTERRUPTED = 130
UNEXPECTED = 1


def _remember_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["cellengine.debug"] = True


class LazyGroup(click.Group):
    """A group whose commands are known by name and one line of help; a command's module is loaded when it is called."""

    package: ClassVar[str]
    """where the modules are; the `command` of each is the rest"""
    known: ClassVar[Mapping[str, str]]
    """name -> one line of help"""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which one meets them."""
        return list(self.known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; every one takes --debug too, because that is where people write it."""
        if cmd_name not in self.known:
            return None
        command: click.Command = importlib.import_module(f"{self.package}.{cmd_name}").command
        if all(parameter.name != "debug" for parameter in command.params):
            command.params.append(
                click.Option(["--debug"], is_flag=True, hidden=True, expose_value=False, callback=_remember_debug)
            )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.known.items()))


class Frame(LazyGroup):
    """The program: it turns errors into one line and an exit code."""

    package = "cellengine.cli"
    known = COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command. Raises DeviceError, with the pip command, for one whose extra is not installed."""
        try:
            return super().get_command(ctx, cmd_name)
        except ModuleNotFoundError as error:
            if cmd_name not in EXTRAS or (error.name or "cellengine").partition(".")[0] == "cellengine":
                raise
            install = f"pip install 'cellengine[{EXTRAS[cmd_name]}]'"
            raise missing_package(str(error.name), f"cellengine {cmd_name}", install) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Errors end in `click.exceptions.Exit` with their code, after one line on stderr."""
        try:
            return super().invoke(ctx)
        except Interrupted as error:
            _fail(ctx, error, str(error), 128 + error.signal_number)
        except CellengineError as error:
            _fail(ctx, error, str(error), error.exit_code)
        except KeyboardInterrupt as error:
            _fail(ctx, error, "interrupted", INTERRUPTED)
        except MemoryError as error:
            _fail(ctx, error, "not enough memory; close other programs, or take smaller tiles.", OUT_OF_MEMORY)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # the last net: what nobody foresaw still ends in one line
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            _fail(ctx, error, f"{reason} (unexpected; run it again with --debug to see where)", UNEXPECTED)


@click.command(cls=Frame, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cellengine", message="%(prog)s %(version)s")
@click.option(
    "--debug", is_flag=True, expose_value=False, callback=_remember_debug, help="Show the traceback of an error."
)
def group() -> None:
    """Turn microscope images into labelled cells and tables: train, export and run models on CPUs and GPUs.

    Start with `cellengine demo`, or `cellengine infer PICTURE -o OUT`.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the program `cellengine`; ends with SystemExit."""
    try:
        code = group.main(arguments, prog_name="cellengine", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "cellengine"
        _say(f"{error.format_message()} See `{where} --help`.")
        code = error.exit_code
    except click.ClickException as error:
        _say(error.format_message())
        code = error.exit_code
    except click.Abort:
        _say("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:
        # the reader has gone: nothing is left to say, and Python's own flush at the end must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNEXPECTED
    sys.exit(code if isinstance(code, int) else 0)


def _fail(ctx: click.Context, error: BaseException, message: str, code: int) -> NoReturn:
    """Say it in one line, after the traceback when that was asked for, and leave with `code`."""
    if ctx.find_root().meta.get("cellengine.debug"):
        traceback.print_exception(error)
    _say(message)
    raise click.exceptions.Exit(code) from error


def _say(message: str) -> None:
    click.echo(f"error: {' '.join(message.split())}", err=True)
