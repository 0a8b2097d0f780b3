"""Running modules without changing them, and in forked processes."""

import copy
import multiprocessing
import subprocess
import sys
import threading

import pytest
import torch
from builders import build_backbone, build_folder, images
from torch import nn

from tadp.files.inference import check_process, in_evaluation, without_autocast


class Noisy(nn.Module):
    """A layer with each kind of state that a training pass has: batch statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5))
        self.again = self.layers[0]  # the same module under a second name

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.again(self.layers(self.norm(pixels)))


def test_a_copy_in_evaluation_shares_tensors_and_leaves_the_mode():
    module = Noisy().train()
    expected = copy.deepcopy(module).eval()(images(2, 8, 8))
    twin = in_evaluation(module)
    assert torch.equal(twin(images(2, 8, 8)), expected)
    assert all(part.training for part in module.modules())
    assert not any(part.training for part in twin.modules())
    assert [id(tensor) for tensor in twin.state_dict(keep_vars=True).values()] == [
        id(tensor) for tensor in module.state_dict(keep_vars=True).values()
    ]
    assert twin.again is twin.layers[0]
    assert module.norm.num_batches_tracked == 0


def test_training_beside_the_copy_gives_equal_bits_and_statistics():
    module, alone = Noisy().train(), None
    alone = copy.deepcopy(module)
    stop = threading.Event()

    def predict() -> None:
        while not stop.is_set():
            with torch.no_grad():
                in_evaluation(module)(images(1, 8, 8, seed=1))

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for seed in range(20):
            torch.manual_seed(seed)
            result = module(images(2, 8, 8, seed=seed))
            torch.manual_seed(seed)
            assert torch.equal(result, alone(images(2, 8, 8, seed=seed)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for name, tensor in alone.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name


def test_hooks_and_compiled_parts():
    accelerate = pytest.importorskip("accelerate")
    module = Noisy().train()
    expected = copy.deepcopy(module).eval()(images(1, 8, 8))
    accelerate.hooks.add_hook_to_module(module.layers, accelerate.hooks.ModelHook())
    assert torch.equal(in_evaluation(module)(images(1, 8, 8)), expected)
    module.norm = torch.compile(module.norm, backend="eager")  # type: ignore
    twin = in_evaluation(module)
    assert torch.equal(twin(images(1, 8, 8)), expected)
    assert "norm.weight" in twin.state_dict()
    module.eval()
    assert in_evaluation(module) is module  # stays compiled


def test_a_hook_that_is_registered_on_the_copy_stays_there():
    module = Noisy()
    in_evaluation(module).norm.register_forward_hook(lambda *_: None)
    assert not module.norm._forward_hooks


def test_modules_keep_their_dtype_without_autocast():
    layer, tensor = nn.Linear(4, 4), torch.ones(1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(tensor).dtype == torch.bfloat16
        with without_autocast(tensor.device):
            assert layer(tensor).dtype == torch.float32


def _child(results, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        check_process()
        results.put("runs")
    except RuntimeError as error:
        results.put(str(error))


@pytest.mark.parametrize(("threads", "expected"), [(1, "runs"), (2, "this process was forked after its parent had")])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # about threads and fork
def test_a_forked_child_is_told_that_it_would_hang(threads, expected):
    build_backbone()(images(1, 64, 64), "a dog")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_child, args=(results, threads))
    child.start()
    assert results.get(timeout=60).startswith(expected)
    child.join()


def _convert(results, action: str) -> None:
    from tadp.images import to_tensor

    torch.set_num_threads(2)
    try:
        to_tensor(LARGE) if action == "convert" else list_weights(FOLDER[0])
        results.put("runs")
    except RuntimeError as error:
        results.put(str(error))


LARGE = torch.zeros(1, 3, 256, 256)
FOLDER: list = []


def list_weights(folder) -> None:
    from tadp.files.hub import weight_files

    weight_files(folder / "unet", "diffusion_pytorch_model")


@pytest.mark.parametrize("action", ["convert", "load"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told_before_it_converts_an_image_or_loads_a_model(tmp_path, action):
    FOLDER[:] = [build_folder(tmp_path)]
    build_backbone()(images(1, 64, 64), "a dog")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_convert, args=(results, action))
    child.start()
    try:
        assert results.get(timeout=60).startswith("this process was forked after its parent had")
    finally:
        child.kill()


def test_loading_a_model_counts_as_computing():
    code = (
        "import sys, multiprocessing, torch, tadp\n"
        "torch.set_num_threads(2)\n"
        "from tadp.files.inference import check_process\n"
        "def child(results):\n"
        "    try:\n"
        "        check_process(starts=False)\n"
        "    except RuntimeError as error:\n"
        "        results.put(str(error))\n"
        "    results.put('runs')\n"
        "tadp.TADPBackbone.from_pretrained('tadp-tiny')\n"
        "context = multiprocessing.get_context('fork')\n"
        "results = context.Queue()\n"
        "context.Process(target=child, args=(results,)).start()\n"
        "print(results.get(timeout=60))\n"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("this process was forked after its parent had computed")
