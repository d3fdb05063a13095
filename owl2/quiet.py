"""What other packages say is left out, unless `owl2 -v` asks for it: stderr has our own lines alone."""

import logging
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import import_module
from typing import Any

import typer


@contextmanager
def only_our_lines() -> Iterator[None]:
    """Silences warnings of other packages, and their loggers below errors; progress bars need a terminal."""
    with ExitStack() as restored:
        restored.enter_context(warnings.catch_warnings())
        if not sys.warnoptions:  # python -W, PYTHONWARNINGS: somebody wants to see them
            warnings.filterwarnings("ignore", module=r"(?!owl2\b)")
            warnings.showwarning = _show_warning
        restored.callback(logging.setLoggerClass, logging.getLoggerClass())
        logging.setLoggerClass(_OursAlone)
        _quieten_transformers(restored)
        yield


def is_quiet() -> bool:
    """Whether it is within `only_our_lines`."""
    return logging.getLoggerClass() is _OursAlone


def call_in_new_process(quiet: bool, module: str, function: str, *arguments: Any) -> None:
    """The first call of a spawned process: it takes a function by name, so that its module is imported quietly too.

    Data workers of the process start as the platform starts them by default. A spawned process would spawn them too,
    and each would import torch once more, for seconds.
    """
    multiprocessing.set_start_method(None, force=True)
    with only_our_lines() if quiet else nullcontext():
        getattr(import_module(module), function)(*arguments)


class _OursAlone(logging.Logger):
    """Silences loggers made from now on: those of the packages that a command imports later."""

    def isEnabledFor(self, level: int) -> bool:
        is_ours = self.name.partition(".")[0] == "owl2"
        return (is_ours or level >= logging.ERROR) and super().isEnabledFor(level)


def _quieten_transformers(restored: ExitStack) -> None:
    """Sets transformers' own level and bars, by the environment or, where it is imported already, by its functions.

    tqdm, whose bars it draws too, reads the environment when it is imported.
    """
    has_bars = sys.stderr.isatty()
    settings = {"TRANSFORMERS_VERBOSITY": "error"}
    if not has_bars:
        settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    for name, value in settings.items():
        if name not in os.environ:
            os.environ[name] = value
            restored.callback(os.environ.pop, name, None)
    if "transformers" in sys.modules:
        from transformers.utils import logging as of_transformers

        restored.callback(of_transformers.set_verbosity, of_transformers.get_verbosity())
        of_transformers.set_verbosity_error()
        if not has_bars and of_transformers.is_progress_bar_enabled():
            restored.callback(of_transformers.enable_progress_bar)
            of_transformers.disable_progress_bar()


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    typer.echo(f"owl2: {' '.join(str(message).split())}", err=True)
