"""transformers itself: imported where it is needed, quiet, and asked for networks by settings that it knows."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from terrazzo.base import InputError
from terrazzo.models.huggingface_nets import family_of

WITH_BACKBONE = ("upernet", "mask2former")
"""Networks around another one of the library, whose config holds that of the other."""


def library() -> Any:
    """The module; InputError if it is not installed."""
    try:
        import transformers  # heavy, and needed by this kind only
    except ImportError:
        raise InputError(
            "model.kind=huggingface needs the package transformers, which is not installed: type "
            "pip install 'terrazzo[transformers]'"
        ) from None
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """The library prints a report of loaded tensors and a progress bar of its own; ours says it all."""
    logging = library().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def check_keys(given: Mapping[str, Any], where: str) -> None:
    """The library takes any key without a word; one that it never reads changes nothing, and is refused."""
    if not given:
        return
    if "model_type" in given:
        known = {*library().AutoConfig.for_model(given["model_type"]).to_dict(), "out_indices", "out_features"}
        if unknown := sorted(given.keys() - known - {"segmentation_indices"}):
            raise InputError(
                f"{where}: {given['model_type']} has no setting {unknown[0]}; it has {', '.join(sorted(known))}"
            )
    if isinstance(given.get("backbone_config"), Mapping):
        check_keys(given["backbone_config"], f"{where}.backbone_config")


def network(settings: Mapping[str, Any], classes: int, channels: int) -> Any:
    """The library's network, at random.

    Raises:
        InputError: the library refuses the settings.
    """
    family = family_of(settings["model_type"])
    kind = getattr(library(), family.library_class)
    try:
        config = library_config(settings, classes, channels)
        if getattr(config, "is_hybrid", False):
            raise ValueError("DPT hybrid takes images of one size only; DPT over a plain transformer takes any")
        return kind(config).to(torch.get_default_device())  # some of its tensors ignore a device context
    except Exception as error:  # whatever the library raises is its reason to refuse the settings
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"model.config: transformers cannot build this {settings['model_type']}: {said}") from error


def library_config(settings: Mapping[str, Any], classes: int, channels: int) -> Any:
    """The library's config object."""
    mapping = library().AutoConfig
    given = {key: value for key, value in settings.items() if key != "model_type"}
    if settings["model_type"] in WITH_BACKBONE:
        inner = given.get("backbone_config") or mapping.for_model(settings["model_type"]).backbone_config.to_dict()
        given["backbone_config"] = {**inner, "num_channels": channels}
    else:
        given["num_channels"] = channels
    return mapping.for_model(settings["model_type"], **given, num_labels=classes)
