"""The command `owl2`. Its commands are found by name and imported only when they are needed."""

import difflib
from contextlib import nullcontext
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from owl2.quiet import only_our_lines
from owl2.spelling import did_you_mean

from .errors import user_errors_as_one_line

COMMANDS = (
    "quickstart",
    "train",
    "recipes",
    "cost",
    "ablate",
    "attention",
    "inspect",
    "initialize",
    "export",
    "merge-lora",
    "chat",
    "serve",
    "data",
    "evaluate",
    "score",
    "report",
    "quality",
    "info",
    "doctor",
)
"""Module `owl2.cli.NAME` holds NAME, a function or a `Typer` of several; for a command with a dash the names have an
underscore. At its top it imports only what is cheap. `EXAMPLE` is a command line to end its help with."""


class LazyCommands(TyperGroup):
    """Imports a command's module when it is called, and shows a user's errors as one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = import_module(f"owl2.cli.{name}")
        command = getattr(module, name)
        if isinstance(command, typer.Typer):
            return typer.main.get_command(command)
        single = typer.Typer(add_completion=False)
        single.command(cmd_name, epilog=f"Example: {module.EXAMPLE}")(command)
        return typer.main.get_command(single)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with user_errors_as_one_line(debug=False):  # whether to debug is one of the arguments
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS:
            hint = did_you_mean(difflib.get_close_matches(args[0], COMMANDS, 1))
            raise ValueError(f"there is no command {args[0]!r}: {hint}`owl2 --help` lists them")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with nullcontext() if ctx.params["verbose"] else only_our_lines():
            with user_errors_as_one_line(debug=ctx.params["debug"]):
                return super().invoke(ctx)


app = typer.Typer(
    cls=LazyCommands,
    help="mPLUG-Owl2: train, measure, look inside, chat.",
    no_args_is_help=True,
    epilog="Example: owl2 quickstart",
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from owl2 import __version__

        typer.echo(f"owl2 {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show what PyTorch, transformers and others print.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar="OWL2_DEBUG", help="Show where an error arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of all commands; `LazyCommands` reads them."""


if __name__ == "__main__":
    app()
