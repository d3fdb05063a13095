"""`python -m owl2`, and with it `torchrun -m owl2 COMMAND ...`."""

from owl2.cli.main import app

app()
