"""The label linter: what a pass over all files means, worst first."""

from collections.abc import Sequence

from terrazzo.check.scan import Record
from terrazzo.check.verdict import SEVERITIES, Severity, Verdict, together
from terrazzo.check.verdicts_case import Case
from terrazzo.check.verdicts_classes import class_verdicts
from terrazzo.check.verdicts_colors import color_verdicts
from terrazzo.check.verdicts_copies import copy_verdicts
from terrazzo.check.verdicts_files import file_verdicts
from terrazzo.check.verdicts_fit import fit_verdicts
from terrazzo.check.verdicts_values import value_verdicts
from terrazzo.data.folder import FolderData
from terrazzo.data.inventory import Inventory

__all__ = ["SEVERITIES", "Severity", "Verdict", "together", "verdicts"]


def verdicts(
    cfg: FolderData, kind: str, found: Inventory, records: Sequence[Record], *, sample: bool = False
) -> list[Verdict]:
    """What is wrong with a data set: by severity, then by the share of files concerned.

    Args:
        kind: `data.kind` of the recipe, which says what settings can be typed.
        sample: not all labels were decoded, so that nothing can be said about the whole.
    """
    case = Case(cfg, kind, found, tuple(records))
    coding = [*value_verdicts(case), *color_verdicts(case)]
    verdicts = [*file_verdicts(case), *coding]
    # Labels that are misread say nothing about classes, or about how they lie on their images.
    misread = any(one.severity == "error" and 2 * len(one.files) > len(case.records) for one in coding)
    if not sample:
        verdicts += copy_verdicts(case)
    if not sample and not misread:
        verdicts += [*fit_verdicts(case), *class_verdicts(case)]
    return sorted(verdicts, key=lambda one: (SEVERITIES.index(one.severity), -len(one.files)))
