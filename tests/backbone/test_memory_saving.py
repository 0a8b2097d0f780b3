"""A backbone that takes less memory: offloaded, stored in 8 bits, quantized, or with idle parts on the CPU."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build_backbone, images
from builders_families import build_family
from torch import Tensor, nn

import tadp
from tadp.errors import MissingExtraError, ModelError, ModifierError

FAMILIES = ("SD 2.x", "SDXL", "SD 3", "FLUX")
FLOAT8 = torch.float8_e4m3fn
# The largest relative difference of a map, in L2, from the same map without the saving. Networks this small average
# little rounding, and the convolutions of a U-Net are rounded more coarsely than the layers of a transformer.
FLOAT8_BOUNDS = {"SD 2.x": 0.25, "SDXL": 0.25, "SD 3": 0.05, "FLUX": 0.05}
INT8_BOUND = 0.02


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {family: build_family(family, tmp_path_factory.mktemp("family")) for family in FAMILIES}


@pytest.fixture(scope="module")
def expected(folders) -> dict[str, tadp.Features]:
    return {family: run(load(folder)) for family, folder in folders.items()}


@pytest.fixture
def waiting(monkeypatch) -> Iterator[dict[int, Tensor]]:
    """Weights that are offloaded, which hold NaN while they wait; on a CPU, diffusers would leave them as they are."""
    pytest.importorskip("accelerate")
    from diffusers.hooks.group_offloading import ModuleGroup

    values: dict[int, Tensor] = {}

    def tensors(group: Any) -> list[Tensor]:
        own = [tensor for part in group.modules for tensor in (*part.parameters(), *part.buffers())]
        return [*own, *group.parameters, *group.buffers]

    def offload(group: Any) -> None:
        for tensor in tensors(group):
            if id(tensor) not in values:
                values[id(tensor)] = tensor.data
                tensor.data = torch.full_like(tensor, float("nan") if tensor.is_floating_point() else 0)

    def onload(group: Any) -> None:
        for tensor in tensors(group):
            if id(tensor) in values:
                tensor.data = values.pop(id(tensor))

    monkeypatch.setattr(ModuleGroup, "offload_", offload)
    monkeypatch.setattr(ModuleGroup, "onload_", onload)
    return values


def load(folder: Path | str, **options: Any) -> tadp.TADPBackbone:
    return tadp.TADPBackbone.from_pretrained(folder, record_attention=(1,), **options)


@torch.no_grad()
def run(backbone: tadp.TADPBackbone, **options: Any) -> tadp.Features:
    return backbone(images(1, 64, 64), "a dog", **options)


def tensors_of(features: tadp.Features) -> list[Tensor]:
    return [*features.maps, features.attention.at(1)]


def difference(actual: tadp.Features, expected: tadp.Features) -> float:
    pairs = zip(tensors_of(actual), tensors_of(expected), strict=True)
    return max(float((tensor - exact).norm() / exact.norm()) for tensor, exact in pairs)


def assert_same(actual: tadp.Features, expected: tadp.Features) -> None:
    for tensor, exact in zip(tensors_of(actual), tensors_of(expected), strict=True):
        assert torch.equal(tensor, exact)


@pytest.mark.parametrize("level", ["leaf_level", "block_level"])
@pytest.mark.parametrize("family", FAMILIES)
def test_offloaded_weights_are_there_when_a_layer_runs(family, level, folders, expected, waiting):
    backbone = load(folders[family], group_offload=level)
    assert all(weight.isnan().all() for weight in backbone.unet.parameters())
    assert backbone.device == torch.device("cpu")
    assert_same(run(backbone), expected[family])
    assert len(waiting) > len(list(backbone.unet.parameters()))  # those of the text encoders wait, too
    last = len(expected[family].maps) - 1
    maps = [run(load(folders[family]), levels=(last,)).maps[0], run(backbone, levels=(last,)).maps[0]]
    assert torch.equal(*maps)


def test_block_level_moves_blocks_and_leaf_level_moves_layers(folders):
    pytest.importorskip("accelerate")

    def largest(level: Any, family: str) -> int:
        groups = [
            part._diffusers_hook.get_hook("group_offloading").group
            for part in load(folders[family], group_offload=level).unet.modules()
            if "_diffusers_hook" in part.__dict__
        ]
        return max(sum(weight.numel() for part in group.modules for weight in part.parameters()) for group in groups)

    for family in ("SDXL", "FLUX"):
        assert largest("leaf_level", family) < largest("block_level", family)


def test_a_model_in_training_mode_predicts_with_offloaded_weights(folders, expected, waiting):
    classes = ["a", "b"]
    exact = tadp.TADPForSemanticSegmentation(load(folders["SD 2.x"]), class_names=classes, tune="nothing").eval()
    model = tadp.TADPForSemanticSegmentation(
        load(folders["SD 2.x"], group_offload="leaf_level"), class_names=classes, tune="nothing"
    ).train()
    model.head.load_state_dict(exact.head.state_dict())
    results = [choice.predict(images(1, 64, 64)[0], "a dog") for choice in (model, exact)]
    assert torch.equal(results[0].scores, results[1].scores)
    assert model.training
    model(images(2, 64, 64), "a dog", torch.zeros(2, 64, 64, dtype=torch.long)).loss.backward()  # only of the head


def test_tiles_and_other_options_share_offloaded_weights(folders, waiting):
    exact, backbone = load(folders["SDXL"]), load(folders["SDXL"], group_offload="block_level")
    image = images(1, 64, 96)[0]
    tiles = [choice.tiled(image, "a dog", tile_px=64, overlap_px=32) for choice in (exact, backbone)]
    assert all(map(torch.equal, tiles[0].maps, tiles[1].maps))
    assert_same(run(backbone.with_options(timestep=20)), run(exact.with_options(timestep=20)))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_8_bits_stay_within_the_bound(family, folders, expected):
    backbone = load(folders[family], storage_dtype=FLOAT8)
    stored = {weight.dtype for weight in backbone.unet.parameters()}
    assert stored == {FLOAT8, torch.float32}
    assert backbone.dtype == torch.float32
    assert 0 < difference(run(backbone), expected[family]) < FLOAT8_BOUNDS[family]
    assert {weight.dtype for weight in backbone.unet.parameters()} == stored


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_8_bits_compute_in_16_bits_and_can_be_offloaded(dtype, folders, waiting):
    options: dict[str, Any] = {"dtype": dtype, "storage_dtype": FLOAT8, "attach_attention": ()}
    stored, both = load(folders["FLUX"], **options), load(folders["FLUX"], group_offload="leaf_level", **options)
    assert both.dtype == stored.dtype == dtype
    both, stored = run(both), run(stored)
    assert all(map(torch.equal, both.maps, stored.maps))
    # In float16, norms compute in float32 for a recording, unless they have hooks.
    assert difference(both, stored) < (1e-3 if dtype == torch.float16 else 1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_idle_parts_wait_on_the_cpu(family, folders, expected, monkeypatch):
    backbone = load(folders[family], idle_on_cpu=True)
    moves: list[tuple[nn.Module, Any]] = []
    for part in (backbone.vae, backbone.text_encoder):
        monkeypatch.setattr(part, "to", lambda place, part=part: moves.append((part, place)))
    monkeypatch.setattr(type(backbone), "device", property(lambda _: torch.device("cuda")))
    with torch.no_grad():
        backbone.encode_text("a dog")
        latents = backbone.encode_image(images(1, 64, 64))
    places = [torch.device("cuda"), torch.device("cpu")]
    assert [place for part, place in moves if part is backbone.text_encoder] == places
    assert [place for part, place in moves if part is backbone.vae] == places
    monkeypatch.undo()
    assert torch.equal(latents, load(folders[family]).encode_image(images(1, 64, 64)))
    assert_same(run(backbone), expected[family])


def test_a_move_leaves_waiting_weights_on_the_cpu(folders):
    backbone = load(folders["SDXL"], idle_on_cpu=True)
    backbone.to("meta")
    for part, place in ((backbone.unet, "meta"), (backbone.vae, "cpu"), (backbone.text_encoder, "cpu")):
        assert {weight.device.type for weight in part.parameters()} == {place}


def test_offloaded_weights_are_not_moved(folders):
    pytest.importorskip("accelerate")
    backbone = load(folders["SD 3"], group_offload="leaf_level")
    assert backbone.to("cpu") is backbone
    with pytest.raises(ModelError, match=r"offloaded from cpu. Load it again with device='meta'"):
        backbone.to("meta")
    assert backbone.to(torch.bfloat16).dtype == torch.bfloat16


# What a backbone with weights of 8 bits, or with offloaded weights, refuses.


@pytest.fixture(params=[{"storage_dtype": FLOAT8}, {"group_offload": "leaf_level"}], ids=["stored", "offloaded"])
def saving(request, folders) -> tadp.TADPBackbone:
    pytest.importorskip("accelerate")
    return load(folders["SD 2.x"], **request.param)


def test_such_a_backbone_does_not_train(saving):
    assert not any(weight.requires_grad for weight in saving.parameters())
    for change in (
        saving.unfreeze,
        lambda: tadp.TADPForSemanticSegmentation(saving, class_names=["a", "b"], tune="all"),
    ):
        with pytest.raises(ModelError, match=r"unet cannot train, because its weights are (stored in 8|offloaded)"):
            change()
    pytest.importorskip("peft")
    with pytest.raises(ModelError, match="no gradient passes through the unet, because its weights are"):
        tadp.TADPForSemanticSegmentation(saving, class_names=["a", "b"], tune="lora")


def test_a_gradient_through_such_a_backbone_is_refused(saving):
    text = saving.encode_text("a dog")
    text.embeddings.requires_grad_()
    features = saving.extract(saving.encode_image(images(1, 64, 64)), text)
    with pytest.raises(ModelError, match="no gradient passes through the unet"):
        features.maps[0].sum().backward()


def test_such_a_backbone_is_not_compiled(saving):
    with pytest.raises(ModelError, match="diffusers' hooks cannot be compiled"):
        saving.compile()


def test_such_a_backbone_is_not_copied(saving):
    for whole in (saving, tadp.TADPForSemanticSegmentation(saving, class_names=["a", "b"], tune="nothing")):
        with pytest.raises(ModelError, match="cannot be copied, because diffusers' hooks belong to its layers"):
            copy.deepcopy(whole)


def test_such_a_backbone_is_saved(saving, folders, tmp_path):
    before = run(saving)
    saving.save_pretrained(tmp_path / "model")
    assert_same(run(load(tmp_path / "model")), before)  # also the rounded weights


def test_a_head_on_such_a_backbone_is_saved_without_it(saving, tmp_path):
    model = tadp.TADPForSemanticSegmentation(saving, class_names=["a", "b"], tune="nothing")
    model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "unet").exists()
    assert tadp.TADPForSemanticSegmentation.from_pretrained(tmp_path / "model").tuned == "nothing"


def test_the_dtype_of_stored_weights_is_fixed(folders):
    backbone = load(folders["FLUX"], storage_dtype=FLOAT8)
    with pytest.raises(ModelError, match=r"U-Net is stored in 8 bits. Load it again with dtype=torch.bfloat16"):
        backbone.to(torch.bfloat16)


def test_a_modifier_does_not_replace_such_a_unet(saving):
    from tadp.modifiers.installation import _swap_unet

    with pytest.raises(ModifierError, match="own U-Net cannot replace that of this backbone, which is"):
        _swap_unet(saving, build_backbone().unet)


# diffusers' own functions, called on the parts of a backbone.


@pytest.mark.parametrize("family", FAMILIES)
def test_block_level_of_diffusers_is_refused(family, folders):
    pytest.importorskip("accelerate")
    unet: Any = load(folders[family]).unet
    unet.enable_group_offload(torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)
    with pytest.raises(ModelError, match=r"waits for a call of the \w+ itself, but tadp calls its parts one by one"):
        run(load(folders[family], unet=unet))


@pytest.mark.parametrize("name", ["up_blocks.1", "up_blocks.1.attentions.1", "up_blocks.1.attentions.1.transformer_"])
def test_a_hook_on_a_part_that_is_not_called_is_refused(name, folders):
    from diffusers.hooks.layerwise_casting import apply_layerwise_casting

    backbone = load(folders["SD 2.x"])
    part = next(part for key, part in backbone.unet.named_modules() if key == f"{name}blocks.0" or key == name)
    apply_layerwise_casting(part, FLOAT8, torch.float32, skip_modules_pattern=None)  # of the part as a whole
    with pytest.raises(ModelError, match=rf"casting waits for a call of {name}.* in the unet, but tadp calls"):
        run(backbone)


def test_leaf_level_of_diffusers_works(folders, expected, waiting):
    backbone = load(folders["SD 3"])
    unet: Any = backbone.unet
    unet.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    assert_same(run(backbone), expected["SD 3"])
    with pytest.raises(ModelError, match=r"no gradient passes through the transformer.*offloaded"):
        backbone(images(1, 64, 64), "a dog").maps[0].sum().backward()
    with pytest.raises(ModelError, match="cannot be copied"):
        copy.deepcopy(backbone)


def test_prefetching_of_diffusers_is_refused(folders):
    from diffusers.hooks import HookRegistry
    from diffusers.hooks.group_offloading import LazyPrefetchGroupOffloadingHook

    pytest.importorskip("accelerate")
    backbone = load(folders["FLUX"], group_offload="leaf_level")
    registry = HookRegistry.check_if_exists_or_initialize(backbone.unet)
    registry.register_hook(LazyPrefetchGroupOffloadingHook(), "lazy_prefetch_group_offloading")
    with pytest.raises(ModelError, match="offload_type='leaf_level' without use_stream"):
        run(backbone)


@pytest.mark.parametrize("level", ["leaf_level", "block_level"])
def test_an_offloaded_vae_encodes(level, waiting):
    from diffusers.hooks.group_offloading import apply_group_offloading

    exact, backbone = (build_backbone() for _ in range(2))
    apply_group_offloading(backbone.vae.encoder, "cpu", offload_type=level, num_blocks_per_group=1)
    assert torch.equal(backbone.encode_image(images(1, 64, 64)), exact.encode_image(images(1, 64, 64)))
    if level == "block_level":
        with pytest.raises(ModelError, match="waits for a call of encoder in the VAE"):
            backbone(images(1, 64, 64), "a dog", vae_map=True)


# Quantized weights. torchao works on a CPU; bitsandbytes needs a GPU.


@pytest.fixture
def int8() -> Any:
    quantization: Any = pytest.importorskip("torchao.quantization")
    pytest.importorskip("accelerate")
    return quantization.Int8WeightOnlyConfig()


@pytest.mark.parametrize("family", FAMILIES)
def test_quantized_weights_stay_within_the_bound(family, int8, folders, expected):
    from diffusers import TorchAoConfig
    from transformers import TorchAoConfig as TextConfig

    exact = load(folders[family])
    denoiser = load(folders[family], quantization_config=TorchAoConfig(int8))
    parts = {part: TextConfig(int8) for part in exact.family.text_parts}
    every = load(folders[family], quantization_config={exact.family.part: TorchAoConfig(int8), **parts})
    for backbone in (denoiser, every):
        assert backbone.dtype == torch.float32
        assert 0 < difference(run(backbone), expected[family]) < INT8_BOUND
    text = [backbone.encode_text("a dog").embeddings for backbone in (exact, denoiser, every)]
    assert torch.equal(text[0], text[1])
    assert not torch.equal(text[0], text[2])


def test_what_works_with_quantized_weights(int8, folders, tmp_path, waiting):
    from diffusers import TorchAoConfig

    folder = folders["SD 2.x"]
    backbone = load(folder, quantization_config=TorchAoConfig(int8))
    exact = run(backbone)
    assert difference(run(copy.deepcopy(backbone)), exact) < 1e-5
    with pytest.raises(ModelError, match=r"unet cannot be saved, because its weights are quantized"):
        backbone.save_pretrained(tmp_path / "backbone")
    with pytest.raises(ModelError, match="unet cannot train, because its weights are quantized"):
        backbone.unfreeze()
    with pytest.raises(ModelError, match=r"U-Net is quantized. Load it again with dtype=torch.bfloat16"):
        backbone.bfloat16()
    with pytest.raises(ModelError, match="lora= changes weights, and quantized weights cannot change"):
        load(folder, quantization_config=TorchAoConfig(int8), lora="lora.safetensors")
    with pytest.raises(ModelError, match="quantizes the unet while it is read, but you passed a module"):
        load(folder, quantization_config=TorchAoConfig(int8), unet=backbone.unet)
    pytest.importorskip("peft")
    model = tadp.TADPForSemanticSegmentation(backbone, class_names=["a", "b"], tune="lora", lora_rank=2)
    model(images(2, 64, 64), "a dog", torch.zeros(2, 64, 64, dtype=torch.long)).loss.backward()
    gradients = [weight.grad for name, weight in backbone.unet.named_parameters() if "lora_B" in name]
    assert any(gradient is not None and gradient.any() for gradient in gradients)
    model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "pytorch_lora_weights.safetensors").exists()


def test_bitsandbytes_is_refused_without_a_gpu(folders, monkeypatch):
    from diffusers.quantizers.quantization_config import BitsAndBytesConfig

    monkeypatch.setattr(BitsAndBytesConfig, "post_init", lambda _: None)  # asks for the package
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match=r"bitsandbytes quantizes on a GPU, .* torchao also works on a CPU"):
        load(folders["FLUX"], quantization_config=BitsAndBytesConfig(load_in_4bit=True))


def test_a_package_that_is_missing_is_named(folders, monkeypatch):
    from diffusers.quantizers.quantization_config import BitsAndBytesConfig

    monkeypatch.setattr(BitsAndBytesConfig, "post_init", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(MissingExtraError, match=r"FluxTransformer2DModel in .* cannot be quantized without a package"):
        load(folders["FLUX"], quantization_config=BitsAndBytesConfig(load_in_4bit=True))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"group_offload": "block"}, ValueError, "group_offload must be one of leaf_level, block_level; got 'block'"),
        ({"group_offload": True}, ValueError, "group_offload must be one of"),
        ({"storage_dtype": torch.int8}, ValueError, r"storage_dtype must be torch.float8_e4m3fn or .* got torch.int8"),
        ({"idle_on_cpu": "yes"}, TypeError, "idle_on_cpu must be True or False"),
        ({"storage_dtype": FLOAT8, "quantization_config": {}}, ValueError, "two ways to store the U-Net in fewer"),
        ({"quantization_config": "int8"}, TypeError, r"quantization_config of unet must be a config of diffusers"),
        ({"quantization_config": {"vae": None}}, ValueError, "the parts to quantize are unet, text_encoder."),
    ],
)
@pytest.mark.usefixtures("no_type_checker")
def test_bad_arguments_are_refused(options, error, words, folders):
    with pytest.raises(error, match=words):
        load(folders["SD 2.x"], **options)


def test_a_weight_too_large_for_8_bits_is_refused(folders):
    unet: Any = load(folders["FLUX"]).unet
    unet.transformer_blocks[0].attn.to_q.weight.data[0, 0] = 500
    with pytest.raises(ModelError, match=r"transformer_blocks.0.attn.to_q.weight of the transformer .* above 448"):
        load(folders["FLUX"], unet=unet, storage_dtype=FLOAT8)
