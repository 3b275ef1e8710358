"""What of a network its answer depends on; the rest is taken out, because it would never learn."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from terrazzo.models.segmenter import Segmenter


def remove_unused(segmenter: Segmenter, look: Callable[[], Iterable[Tensor]]) -> None:
    """Take out modules that no answer of `look` depends on (a classifier, stages beyond the depth in use).

    `look` runs the network on one small image and gives its answers with their autograd graph. A parameter is used if
    the graph reaches it; what was called but is not reached stays, and learns nothing.
    """
    called: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in segmenter.modules()]
    try:
        with torch.enable_grad():
            used = _reached(look())
    finally:
        for hook in hooks:
            hook.remove()
    if not used:  # built in inference mode: there is no graph, and nothing to be learned
        return

    def clean(parent: nn.Module) -> None:
        for name, child in parent.named_children():
            parameters = [*child.parameters()]
            if parameters and not used.intersection(parameters) and not called.intersection(child.modules()):
                setattr(parent, name, nn.Identity())
            else:
                clean(child)

    clean(segmenter.net)
    for parameter in segmenter.parameters():
        parameter.requires_grad_(parameter in used)
    named = segmenter.named_parameters(remove_duplicate=False)
    segmenter.unused = frozenset(name for name, parameter in named if parameter not in used)


def _reached(answers: Iterable[Tensor]) -> set[Tensor]:
    """The leaves of the answers' autograd graphs."""
    leaves: set[Tensor] = set()
    waiting = [answer.grad_fn for answer in answers]
    nodes = {*waiting}
    while waiting:
        node: Any = waiting.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            leaves.add(node.variable)
        for following, _ in node.next_functions:
            if following not in nodes:
                nodes.add(following)
                waiting.append(following)
    return leaves
