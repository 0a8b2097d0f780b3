import numpy as np
import pytest
import torch
from PIL import Image

from tadp.captioner.decoding import Decoding, SeededNoise


def test_the_largest_noisy_logit_is_a_draw_from_the_softmax():
    """The frequencies of 20,000 draws are within four standard deviations."""
    shares, draws = torch.tensor([0.6, 0.3, 0.1]), 20_000
    logits = shares.log().expand(draws, -1) + 5
    noisy = SeededNoise(list(range(draws)))(torch.zeros(draws, 1, dtype=torch.long), logits)
    frequencies = torch.bincount(noisy.argmax(dim=1), minlength=3) / draws
    assert ((frequencies - shares).abs() < 4 * (shares * (1 - shares) / draws).sqrt()).all()


def test_what_is_ruled_out_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    for seed in range(100):
        assert SeededNoise([seed])(torch.zeros(1, 1, dtype=torch.long), logits).argmax() == 1


def test_each_row_has_its_own_stream_that_moves_on():
    ids, logits = torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 50)
    noise = SeededNoise([1, 2])
    first, second = noise(ids, logits), noise(ids, logits)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    alone = SeededNoise([2])
    assert torch.equal(alone(ids[:1], logits[:1]), first[1:])
    assert torch.equal(alone(ids[:1], logits[:1]), second[1:])


def test_the_seed_is_of_image_and_number():
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(2)]

    def noise(image: Image.Image, seed: int, again: bool = False) -> torch.Tensor:
        processors = Decoding(temperature=1.0, seed=seed).arguments([image], again=again)["logits_processor"]
        return processors[-1](torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 9))

    reference = noise(images[0], 1)
    assert torch.equal(noise(images[0].copy(), 1), reference)
    for other in (noise(images[1], 1), noise(images[0], 2), noise(images[0], 1, again=True)):
        assert not torch.equal(other, reference)


def test_words_are_drawn_from_the_nucleus():
    [temperature, nucleus, _] = Decoding(temperature=2.0).arguments([])["logits_processor"]
    ids, logits = torch.zeros(1, 1, dtype=torch.long), torch.tensor([[0.5, 0.45, 0.05]]).log()
    assert torch.equal(temperature(ids, logits), logits / 2)
    # The first two make up 0.9 of the probability, so the third is excluded.
    assert torch.isinf(nucleus(ids, logits)).tolist() == [[False, False, True]]


def test_greedy_decoding_adds_nothing():
    assert Decoding().arguments([]) == {
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": 77,
        "min_new_tokens": None,
    }


@pytest.mark.parametrize("length", [0, 20, 40])
def test_the_paper_s_minimal_lengths(length):
    assert Decoding(min_new_tokens=length).arguments([])["min_new_tokens"] == (length or None)
