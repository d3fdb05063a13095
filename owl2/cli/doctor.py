"""`owl2 doctor`: what is installed, what is missing and how to get it, and whether these versions work together."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from owl2.environment import Environment
    from owl2.self_test import Check

EXAMPLE = "owl2 doctor"


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Check versions, devices and extras, and run a tiny model on them. Exit code 1 if something does not work."""
    from owl2.environment import examine

    found = examine()
    checks: list[Check] = []
    if all(package.found is not None for package in found.required):
        from owl2.self_test import self_test

        checks = self_test()
    if as_json:
        typer.echo(json.dumps({**found.to_dict(), "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _show(found, checks)
    if found.problems or not all(check.passed for check in checks):
        raise typer.Exit(1)


def _show(found: "Environment", checks: "list[Check]") -> None:
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
    typer.echo("\na tiny random model on these versions")
    for check in checks:
        typer.echo(
            f"  {'ok' if check.passed else 'FAILED':<8}{check.name}{'' if check.passed else f': {check.failure}'}"
        )
    if not checks:
        typer.echo("  not run: a required package is missing")
    for hint in found.hints:
        typer.echo(f"\nhint: {hint}")
    for problem in found.problems:
        typer.echo(f"\nproblem: {problem}")
    typer.echo(f"\n{_verdict(found, checks)}")


def _verdict(found: "Environment", checks: "list[Check]") -> str:
    from owl2.environment import NEWEST_TESTED

    if not all(check.passed for check in checks):
        tested = " ".join(f"{name}=={NEWEST_TESTED[name]}" for name in ("torch", "transformers"))
        return f"owl2 does not work with this combination of versions. This one was tested: pip install {tested}"
    count = len(found.problems)
    if count:
        return f"{count} {'problem' if count == 1 else 'problems'} to put right."
    return "owl2 is ready: it works with this combination of versions."
