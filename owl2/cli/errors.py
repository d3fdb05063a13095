"""What a user can put right is one line on stderr and exit code 2; anything else keeps its traceback."""

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from owl2.spelling import did_you_mean

EXIT_CODE = 2

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The error of a command line that does not parse, for which typer has no public name."""


def user_errors() -> tuple[type[BaseException], ...]:
    """Wrong arguments and files, missing extras, damaged weights, settings that a model of transformers refuses."""
    others = (("safetensors", "SafetensorError"), ("huggingface_hub.errors", "StrictDataclassError"))
    # An error of a module that is not imported cannot have been raised.
    raised = tuple(getattr(sys.modules[module], name) for module, name in others if module in sys.modules)
    return (ValueError, OSError, ImportError, pickle.UnpicklingError, *raised)


@contextmanager
def user_errors_as_one_line(debug: bool) -> Iterator[None]:
    """Turns `user_errors` and mistyped command lines into a line and `EXIT_CODE`; with `debug` they pass through."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        raise
    except _UsageError as error:
        if debug or type(error).__name__ == "NoArgsIsHelpError":  # shows the help
            raise
        show_error(ValueError(_what_was_mistyped(error)))
        raise typer.Exit(EXIT_CODE) from error
    except user_errors() as error:
        if debug:
            raise
        show_error(error)
        raise typer.Exit(EXIT_CODE) from error


def show_error(error: BaseException) -> None:
    """Writes an error as one line on stderr."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:  # instead of "[Errno 17] ..."
        text = f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    if isinstance(error, ModuleNotFoundError):
        from owl2.environment import extra_with

        module = (error.name or "").partition(".")[0]
        if (extra := extra_with(module)) is not None:
            text = f"{module} is not installed: pip install 'owl2[{extra}]'"
    typer.echo(f"owl2: error: {text}", err=True)


def _what_was_mistyped(error: Any) -> str:
    """One line about a command line that does not parse, and where its help is."""
    if type(error).__name__ == "NoSuchOption":  # whose words differ between versions of typer
        text = f"no such option: {error.option_name}; {did_you_mean(error.possibilities or ())}".rstrip("; ")
    else:
        text = error.format_message().rstrip(".").replace("Value error, ", "", 1)
        text = text[:1].lower() + text[1:]
    if error.ctx is not None:
        text += f"{' See' if text.endswith('?') else '; see'} {error.ctx.command_path} --help"
    return text
