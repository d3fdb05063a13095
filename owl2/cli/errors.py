"""What a user can put right is one line on stderr and exit code 2; anything else keeps its traceback."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

USER_ERRORS = (ValueError, OSError, ImportError, SafetensorError, pickle.UnpicklingError, StrictDataclassError)
"""Wrong arguments and files, missing extras, damaged weights, settings that a model of transformers cannot have."""

EXIT_CODE = 2


@contextmanager
def user_errors_as_one_line(debug: bool) -> Iterator[None]:
    """Turns `USER_ERRORS` into a line and `EXIT_CODE`; with `debug` they pass through."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        raise
    except USER_ERRORS as error:
        if debug:
            raise
        show_error(error)
        raise typer.Exit(EXIT_CODE) from error


def show_error(error: BaseException) -> None:
    """Writes an error as one line on stderr."""
    typer.echo(f"owl2: error: {' '.join(str(error).split()) or type(error).__name__}", err=True)
