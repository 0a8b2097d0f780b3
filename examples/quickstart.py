"""The main job on a rendered scene and on a real photograph, with the checkpoint that comes with tadp.

    python examples/quickstart.py --out pictures

With Stable Diffusion: --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner Salesforce/blip2-opt-2.7b

Prints each caption and the shape of each feature map, and writes each image with a heat map a word.
"""

import argparse
from pathlib import Path

import skimage

import tadp
from tadp.datasets.scenes import Scenes
from tadp.drawing.heatmaps import pixel_words, word_sheet

LEVELS = (0, 1)  # whose attention is drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder for the pictures")
    parser.add_argument("--model", default="tadp-tiny", help="'tadp-tiny', a hub id, or a folder in diffusers layout")
    parser.add_argument("--captioner", default="tadp-tiny", help="'tadp-tiny', or any image-text-to-text model")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    backbone = tadp.TADPBackbone.from_pretrained(options.model, record_attention=LEVELS)
    captioner = tadp.Captioner.from_pretrained(options.captioner)
    images = {"scene": Scenes(1, seed=357)[0].image, "photograph": skimage.data.coffee()}
    for name, image in images.items():
        [caption] = captioner(image)
        features = backbone(image, caption)
        print(f"{name} {features.image_size}: {caption}")
        for level, (one, stride) in enumerate(zip(features.maps, backbone.feature_info.reduction, strict=True)):
            print(f"  level {level}, stride {stride:2}: {tuple(one.shape)}")
        words = pixel_words(features, backbone.feature_info, levels=LEVELS)
        word_sheet(image, words, caption).save(options.out / f"{name}.png")
    print(f"pictures in {options.out}")
    if options.model == "tadp-tiny":
        print("tadp-tiny knows rendered scenes; what it says of a photograph shows the machinery, not the photograph.")


if __name__ == "__main__":
    main()
