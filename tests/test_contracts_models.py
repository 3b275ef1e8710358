"""What every network must do. Kinds are read off the union, architectures off SMP, families off SMP and timm."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from huggingface_configs import TINY, config
from terrazzo.base import InputError
from terrazzo.models import (
    FcnResnetModel,
    HuggingFaceModel,
    ModelConfig,
    OwnModel,
    SegFormerModel,
    Segmenter,
    SmpModel,
    TimmModel,
    TorchvisionModel,
    UNetModel,
    ZooModel,
    build_model,
    has_auxiliary_heads,
)
from terrazzo.output import Output

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 5


class OwnNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.decoder = nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(images)))


OPTIONS: dict[type, list[dict[str, Any]]] = {
    TorchvisionModel: [
        {"arch": "fcn_resnet50", "aux": True, "weights_backbone": "none"},
        {"arch": "deeplabv3_resnet50", "weights_backbone": "none"},
        {"arch": "deeplabv3_mobilenet_v3_large", "aux": True, "weights_backbone": "none"},
        {"arch": "lraspp_mobilenet_v3_large", "weights_backbone": "none"},
    ],
    TimmModel: [
        {"encoder": encoder, "decoder": {"kind": decoder}, "weights": "none", **more}
        for encoder, decoder, more in (
            ("resnet18", "fpn", {"aux": True}),
            ("convnext_atto", "uper", {}),
            ("vit_tiny_patch16_224", "linear", {"drop_path": 0.1}),
            ("vit_small_patch14_reg4_dinov2", "segformer", {}),  # register tokens, patches of 14 pixels
            ("swin_tiny_patch4_window7_224", "fpn", {}),
            ("eva02_tiny_patch14_224", "eomt", {}),  # rotations
            ("mobilevit_xxs", "segformer", {}),
        )
    ],
    UNetModel: [{"deep_supervision": True, "dropout": 0.1}, {"norm": "none"}],
    FcnResnetModel: [{"encoder": encoder, "weights_backbone": "none"} for encoder in ("resnet18", "resnet50")],
    SegFormerModel: [{"stem": "7x7", "drop_path": 0.2}, {"stem": "5x5"}],
    HuggingFaceModel: [{"config": config(kind), "weights": "none"} for kind in TINY],
    ZooModel: [{"name": name, "weights": "none"} for name in ("segformer_mit-b0", "fast_scnn")],
    OwnModel: [{"stride": 2}],
}
"""What each kind is tested with: one network for each of its shapes."""


def smp_pairs() -> list[tuple[str, str]]:
    import segmentation_models_pytorch as smp

    encoders = ("resnet18", "tu-mobilenetv3_small_050")
    return [
        (arch, encoder)
        for arch in smp.MODEL_ARCHITECTURES_MAPPING
        for encoder in (("tu-vit_tiny_patch16_224", "tu-convnext_atto") if arch == "dpt" else encoders)
    ]


def cases() -> dict[str, Any]:
    """Configs by name: every member of the union as `OPTIONS` says, SMP once per architecture and encoder."""
    found: dict[str, Any] = {}
    for member in get_args(get_args(ModelConfig)[0]):
        if member is SmpModel:
            for arch, encoder in smp_pairs():
                found[f"{arch}-{encoder}"] = SmpModel(arch=arch, encoder=encoder, weights="none")
        else:
            for options in OPTIONS[member]:
                telling = ("arch", "encoder", "stem", "norm", "name")
                chosen = [str(value) for key, value in options.items() if key in telling]
                chosen += [str(options["config"]["model_type"])] if "config" in options else []
                found["-".join([member.model_fields["kind"].default, *chosen])] = member(**options)
    return found


CASES = cases()


def build(name: str) -> Segmenter:
    cfg = CASES[name]
    torch.manual_seed(0)
    return build_model(cfg, CLASSES, own=OwnNet() if isinstance(cfg, OwnModel) else None)[0]


@pytest.fixture(scope="module", params=CASES)
def name(request) -> str:
    """Every case in turn."""
    return request.param


@pytest.fixture(scope="module")
def model(name) -> Segmenter:
    """Built once for all promises."""
    return build(name)


def images(batch: int, height: int, width: int) -> Tensor:
    return torch.randint(
        0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def everything(output: Output) -> Tensor:
    return torch.cat([logits.flatten() for logits in (output.logits, *output.aux)])


@pytest.mark.parametrize("size", [(50, 70), (33, 32)], ids=str)
def test_images_of_odd_sizes(model, size):
    with torch.inference_mode():
        output = model.eval()(images(1, *size))
    for logits in (output.logits, *output.aux):
        assert logits.shape[:2] == (1, CLASSES)
        assert logits.isfinite().all()
        for covers, side, cells in zip(output.covers, size, logits.shape[-2:], strict=True):
            assert side <= covers < max(side, model.smallest) + model.stride
            if model.stride > 1:  # networks that take any size round up
                assert covers % cells == 0, "logits lie on a whole number of pixels"


def test_every_parameter_learns(model):
    parameters = dict(model.named_parameters())
    learning = {key: parameter for key, parameter in parameters.items() if parameter.requires_grad}
    loss = everything(model.train()(images(2, 32, 64))).square().mean()
    gradients = torch.autograd.grad(loss, [*learning.values()], allow_unused=True)
    assert [key for key, gradient in zip(learning, gradients, strict=True) if gradient is None] == []
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
    frozen = parameters.keys() - learning.keys()
    assert all(model.role(key) == "encoder" for key in frozen)


def test_evaluation_does_not_depend_on_the_batch(model):
    batch = images(2, 32, 64)
    with torch.inference_mode():
        together, alone = model.eval()(batch), model(batch[1:])
    torch.testing.assert_close(together.logits[1:], alone.logits, atol=1e-4, rtol=1e-3)


def test_the_same_image_gives_the_same_bits(model):
    batch = images(1, 32, 64)
    with torch.inference_mode():
        assert torch.equal(everything(model.eval()(batch)), everything(model(batch)))


def test_auxiliary_logits_are_there_in_eval_mode_too(model, name):
    with torch.inference_mode():
        counts = [len(model.train(training)(images(2, 32, 64)).aux) for training in (True, False)]
    assert counts[0] == counts[1]
    if not isinstance(CASES[name], OwnModel):
        assert bool(counts[0]) == has_auxiliary_heads(CASES[name])


def test_state_dict_round_trip(model, name):
    other = build(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01).add_(1e-4)  # a little: a deep network must not overflow
    other.load_state_dict(model.state_dict())
    batch = images(1, 32, 64)
    with torch.inference_mode():
        answer = everything(model.eval()(batch))
        assert answer.isfinite().all()
        assert torch.equal(answer, everything(other(batch)))


def test_roles_cover_the_network(model):
    assert {model.role(key) for key, _ in model.named_parameters()} == {"encoder", "decoder", "head"}
    assert model.channels == 3


TYPICAL = {
    *("unet-resnet18", "timm-resnet18", "timm-eva02_tiny_patch14_224"),
    *("huggingface-beit", "huggingface-eomt_dinov3"),
}
"""Of the many encoders of a library, the ones of tests that take seconds."""


def compiled_cases() -> list[Any]:
    """All cases; most of those of encoder libraries only in the slow tests, as each takes seconds."""
    libraries = SmpModel | TimmModel | HuggingFaceModel
    often = {name for name, cfg in CASES.items() if not isinstance(cfg, libraries)} | TYPICAL
    return [pytest.param(name, marks=() if name in often else pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("case", compiled_cases())
def test_compiles_as_one_graph(case):
    """After one eager call, which makes what a network makes only once. No case is excepted."""
    segmenter, batch = build(case).eval(), images(1, 32, 64)
    torch.compiler.reset()
    with torch.no_grad():
        eager = everything(segmenter(batch))
        compiled = torch.compile(segmenter, fullgraph=True, backend="eager")
        assert torch.equal(everything(compiled(batch)), eager)


@pytest.mark.parametrize("channels", [1, 4, 6])
@pytest.mark.parametrize(
    "case",
    [
        name
        for name, cfg in CASES.items()
        if not isinstance(cfg, SmpModel | OwnModel) and not (isinstance(cfg, TimmModel) and name not in TYPICAL)
    ],
)
def test_images_of_other_channels(case, channels):
    with torch.device("meta"):
        segmenter, _ = build_model(CASES[case], CLASSES, channels)
    assert segmenter.channels == channels
    assert segmenter(torch.empty(2, channels, 50, 70, device="meta")).logits.shape[:2] == (2, CLASSES)
    with pytest.raises(InputError, match=rf"this network takes \[B, {channels}, H, W\]"):
        segmenter(torch.empty(2, channels + 1, 50, 70, device="meta"))


SMALLEST = {
    "resnet": "resnet18",
    "dpn": "dpn68",
    "vgg": "vgg11",
    "senet": "se_resnet50",
    "densenet": "densenet121",
    "inceptionresnetv2": "inceptionresnetv2",
    "inceptionv4": "inceptionv4",
    "efficientnet": "efficientnet-b0",
    "mobilenet": "mobilenet_v2",
    "xception": "xception",
    "timm_efficientnet": "timm-tf_efficientnet_lite0",
    "timm_sknet": "timm-skresnet18",
    "mix_transformer": "mit_b0",
    "mobileone": "mobileone_s0",
}
"""The smallest encoder of each of SMP's own families."""

ON_META = {"inceptionresnetv2"}
"""Over 50 million parameters: shapes only."""


def test_every_family_of_smp_is_listed():
    from segmentation_models_pytorch.encoders import encoders

    assert {settings["encoder"].__module__.rpartition(".")[2] for settings in encoders.values()} == set(SMALLEST)


@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")
@pytest.mark.parametrize("family", SMALLEST)
def test_encoder_family(family):
    device = torch.device("meta" if family in ON_META else "cpu")
    with device:
        segmenter = build_model(SmpModel(arch="fpn", encoder=SMALLEST[family], weights="none"), CLASSES)[0]
    output = segmenter.eval()(images(1, 50, 70).to(device))
    assert output.covers == (64, 96)
    assert output.logits.shape == (1, CLASSES, 16, 24)
    if device.type == "cpu":
        everything(output).square().mean().backward()
        assert all(parameter.grad is not None for parameter in segmenter.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    "encoder", ["convnext_atto", "pvt_v2_b0", "regnetx_002", "mobilevit_xxs", "tiny_vit_5m_224", "edgenext_xx_small"]
)
def test_timm_encoder(encoder):
    with torch.device("meta"):
        segmenter = build_model(SmpModel(arch="upernet", encoder=f"tu-{encoder}", weights="none"), CLASSES)[0]
    assert segmenter(torch.empty(2, 3, 50, 70, device="meta")).logits.shape == (2, CLASSES, 16, 24)


@pytest.mark.slow
def test_every_family_of_timm_works_or_is_refused_with_a_reason():
    """One small model of each of timm's modules, on the meta device."""
    import timm

    refused = {}
    for family in timm.list_modules():
        names = timm.list_models(module=family)
        small = [name for name in names if any(mark in name for mark in ("pico", "atto", "nano", "tiny", "xx", "18"))]
        name = (small or names)[0]
        try:
            with torch.device("meta"):
                build_model(SmpModel(arch="fpn", encoder=f"tu-{name}", weights="none"), CLASSES)
        except InputError as error:
            refused[name] = str(error)
    assert all(f"cannot use the encoder tu-{name}: " in reason for name, reason in refused.items())
    assert len(refused) <= 42, refused
