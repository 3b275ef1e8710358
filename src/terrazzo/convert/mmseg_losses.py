"""Losses of an MMSegmentation configuration as the section `losses` of a recipe."""

from typing import Any

from terrazzo.convert.ledger import Ledger, Path, dotted

Tree = dict[str, Any]


def convert_losses(ledger: Ledger, names: tuple[str, ...]) -> Tree:
    """The sections `losses` and `auxiliary_weight`, of the last decode head and of all other heads.

    Args:
        names: of the classes, for their weights.
    """
    *earlier, main = _heads(ledger, "decode_head")
    auxiliary = [*earlier, *_heads(ledger, "auxiliary_head")]
    edges = [head for head in auxiliary if ledger.look(*head, "type") == "STDCHead"]
    places = _losses(ledger, main)
    if ledger.look(*main, "kernel_generate_head") is not None:
        ledger.remark("K-Net's losses on its kernels' masks are left out: the recipe has one loss on the scores")
        places = _losses(ledger, (*main, "kernel_generate_head"))
    if str(ledger.look(*main, "type")).endswith("PIDHead") and len(places) == 4:
        return _of_pidnet(ledger, places, names)
    sampler = (*main, "sampler") if len(places) == 1 else None
    found = [_loss(ledger, place, names, sampler) for place in places]
    losses = [loss for loss in found if loss is not None]
    if not losses:
        ledger.remark("no loss of the decode head has a counterpart; the recipe has cross entropy")
        losses = [{"kind": "cross_entropy"}]
    tree: Tree = {"losses": losses}
    for head in edges:
        ledger.remark(f"{dotted(head)} answers edges, and its loss is left out")
        ledger.take(*head, "loss_decode")
    heads = [head for head in auxiliary if head not in edges]
    if heads:
        tree["auxiliary_weight"] = _share(ledger, heads, losses)
    ledger.remark(
        "losses are means over the pixels that count; MMSegmentation's are over all, ignored ones too, unless "
        "avg_non_ignore is set"
    )
    return tree


def _of_pidnet(ledger: Ledger, places: list[Path], names: tuple[str, ...]) -> Tree:
    """Its four losses are of the heads P, I and D (edges), and of I again where the edges are."""
    first, second = (_loss(ledger, place, names, None) for place in places[:2])
    for place in places[2:]:
        ledger.take(*place)
    ledger.remark("PIDNet's losses on edges are left out: the recipe trains its two class heads")
    share = 0.4 if first is None else float(first["weight"])
    return {"losses": [second or {"kind": "cross_entropy"}], "auxiliary_weight": share}


def _heads(ledger: Ledger, key: str) -> list[Path]:
    return ledger.places("model", key)


def _losses(ledger: Ledger, head: Path) -> list[Path]:
    return ledger.places(*head, "loss_decode")


def _share(ledger: Ledger, heads: list[Path], losses: list[Tree]) -> float:
    """The auxiliary heads' weight as a multiple of the main head's."""
    main = sum(loss.get("weight", 1.0) for loss in losses)
    weights = []
    for head in heads:
        total = 0.0
        for place in _losses(ledger, head):
            weight = ledger.look(*place, "loss_weight", default=1.0)
            total += float(weight) if isinstance(weight, int | float) else 1.0
            ledger.take(*place)
        if ledger.look(*head, "loss_decode") is None:
            total = 1.0
        ledger.take(*head, "sampler")
        weights.append(total)
    if len({*weights}) > 1:
        ledger.remark(
            f"the auxiliary heads weigh {', '.join(f'{w:g}' for w in weights)} there, all the first one's here"
        )
    return round(weights[0] / main, 6) if main else weights[0]


def _loss(ledger: Ledger, place: Path, names: tuple[str, ...], sampler: Path | None) -> Tree | None:
    """One loss; None if it has no counterpart."""
    kind = ledger.kind(*place)
    weight = ledger.number(*place, "loss_weight")
    tree: Tree = {"weight": 1.0 if weight is None else float(weight)}
    for key in ("loss_name", "ignore_index", "avg_non_ignore", "reduction"):
        ledger.take(*place, key)
    sigmoid = ledger.take(*place, "use_sigmoid", default=kind == "FocalLoss")
    match kind:
        case "CrossEntropyLoss" | "OhemCrossEntropy" | "":
            ohem = _ohem(ledger, place, sampler) if kind == "OhemCrossEntropy" or _samples(ledger, sampler) else {}
            tree = {"kind": "ohem" if ohem else "cross_entropy", **tree, **ohem}
            _weights(ledger, place, names, tree)
            if sigmoid is True:
                ledger.remark("a sigmoid for each class (use_sigmoid) has no counterpart; the recipe has a softmax")
        case "FocalLoss":
            tree |= {"kind": "focal", "gamma": ledger.take(*place, "gamma", default=2.0)}
            alpha = ledger.look(*place, "alpha", default=0.5)
            if isinstance(alpha, int | float) and alpha > 0:
                tree["alpha"] = ledger.take(*place, "alpha", default=0.5)
            ledger.remark("the focal loss is over a sigmoid for each class there, over a softmax here")
        case "DiceLoss":
            tree |= {"kind": "tversky", "setting": "dice"}
            ledger.take(*place, "smooth")
            ledger.take(*place, "eps")
            ledger.take(*place, "activate")
        case "TverskyLoss":
            rates = {key: ledger.take(*place, key, default=value) for key, value in (("alpha", 0.3), ("beta", 0.7))}
            tree |= {"kind": "tversky", **rates}
        case "LovaszLoss":
            per_image = ledger.take(*place, "per_image", default=False) is True
            present = ledger.take(*place, "classes", default="present")
            tree |= {"kind": "lovasz", "over": "image" if per_image else "batch"}
            tree["classes"] = "all" if present == "all" else "present"
        case _:
            ledger.remark(f"{kind} has no counterpart")
            return None
    if tree["weight"] <= 0:
        return None
    return tree


def _samples(ledger: Ledger, sampler: Path | None) -> bool:
    return sampler is not None and str(ledger.look(*sampler, "type")).endswith("OHEMPixelSampler")


def _ohem(ledger: Ledger, place: Path, sampler: Path | None) -> Tree:
    """Hard pixels only: by a sampler of the head, or by the loss itself."""
    if sampler is not None and _samples(ledger, sampler):
        threshold = ledger.look(*sampler, "thresh")
        kept = ledger.look(*sampler, "min_kept", default=100_000)
        ledger.take(*sampler)
        return {"threshold": 0.0 if threshold is None else threshold, "min_kept": kept}
    batch = ledger.whole("train_dataloader", "batch_size") or 1
    kept = ledger.whole(*place, "min_kept") or 100_000
    threshold = ledger.take(*place, "thres", default=0.7)
    ledger.take(*place, "thresh")
    return {"threshold": threshold, "min_kept": max(1, kept // batch)}


def _weights(ledger: Ledger, place: Path, names: tuple[str, ...], tree: Tree) -> None:
    given = ledger.look(*place, "class_weight")
    if not isinstance(given, list | tuple) or not all(isinstance(each, int | float) for each in given):
        return
    if len(given) == len(names):
        ledger.take(*place, "class_weight")
        tree["class_weights"] = {name: float(each) for name, each in zip(names, given, strict=True)}
