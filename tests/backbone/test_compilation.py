"""`backbone.compile()`: repeated parts are compiled once, for images of any size, and give the same features."""

from pathlib import Path

import pytest
import torch
from builders import build_backbone
from compile_parts_worker import lora
from running import run_function, run_script
from torch import nn

from tadp.diffusion.families import StableDiffusion
from tadp.errors import ModelError
from tadp.files.inference import in_evaluation

IS_LOWEST = torch.__version__.startswith("2.8.")


def worker(*arguments: str) -> list[list[str]]:
    """The words of each line that `compile_parts_worker.py` prints."""
    process = run_script(Path(__file__).parents[1] / "support" / "compile_parts_worker.py", *arguments)
    assert process.returncode == 0, process.stderr
    return [line.split() for line in process.stdout.splitlines()]


def test_another_size_is_not_compiled_again_and_the_features_are_equal_bit_for_bit():
    lines = worker("sizes")
    assert all(float(line[-1]) == 0 for line in lines)
    new = {name: [int(line[1]) for line in lines if line[0] == name] for name in ("size", "batch", "levels", "copy")}
    kinds = new["size"][0]
    assert kinds < 15  # of 20 parts
    assert new["size"][1:] == [0] * 4
    assert 0 < new["batch"][0] <= kinds  # a single image has code of its own
    assert new["batch"][1] == 0
    assert sum(new["levels"]) <= 3  # fewer levels compile nothing again, and recording only transformer blocks
    assert new["copy"] == [0, 0]  # copies are not compiled


def test_gradients_with_checkpointing_agree():
    [(same_weights, error)] = worker("training")
    assert same_weights == "True"
    assert float(error) < 1e-5


@pytest.mark.skipif(IS_LOWEST, reason="torch 2.8 does not make one graph of a block of FLUX")
def test_every_family_names_its_parts():
    """Each part is one graph, and another size costs no part more than one compilation."""
    assert worker("families", "SDXL", "SD 3", "FLUX") == [["0.0", "True"]] * 3


def test_a_lora_may_be_added_before_or_after_compiling():
    result = run_function(lora)
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        error, change = map(float, line.split())
        assert error == 0
        assert change > 0.01
    assert len(result.stdout.splitlines()) == 2


def test_the_default_backend_agrees():
    """Without and with gradients, and with weights as constants, also after these weights have changed."""
    lines = worker("inductor")
    assert [name for name, _ in lines] == ["float32", "freezing", "freezing", "gradient"]
    assert all(float(error) < 1e-5 for _, error in lines)


def compiled_parts(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if part._compiled_call_impl is not None]


def test_names_saving_and_copies_do_not_change(tmp_path):
    backbone = build_backbone()
    names, weights = list(backbone.state_dict()), list(backbone.named_parameters())
    backbone.compile()
    assert list(backbone.state_dict()) == names
    assert all(after is before for (_, after), (_, before) in zip(backbone.named_parameters(), weights, strict=True))
    assert "unet.up_blocks.0.resnets.0" in compiled_parts(backbone)
    assert "unet.mid_block.attentions.0.transformer_blocks.0" in compiled_parts(backbone)
    assert "vae.encoder.down_blocks.0.resnets.0" in compiled_parts(backbone)
    assert compiled_parts(backbone.with_options(timestep=5)) == compiled_parts(backbone)
    assert not compiled_parts(in_evaluation(backbone.train()))
    backbone.save_pretrained(tmp_path / "model")
    loaded = type(backbone).from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in backbone.state_dict().items())


def test_bad_arguments_are_refused():
    backbone = build_backbone()
    for arguments, words in (
        ({"backend": "inductr"}, r"refuses an argument of backbone.compile\(\): Invalid backend: 'inductr'"),
        ({"mode": "fast"}, r"Unrecognized mode=fast, should be one of: default"),
        ({"options": {"frezing": True}}, r"Unexpected optimization option frezing"),
        ({"options": {"freezing": "yes"}}, r"Unexpected type of attr freezing, got str should be bool"),
        ({"mode": "default", "options": {"freezing": True}}, r"Either mode or options can be specified"),
    ):
        with pytest.raises(ValueError, match=words):
            backbone.compile(**arguments)
    with pytest.raises(TypeError, match="unexpected keyword argument 'disable'"):
        backbone.compile(disable=True)  # pyright: ignore[reportCallIssue]
    assert not compiled_parts(backbone)


def test_a_family_without_a_list_of_parts_is_refused(monkeypatch):
    monkeypatch.setattr(StableDiffusion, "repeated", ())
    with pytest.raises(ModelError, match=r"does not say which parts repeat; set `repeated` in it, or call torch.comp"):
        build_backbone().compile()
