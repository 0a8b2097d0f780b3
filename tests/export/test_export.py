"""Exported graphs give the same as the backbone: programs bit for bit, ONNX files within ONNX Runtime's rounding."""

import json
import sys

import jaxtyping
import numpy as np
import onnx
import onnxruntime
import onnxscript.rewriter
import pytest
import torch
from builders import build_backbone, build_unet, build_vae, embeddings, images, relative_error
from builders_families import build_family
from typer.testing import CliRunner

from tadp import Conditioning, TADPBackbone
from tadp.cli import app
from tadp.errors import CaptionError, ImageError, MissingExtraError, MissingFileError, ModelError, OutputError
from tadp.export import OnnxBackbone, sizes, to_onnx, to_program
from tadp.export.graph import ExportedBackbone, Shape
from tadp.features import Features

CAPTIONS = ["a dog", "a red raincoat", "a cat on grass"]
pytestmark = pytest.mark.timeout(1800)  # a program of any size takes a minute of one core, and the machine may be busy
TOLERANCE = 1e-4  # relative L2 error of ONNX Runtime's kernels in float32


@pytest.fixture(scope="module", autouse=True)
def no_type_checker_at_all():
    """torch.export cannot trace through the type checker, and sizes are symbols."""
    before, jaxtyping.config.jaxtyping_disable = jaxtyping.config.jaxtyping_disable, True
    yield
    jaxtyping.config.jaxtyping_disable = before


def expected(backbone: TADPBackbone, features: Features) -> dict[str, torch.Tensor]:
    """The outputs that a graph should give, by name."""
    named = {f"map_{level}": tensor for level, tensor in features.by_level.items()}
    return named | {f"attention_{level}": features.attention.at(level) for level in backbone.record_attention}


@torch.no_grad()
def run(backbone: TADPBackbone, batch: int, size: tuple[int, int]):
    """Pixels, a text, and the backbone's outputs for them."""
    pixels, text = images(batch, *size), backbone.encode_text(CAPTIONS[:batch])
    return pixels, text, expected(backbone, backbone(pixels, text))


def trained_adapter(**options) -> TADPBackbone:
    """A backbone of three levels whose text adapter is far from the identity."""
    options = {"unet": build_unet(channels=(8, 16, 16)), "attach_attention": (1,)} | options
    backbone = build_backbone(text_adapter=True, **options)
    with torch.no_grad():
        backbone.text_adapter.gate.fill_(0.7)
    return backbone


# Programs


@torch.no_grad()
def same_program(program, backbone: TADPBackbone, batch: int, size: tuple[int, int]) -> None:
    pixels, text, wanted = run(backbone, batch, size)
    pooled = () if text.pooled is None else (text.pooled,)
    outputs = program.module()(pixels, text.embeddings, *pooled)
    assert list(outputs) == list(wanted)
    assert all(torch.equal(outputs[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    "options",
    [{"record_attention": (0, 1)}, {"attach_attention": ()}, {"levels": (1, 2), "record_attention": (1,)}],
    ids=["attached and recorded", "none", "some levels"],
)
def test_a_program_of_one_size_pads_and_crops_and_comes_back_from_a_file(options, tmp_path):
    backbone = trained_adapter(**options)
    backbone.train()
    program = to_program(backbone, image_size=(70, 92), batch_size=2)
    assert backbone.training
    assert backbone.unet.training
    assert not any(name.startswith("backbone.text_encoder") for name in program.state_dict)
    same_program(program, backbone, 2, (70, 92))
    torch.export.save(program, tmp_path / "backbone.pt2")
    same_program(torch.export.load(tmp_path / "backbone.pt2"), backbone, 2, (70, 92))
    with pytest.raises((AssertionError, RuntimeError), match=r"70"):
        program.module()(images(2, 64, 64), embeddings(2, 77))


def test_a_program_of_any_size_takes_multiples_from_two_cells_up(tmp_path):
    backbone = build_backbone(
        unet=build_unet(channels=(8, 16)), attach_attention=(0,), record_attention=(0,)
    )  # its coarsest cell has 16 pixels
    program = to_program(backbone)
    for batch, size in ((2, (32, 32)), (1, (48, 32)), (3, (32, 64))):
        same_program(program, backbone, batch, size)
    torch.export.save(program, tmp_path / "backbone.pt2")
    same_program(torch.export.load(tmp_path / "backbone.pt2"), backbone, 1, (32, 48))
    for size in ((16, 32), (32, 16), (40, 32)):  # two are below the smallest size, one is not a multiple
        with pytest.raises((AssertionError, RuntimeError), match=r"[Gg]uard|[Ee]xpected|size"):
            program.module()(images(2, *size), embeddings(2, 77))


NAMES = {"SDXL": "Stable Diffusion XL", "SD 3": "Stable Diffusion 3.x", "FLUX": "FLUX"}


@pytest.mark.parametrize("family", NAMES)
def test_other_families_have_programs_of_one_size_and_any_batch(family, tmp_path):
    fewer = {"layers_per_block": 1} if family == "SDXL" else {}  # the time of tracing grows with the layers
    backbone = TADPBackbone.from_pretrained(build_family(family, tmp_path / "model", **fewer))
    program = to_program(backbone, image_size=(70, 92))
    for batch in (1, 3):
        same_program(program, backbone, batch, (70, 92))
    with pytest.raises(
        ValueError,
        match=rf"{NAMES[family]} receives the image's size or the position of each cell, .*"
        r"pass image_size=\(height, width\)",
    ):
        to_program(backbone)


def test_a_text_may_be_a_part_of_a_program_and_timesteps_several():
    backbone = build_backbone(
        unet=build_unet(channels=(8, 16)), attach_attention=(0,), timestep=(0, 261), combine_timesteps="concatenate"
    )
    pixels = images(2, 64, 64)
    program = to_program(backbone, image_size=(64, 64), batch_size=2, text="a red dog")
    with torch.no_grad():
        outputs, wanted = program.module()(pixels), backbone(pixels, "a red dog").maps
    assert all(torch.equal(outputs[f"map_{level}"], tensor) for level, tensor in enumerate(wanted))


def test_bfloat16_goes_in_and_out_as_float32():
    backbone = build_backbone(unet=build_unet(channels=(8, 16)), attach_attention=(0,)).to(torch.bfloat16)
    program = to_program(backbone, image_size=(64, 64), batch_size=1)
    pixels, text, wanted = run(backbone, 1, (64, 64))
    with torch.no_grad():
        outputs = program.module()(pixels, text.embeddings.float())
    assert {tensor.dtype for tensor in outputs.values()} == {torch.float32}
    assert all(relative_error(outputs[name], tensor) < 0.02 for name, tensor in wanted.items())


# ONNX files


@pytest.fixture(scope="module")
def work():
    """What the export of `any_size` had to do: the sizes of each traced program, and its runs of rewrite rules."""
    return {"sizes": [], "rules": 0}


@pytest.fixture(scope="module")
def any_size(work, tmp_path_factory):
    """A backbone with attention attached, and its file for any size and batch."""
    backbone = build_backbone(unet=build_unet(channels=(8, 16, 16)), attach_attention=(1,))
    path = tmp_path_factory.mktemp("onnx") / "new" / "backbone.onnx"
    trace, rewrite = sizes.trace, onnxscript.rewriter.RewritePass.call

    def recorded_trace(*arguments, **options):
        program, text = trace(*arguments, **options)
        values = [node.meta.get("val") for node in program.graph.nodes]
        work["sizes"].append([side for value in values if isinstance(value, torch.Tensor) for side in value.shape])
        return program, text

    def recorded_rewrite(*arguments):
        work["rules"] += 1
        return rewrite(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "trace", recorded_trace)
        patch.setattr(onnxscript.rewriter.RewritePass, "call", recorded_rewrite)
        to_onnx(backbone, path)
    return backbone, path


def close(features: Features, backbone: TADPBackbone, wanted: dict[str, torch.Tensor]) -> None:
    outputs = expected(backbone, features)
    assert outputs.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert outputs[name].shape == tensor.shape
        assert relative_error(outputs[name], tensor) < TOLERANCE


@pytest.mark.parametrize(
    ("batch", "size"), [(1, (64, 64)), (2, (128, 192)), (3, (70, 92)), (1, (8, 8)), (2, (8, 200)), (1, (65, 64))]
)
def test_a_file_of_any_size_takes_what_the_backbone_takes(any_size, batch, size):
    backbone, path = any_size
    pixels, text, wanted = run(backbone, batch, size)
    loaded = OnnxBackbone(path)
    features = loaded(pixels, text)
    close(features, backbone, wanted)
    assert features.image_size == size
    assert loaded.feature_info == backbone.feature_info
    by_word, expected_words = features.attention.words(1)[-1], backbone(pixels, text).attention.words(1)[-1]
    assert by_word.words == expected_words.words
    torch.testing.assert_close(by_word.maps, expected_words.maps, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("any_size")
def test_a_file_of_any_size_takes_two_traces_without_symbols_and_no_rewrite_rules(work):
    """With symbols a trace takes five times as long, and the rules take half of the time of a conversion."""
    assert len(work["sizes"]) == 2
    assert all(len(program) > 1000 and {type(side) for side in program} == {int} for program in work["sizes"])
    assert work["rules"] == 0


def test_numbers_of_a_graph_become_formulas_of_its_sizes():
    batch, rows, columns = sizes.PRIMES[0]
    shape, onnx_type = Shape(None, None, 64), onnx.TensorProto.INT64
    constants = {
        "flat": [batch * 3, rows * 8 * columns, -1],
        "halves": [batch * 6, 32 * rows, 64 * columns],
        "end": 1009,
    }

    def model(**attributes):
        nodes = [
            onnx.helper.make_node("Reshape", ["pixels", "flat"], ["first"]),
            onnx.helper.make_node("Reshape", ["first", "halves"], ["second"]),
            onnx.helper.make_node("Range", ["zero", "end", "one"], ["rows"]),
            onnx.helper.make_node("Concat", ["second"], ["output"], **({"axis": 0} | attributes)),
        ]
        inputs = [onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["b", 3, "h", "w"])]
        outputs = [
            onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None),
            onnx.helper.make_tensor_value_info("rows", onnx_type, None),
        ]
        initializers = [
            onnx.helper.make_tensor(name, onnx_type, [len(value)] if isinstance(value, list) else [], np.ravel(value))
            for name, value in (constants | {"zero": 0, "one": 1}).items()
        ]
        graph = onnx.helper.make_graph(nodes, "sizes", inputs, outputs, initializers)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)

    formulas = model()
    sizes.vary_sizes(formulas, shape, install="")
    session = onnxruntime.InferenceSession(formulas.SerializeToString())
    pixels = np.arange(2 * 3 * 192 * 64, dtype=np.float32).reshape(2, 3, 192, 64)
    output, counted = session.run(None, {"pixels": pixels})
    assert np.array_equal(output, pixels.reshape(12, 96, 64))
    assert counted.tolist() == [0, 1, 2]  # 192 pixels are 3 rows of 64
    unchanged = model()
    sizes.vary_sizes(unchanged, Shape((64, 64), 1, 64), install="")
    assert unchanged == model()
    refused = model()
    refused.graph.node[-1].attribute.append(onnx.helper.make_attribute("splits", [3, 2 * columns]))
    table = model()
    table.graph.initializer.append(onnx.helper.make_tensor("table", onnx_type, [rows], range(rows)))
    for graph in (refused, table):
        with pytest.raises(ValueError, match=r"pass batch_size=1 and image_size=\(height, width\)\."):
            sizes.vary_sizes(graph, shape, install="")


@pytest.mark.parametrize("kind", ["number", "table"])
def test_a_backbone_that_uses_its_sizes_otherwise_has_no_file_of_any_size(kind, tmp_path, monkeypatch):
    forward = ExportedBackbone.forward

    def one_more(self, pixels, embeddings=None, pooled=None):
        outputs = forward(self, pixels, embeddings, pooled)
        added = torch.tensor([2018, 5]).sum() if kind == "table" else pixels.shape[3] + 1
        return outputs | {"map_0": outputs["map_0"] + added}

    monkeypatch.setattr(ExportedBackbone, "forward", one_more)
    backbone = build_backbone(unet=build_unet(channels=(8, 16)), attach_attention=())
    with pytest.raises(ValueError, match=r"uses the size of its images .*; pass image_size=\(height, width\)\."):
        to_onnx(backbone, tmp_path / "backbone.onnx", batch_size=1)
    assert not list(tmp_path.iterdir())


def test_a_file_is_plain_onnx_that_says_what_it_is(any_size):
    """ONNX Runtime runs the file without tadp, as other programs would."""
    backbone, path = any_size
    session = onnxruntime.InferenceSession(path)
    assert [(value.name, value.shape) for value in session.get_inputs()] == [
        ("pixels", ["batch", 3, "height", "width"]), ("embeddings", ["batch", 77, 16]),
    ]  # fmt: skip
    assert [(value.name, value.shape) for value in session.get_outputs()] == [
        (f"map_{level}", ["batch", channels, f"ceil(height / {stride})", f"ceil(width / {stride})"])
        for level, (channels, stride) in enumerate(zip((8, 93, 16), (8, 16, 32), strict=True))
    ]
    facts = json.loads(session.get_modelmeta().custom_metadata_map["tadp"])
    assert (facts["channels"], facts["strides"], facts["tokens"]) == ([8, 93, 16], [8, 16, 32], 77)
    assert (facts["model"], facts["revision"], facts["attached"]) == (None, None, {"1": 77})
    pixels, text, wanted = run(backbone, 1, (70, 92))
    outputs = session.run(["map_1"], {"pixels": pixels.numpy(), "embeddings": text.embeddings.numpy()})
    assert np.linalg.norm(outputs[0] - wanted["map_1"].numpy()) < TOLERANCE * np.linalg.norm(wanted["map_1"].numpy())


def test_one_text_is_shared_and_texts_of_another_batch_or_shape_are_refused(any_size):
    backbone, path = any_size
    loaded, pixels = OnnxBackbone(path), images(2, 64, 64)
    with torch.no_grad():
        wanted = backbone(pixels, "a dog")
    close(loaded(pixels, backbone.encode_text("a dog")), backbone, expected(backbone, wanted))
    with pytest.raises(CaptionError, match=r"2 images but 3 texts"):
        loaded(pixels, backbone.encode_text(CAPTIONS))
    with pytest.raises(ValueError, match=r"takes embeddings \(B, 77, 16\); got \(1, 12, 16\)"):
        loaded(pixels, Conditioning(embeddings(1, 12)))
    with pytest.raises(ValueError, match=r"an exported graph takes no mask"):
        loaded(pixels, backbone.encode_text("a dog", mask_padding=True))
    with pytest.raises(ValueError, match=r"this file takes the embeddings of a text: pass encode_text\(captions\)"):
        loaded(pixels)
    with pytest.raises(ImageError, match=r"is 4x64 pixels \(height x width\); both sides must be at least 8"):
        loaded(images(1, 4, 64), backbone.encode_text("a dog"))


def test_captions_are_encoded_before_a_file_takes_them(no_type_checker, any_size):
    for text, kind in (("a dog", "str"), (["a dog"], "list"), (embeddings(1, 77), "Tensor")):
        with pytest.raises(TypeError, match=rf"text must be a Conditioning, .* got {kind}\. Encode captions with"):
            OnnxBackbone(any_size[1])(images(1, 64, 64), text)


@pytest.mark.parametrize(
    "options",
    [{"record_attention": (0, 1)}, {"attach_attention": ()}, {"levels": (1, 2)}],
    ids=["recorded", "none", "some levels"],
)
def test_a_file_of_one_size(options, tmp_path):
    backbone = trained_adapter(**options)
    to_onnx(backbone, tmp_path / "backbone.onnx", image_size=(70, 92), batch_size=2)
    assert [path.name for path in tmp_path.iterdir()] == ["backbone.onnx"]
    loaded = OnnxBackbone(tmp_path / "backbone.onnx")
    pixels, text, wanted = run(backbone, 2, (70, 92))
    features = loaded(pixels, text)
    close(features, backbone, wanted)
    assert features.levels == backbone.chosen_levels()
    levels = backbone.options.attention_levels
    assert (features.attention is None) == (not levels)
    assert features.attention is None or list(features.attention.levels) == levels
    with pytest.raises(ImageError, match=r"takes images of 70x92 \(height x width\); got 64x64\. Resize them, or"):
        loaded(images(2, 64, 64), text)
    with pytest.raises(ImageError, match=r"this file takes 2 images per call; got 1"):
        loaded(images(1, 70, 92), text)


def test_the_command_line_writes_a_file_with_a_text_in_it(model_source, tmp_path):
    path, model = tmp_path / "small.onnx", str(model_source)
    done = CliRunner().invoke(app, ["export", model, "-o", str(path), "--size", "64x96", "--text", "a dog and a cat"])
    assert done.exit_code == 0, done.output
    assert "maps of 8 at stride 8, 93 at stride 16, 93 at stride 32, 16 at stride 64 channels" in done.output
    backbone, pixels, loaded = TADPBackbone.from_pretrained(model), images(3, 64, 96), OnnxBackbone(path)
    with torch.no_grad():
        wanted = backbone(pixels, "a dog and a cat")
    features = loaded(pixels)
    close(features, backbone, expected(backbone, wanted))
    assert features.attention.words(2)[2].words == ("a", "dog", "and", "a", "cat")
    assert loaded.facts.model == model
    assert [value.name for value in loaded.session.get_inputs()] == ["pixels"]
    with pytest.raises(ValueError, match=r"this file contains its text"):
        loaded(pixels, backbone.encode_text("a dog"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "64"], "'64' is not a size; pass height x width"),
        (["--size", "4x64"], "--size must be (height, width) of 8 pixels or more each"),
        (["--opset", "11"], "--opset"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, message, tmp_path):
    command = ["export", "tadp-tiny", "-o", str(tmp_path / "tiny.onnx"), *arguments]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert message in done.output


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (4, 64)}, r"image_size must be \(height, width\) of 8 pixels or more each, .* got \(4, 64\)"),
        ({"batch_size": 0}, r"batch_size must be 1 or more, or None for any; got 0"),
        ({"text": ["a dog", "a cat"]}, r"a graph holds one text for all images; got 2 texts"),
    ],
)
def test_shapes_below_the_smallest_and_several_texts_are_refused(backbone, options, message):
    with pytest.raises(ValueError, match=message):
        to_program(backbone, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 128}, r"image_size must be \(height, width\) in whole pixels, .* got 128"),
        (
            {"image_size": (128.0, 128.0)},
            r"image_size must be \(height, width\) in whole pixels, .* got \(128\.0, 128\.0\)",
        ),
        ({"image_size": "512x512"}, r"image_size must be \(height, width\) in whole pixels, .* got '512x512'"),
        ({"batch_size": 1.5}, r"batch_size must be a whole number, or None for any; got 1\.5"),
    ],
)
def test_shapes_are_whole_numbers(no_type_checker, backbone, options, message):
    with pytest.raises(TypeError, match=message):
        to_program(backbone, **options)


def test_what_no_graph_can_do_is_explained():
    with pytest.warns(UserWarning, match=r"came without scheduler"):
        noisy = build_backbone(timestep=261, noise_samples=2)
    with pytest.raises(ValueError, match=r"sample_posterior draws random numbers, but an exported graph has none"):
        to_program(build_backbone(sample_posterior=True))
    with pytest.raises(ValueError, match=r"noise_samples draws noise in Python, .* Several timesteps can be exported"):
        to_program(noisy)
    with pytest.raises(ValueError, match=r"pool_attention looks names up in each text.* pool the recorded attention"):
        to_program(build_backbone(pool_attention=["dog"]))
    with pytest.raises(
        ValueError, match=r"captioner cannot be exported, because a graph takes embeddings.*attach_captioner\(None\)"
    ):
        to_program(build_backbone().attach_captioner(lambda batch: ["a dog"] * len(batch)))
    bare = TADPBackbone(vae=build_vae(), unet=build_unet(), attach_attention=())
    with pytest.raises(ValueError, match=r"a graph needs it; build the backbone with text_length=77"):
        to_program(bare)
    with pytest.raises(ValueError, match=r"takes no mask"):
        to_program(build_backbone(), text=build_backbone().encode_text("a dog", mask_padding=True))


def test_files_that_are_none_of_ours_are_refused(backbone, tmp_path):
    with pytest.raises(OutputError, match=r"is a folder; name the file to write: .*backbone\.onnx"):
        to_onnx(backbone, tmp_path)
    with pytest.raises(ValueError, match=r"opset must be 18 or newer, as PyTorch's exporter writes; got 17"):
        to_onnx(backbone, tmp_path / "backbone.onnx", opset=17)
    with pytest.raises(MissingFileError, match=r"no file .*nothing\.onnx; tadp\.export\.to_onnx writes one"):
        OnnxBackbone(tmp_path / "nothing.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"junk\.onnx is not an ONNX file, or is damaged; export it again"):
        OnnxBackbone(tmp_path / "junk.onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "other", [value], [other])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"was not written by tadp\.export: its metadata has no 'tadp'"):
        OnnxBackbone(path)
    onnx.helper.set_model_props(model, {"tadp": json.dumps({"tadp": "9.9", "colours": 3})})
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"written by tadp 9\.9, whose facts this version cannot read"):
        OnnxBackbone(path)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_names_its_command(backbone, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"needs {package}, .*: pip install 'tadp\[onnx\]'"):
        OnnxBackbone(tmp_path / "x.onnx") if package == "onnxruntime" else to_onnx(backbone, tmp_path / "x.onnx")
