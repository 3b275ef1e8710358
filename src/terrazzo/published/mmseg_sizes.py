"""Which published network a configuration of MMSegmentation describes, by all sizes that it says.

`mmseg_sizes.json` holds the sizes of MMSegmentation's own configurations, read off by docs/mmseg_sizes_table.py. What
changes no tensor and no answer of a trained network (classes, losses, initial weights, dropout) is on neither side.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from terrazzo.base import InputError
from terrazzo.published.mmseg_values import one_line

NO_SIZES = frozenset(
    (
        *("num_classes", "init_cfg", "pretrained", "data_preprocessor", "train_cfg", "test_cfg"),
        *("norm_eval", "with_cp", "frozen_stages", "sampler", "ignore_index", "threshold", "requires_grad", "momentum"),
        *("dropout_ratio", "drop_rate", "attn_drop_rate", "drop_path_rate", "proj_drop", "ffn_drop", "attn_drop"),
        *("dropout", "drop", "inplace", "zero_init_residual", "pretrain_img_size", "_scope_"),
    )
)
"""Keys that do not say what the network is."""
PARTS = ("type", "backbone", "neck", "decode_head", "auxiliary_head")
"""What is compared of a model."""
HAM = {"MD_S": 1, "MD_R": 64, "train_steps": 6, "eval_steps": 7, "inv_t": 100, "rand_init": True}
"""Defaults of ham_kwargs, which are not in the signature of a class."""
PAPER = re.compile(r"mit_b([0-5])")
"""SegFormer's authors call their encoders so."""


def architecture_name(config: Mapping[str, Any]) -> str | None:
    """A name that `find_architecture` knows: that of a published config whose network has all sizes that `config` says;
    None if `config` has no model.

    Raises:
        InputError: there is no such network; the message names the parts that are unknown or of another size.
    """
    if not isinstance(config.get("model"), dict):
        return None
    wanted = sizes_of(config)
    if (paper := _of_the_paper(wanted)) is not None:
        return paper
    table = networks()
    for name, sizes in table.items():
        if sizes == wanted:
            return name
    for part in ("backbone", "decode_head"):
        known = {kind for sizes in table.values() for kind in _kinds(sizes.get(part))}
        if unknown := [kind for kind in _kinds(wanted.get(part)) if kind not in known]:
            raise InputError(one_line(f"model.{part}: terrazzo has no {unknown[0]:.60}"))
    raise InputError(one_line(_nearest(wanted, table)))


def _of_the_paper(sizes: Mapping[str, Any]) -> str | None:
    """The name of a SegFormer by its authors' own classes."""
    backbone, head = sizes.get("backbone"), sizes.get("decode_head")
    if not isinstance(backbone, dict) or not isinstance(head, dict) or head.get("type") != "SegFormerHead":
        return None
    number = PAPER.fullmatch(str(backbone.get("type")))
    wide = head.get("decoder_params") == {"embed_dim": 768}
    if number is None or wide != (int(number[1]) > 1):
        return None
    return f"segformer.b{number[1]}"


def sizes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's model without what is no size and without defaults, in one spelling."""
    model = config["model"]
    return {part: plain(model[part], _table()["defaults"]) for part in PARTS if model.get(part) is not None}


@cache
def networks() -> Mapping[str, dict[str, Any]]:
    """Sizes of the published configs by name, as `sizes_of` gives them; those that share all sizes are there once."""
    table = _table()
    return {
        name: {part: _part(table["parts"], place) for part, place in parts.items()}
        for name, parts in table["networks"].items()
    }


def _part(parts: list[Any], place: int | list[int] | str) -> Any:
    if isinstance(place, list):
        return [parts[each] for each in place]
    return parts[place] if isinstance(place, int) else place


@cache
def _table() -> dict[str, Any]:
    text = files("terrazzo.published").joinpath("mmseg_sizes.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def plain(value: Any, defaults: Mapping[str, Mapping[str, Any]]) -> Any:
    """In one spelling: classes by their last name, lists for tuples, a synchronised BN as BN."""
    match value:
        case dict():
            found = {
                key: spelled
                for key, part in value.items()
                if key not in NO_SIZES
                and not str(key).startswith("loss_")
                and not (key == "out_channels" and "num_classes" in value)  # a head's outputs
                and (spelled := plain(part, defaults)) is not None
            }
            if isinstance(found.get("type"), str):
                found["type"] = found["type"].rpartition(".")[2].replace("SyncBN", "BN")
            if isinstance(found.get("img_size"), int):
                found["img_size"] = [found["img_size"]] * 2
            given = defaults.get(str(found.get("type")), {})
            if defaults and isinstance(found.get("ham_kwargs"), dict):
                found["ham_kwargs"] = HAM | found["ham_kwargs"]
            return {key: part for key, part in found.items() if key not in given or given[key] != part}
        case list() | tuple():
            return [plain(part, defaults) for part in value]
        case _:
            return value


def _kinds(part: Any) -> list[str]:
    """The classes of a part, or of each of its parts."""
    return [str(each.get("type")) for each in (part if isinstance(part, list) else [part]) if isinstance(each, dict)]


def _nearest(wanted: Mapping[str, Any], table: Mapping[str, Mapping[str, Any]]) -> str:
    """What to say where all parts are known, but not together in these sizes."""
    alike = {
        name: differences(sizes, wanted)
        for name, sizes in table.items()
        if _kinds(sizes.get("backbone")) == _kinds(wanted.get("backbone"))
        and _kinds(sizes.get("decode_head")) == _kinds(wanted.get("decode_head"))
    }
    if not alike:
        head, backbone = _kinds(wanted.get("decode_head")), _kinds(wanted.get("backbone"))
        return f"model: terrazzo has no {' and '.join(head) or 'network'} over {' and '.join(backbone) or 'nothing'}"
    name = min(alike, key=lambda each: len(alike[each]))
    shown = [f"model.{place} is {given}, not {known}" for place, known, given in alike[name][:3]]
    more = f" and {len(alike[name]) - 3} more" if len(alike[name]) > 3 else ""
    return f"terrazzo has no network of these sizes; the nearest is {name}, but {'; '.join(shown)}{more}"


def differences(known: Any, given: Any, place: str = "") -> list[tuple[str, str, str]]:
    """(place, value known, value given) of all that differs."""
    return list(_differences(known, given, place))


def _differences(known: Any, given: Any, place: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(known, dict) and isinstance(given, dict):
        for key in dict.fromkeys((*known, *given)):
            path = f"{place}.{key}" if place else str(key)
            if key not in known or key not in given:
                yield path, _shown(known.get(key)), _shown(given.get(key))
            else:
                yield from _differences(known[key], given[key], path)
    elif isinstance(known, list) and isinstance(given, list) and len(known) == len(given):
        for number, (one, other) in enumerate(zip(known, given, strict=True)):
            yield from _differences(one, other, f"{place}.{number}")
    elif known != given:
        yield place, _shown(known), _shown(given)


def _shown(value: Any) -> str:
    match value:
        case None:
            return "the default"
        case dict():
            return str(value.get("type", "a part"))
        case _:
            return str(value)[:60]
