"""Which published entries run here, and why the others do not. Needs torch: it asks the architectures themselves."""

from terrazzo.base import InputError
from terrazzo.published.catalog import Entry
from terrazzo.published.loading import find_architecture
from terrazzo.published.missing import cannot_run, missing_part


def why_not(entry: Entry) -> str | None:
    """None if `entry` runs, else the reason: the missing part, or why its family is not trusted."""
    try:
        find_architecture(entry.name)
    except InputError as error:
        return str(error)
    return None


def short_reason(entry: Entry, reason: str | None) -> str | None:
    """The same for a table."""
    if reason is None:
        return None
    return f"lacks {missing_part(entry)}" if reason == cannot_run(entry) else reason
