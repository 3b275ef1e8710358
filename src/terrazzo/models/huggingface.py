"""Segmentation networks of transformers: from the Hugging Face hub, from a local folder, or built from a config."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from terrazzo.base import InputError
from terrazzo.models.huggingface_files import Facts, find_file, read_facts, read_json, read_weights
from terrazzo.models.huggingface_library import check_keys, network
from terrazzo.models.huggingface_nets import FAMILIES, QUERY_FAMILIES, family_of
from terrazzo.models.huggingface_weights import outputs, taken_over
from terrazzo.models.segmenter import ModelInput, Segmenter, probe
from terrazzo.models.used import remove_unused
from terrazzo.models.weights import LoadReport, load_tensors

NOT_KEPT = (
    *("id2label", "label2id", "num_labels", "transformers_version", "_name_or_path", "architectures", "auto_map"),
    *("dtype", "torch_dtype", "return_dict", "output_hidden_states", "output_attentions", "torchscript"),
)
"""Keys of the library's config that say nothing of the network: the classes are the data set's, the answers ours."""


class HuggingFaceModel(ModelInput):
    """A network of transformers: SegFormer, UperNet, BEiT, DPT, MobileViT, Mask2Former or EoMT (DINOv2, DINOv3)."""

    kind: Literal["huggingface"] = "huggingface"
    name: str | None = None
    """A repository of the hub (nvidia/segformer-b0-finetuned-ade-512-512) or a local folder with a config.json of
    transformers; null: `config` says all."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The library's own settings: with `name` what is to differ from its config.json, without it all that differ from
    the defaults of a model_type: {model_type: segformer, depths: [2, 2, 2, 2]}."""
    weights: Literal["none", "pretrained"] | Path = "pretrained"
    """What the network starts from: none (random), pretrained (those of `name`), or a file or folder. Last layers for
    other classes take over the rows of classes with the same names; the others start at random."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.name is None and "model_type" not in self.config:
            raise ValueError(
                "give name (a repository of the hub or a folder), or a config with its model_type: one of "
                + ", ".join(FAMILIES)
            )
        if self.name is None and self.weights == "pretrained":
            raise ValueError("weights=pretrained are those of a name, and name is null: write weights: none or a path")
        return self


def huggingface_model(
    cfg: HuggingFaceModel, classes: int, channels: int, *, names: tuple[str, ...] = (), pretrained: bool
) -> tuple[Segmenter, LoadReport | None]:
    """The network for `classes` classes and images of `channels` channels, and what became of its weights.

    Mean and std are those of the image processor beside the weights. `names` are the data set's classes.

    Raises:
        InputError: the library is missing, the network is unknown to it or not to be had, or a setting does not exist.
    """
    settings = library_settings(cfg)
    segmenter = _built(cfg, settings, classes, channels)
    if not pretrained or cfg.weights == "none":
        return segmenter, None
    source = cfg.name if cfg.weights == "pretrained" else str(cfg.weights)
    assert source is not None, "a config with weights: pretrained and no name is refused"
    tensors = read_weights(source)
    if any(name.startswith("net.") for name in tensors):  # of terrazzo's own making
        return segmenter, load_tensors(segmenter, tensors, source=source)
    facts = read_facts(source, family_of(settings["model_type"]))
    return segmenter, taken_over(segmenter, settings, tensors, facts, names)


def written_out(cfg: HuggingFaceModel, segmenter: Segmenter) -> HuggingFaceModel:
    """The config with the library's settings written out, so that a bundle needs neither hub nor folder."""
    settings = segmenter.net.model.config.to_dict()  # type: ignore[union-attr, operator]  # the library's module
    return cfg.model_copy(update={"name": None, "config": _kept(settings), "weights": "none"})


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key not in NOT_KEPT and value is not None}
    if isinstance(kept.get("backbone_config"), Mapping):
        kept["backbone_config"] = _kept(kept["backbone_config"])
    return kept


def answers_queries(cfg: HuggingFaceModel) -> bool | None:
    """Whether the network answers queries; None if only the hub knows."""
    kind = _known_type(cfg)
    return None if kind is None else kind in QUERY_FAMILIES


def has_auxiliary_head(cfg: HuggingFaceModel) -> bool:
    """Whether the network answers auxiliary logits; true also if only the hub knows."""
    kind = _known_type(cfg)
    if kind is None:
        return True
    local = read_json(Path(cfg.name, "config.json")) if cfg.name else {}
    with_head = {**local, **cfg.config}.get("use_auxiliary_head", True)  # the library's own default is true
    return kind in ("upernet", "beit", "dpt") and bool(with_head)


def _known_type(cfg: HuggingFaceModel) -> str | None:
    """The model_type as far as it can be told without the hub."""
    if "model_type" in cfg.config:
        return str(cfg.config["model_type"])
    assert cfg.name is not None, "a config without both is refused"
    file = Path(cfg.name, "config.json")
    return str(read_json(file).get("model_type")) if file.is_file() else None


def library_settings(cfg: HuggingFaceModel) -> dict[str, Any]:
    """All settings of the library that the network is built with: those of `name`, then `config`.

    Raises:
        InputError: there is no such repository or folder, or a key that the library does not know.
    """
    settings: dict[str, Any] = {}
    if cfg.name is not None:
        file = find_file(cfg.name, "config.json")
        if file is None:
            raise InputError(f"model.name: {cfg.name} has no config.json; it is no model of transformers")
        settings = read_json(file)
    family_of(cfg.config.get("model_type", settings.get("model_type")))
    if settings and cfg.config.get("model_type", settings["model_type"]) != settings["model_type"]:
        raise InputError(
            f"model.config.model_type is {cfg.config['model_type']}, {cfg.name} is {settings['model_type']}"
        )
    settings |= cfg.config
    check_keys({**cfg.config, "model_type": settings["model_type"]}, "model.config")
    return _kept(settings)


def _built(cfg: HuggingFaceModel, settings: Mapping[str, Any], classes: int, channels: int) -> Segmenter:
    family = family_of(settings["model_type"])
    wanted = family.normalization if cfg.name is None else read_facts(cfg.name, family).normalization
    model = network(settings, classes, channels)
    segmenter = Segmenter(
        family.net(model),
        normalization=cfg.normalization(wanted, channels),
        stride=family.stride or int(model.config.patch_size),
        smallest=family.smallest,
        roles=family.roles,
    )
    remove_unused(segmenter, lambda: _answers(segmenter, classes))
    return segmenter


def _answers(segmenter: Segmenter, classes: int) -> list[Tensor]:
    output = probe(segmenter, classes)
    earlier = () if output.queries is None else output.queries.aux
    return [output.logits, *output.aux, *(values for layer in earlier for values in layer[:2])]


@dataclass(frozen=True)
class OpenedHuggingFace:
    """A network of transformers with its weights and its own classes."""

    segmenter: Segmenter
    """In eval mode, on the CPU."""
    config: HuggingFaceModel
    """Rebuilds it without folder or hub."""
    facts: Facts
    classes: int
    report: LoadReport


def open_huggingface(source: str) -> OpenedHuggingFace:
    """The network of a folder or a repository of the hub, as published.

    Raises:
        InputError: as `huggingface_model`.
    """
    cfg = HuggingFaceModel(name=source)
    settings, tensors = library_settings(cfg), read_weights(source)
    classes = outputs(tensors) - (settings["model_type"] in QUERY_FAMILIES)
    segmenter, report = huggingface_model(cfg, classes, 3, pretrained=True)
    assert report is not None
    facts = read_facts(source, family_of(settings["model_type"]))
    return OpenedHuggingFace(segmenter.eval(), written_out(cfg, segmenter), facts, classes, report)
