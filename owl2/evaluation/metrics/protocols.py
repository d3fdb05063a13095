"""The choice among the programs that score a benchmark differently."""

from collections.abc import Mapping
from typing import TypeVar

Rule = TypeVar("Rule")


def chosen_protocol(protocols: Mapping[str, Rule], name: str) -> Rule:
    """The protocol of that name.

    Raises:
        ValueError: There is none; the message lists the existing ones.
    """
    if name not in protocols:
        raise ValueError(f"unknown protocol {name!r}: choose one of {', '.join(protocols)}")
    return protocols[name]
