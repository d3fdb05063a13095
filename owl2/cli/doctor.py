"""`owl2 doctor`: what is here, what is missing, how to get it."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from owl2.environment import Environment


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Check versions, devices and optional extras. Exit code 1 if something required is missing."""
    from owl2.environment import examine

    found = examine()
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        _show(found)
    if found.problems:
        raise typer.Exit(1)


def _show(found: "Environment") -> None:
    typer.echo(f"Python {found.python} on {found.platform}")
    typer.echo("\nrequired")
    for package in found.required:
        state = "" if package.fits else "   <- missing" if package.found is None else "   <- does not fit"
        typer.echo(f"  {package.name:<18}{package.found or '-':<14}{package.wanted}{state}")
    typer.echo("\ndevices")
    for device in found.devices:
        typer.echo(f"  {device}")
    typer.echo("\noptional extras")
    for extra, packages in found.extras.items():
        missing = [package.name for package in packages if not package.fits]
        state = f"lacks {', '.join(missing)}: pip install 'owl2[{extra}]'" if missing else "installed"
        typer.echo(f"  {extra:<18}{state}")
    for hint in found.hints:
        typer.echo(f"\nhint: {hint}")
    for problem in found.problems:
        typer.echo(f"\nproblem: {problem}")
    count = len(found.problems)
    typer.echo(f"\n{count} {'problem' if count == 1 else 'problems'} to put right." if count else "\nowl2 is ready.")
