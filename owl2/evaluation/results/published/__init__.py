"""The published results of mPLUG-Owl2 and of the models it is compared with, and how ours compare."""

from .rendering import markdown
from .tables import PublishedTable, published_table, published_tables

__all__ = ["PublishedTable", "markdown", "published_table", "published_tables"]
