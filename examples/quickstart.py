"""Captions, features, attention maps and predictions of two rendered scenes, with the models that come with tadp.

    python examples/quickstart.py --out pictures

Prints each caption and the shape of each feature map, and writes one picture per scene with a heat map for each word.
Then it predicts classes, depth and objects (which needs the extra `detection`), and writes predictions.png.

With Stable Diffusion and your own photographs: --model stable-diffusion-v1-5/stable-diffusion-v1-5
--captioner blip2 --images photo.jpg
"""

import argparse
from pathlib import Path

import tadp
from tadp.datasets.scenes import Scenes
from tadp.drawing import pixel_words, sheet, word_sheet
from tadp.images import ImageLike
from tadp.trainer.trained_task import enlarged

LEVELS = (0, 1)  # the levels whose attention is drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder for the pictures")
    parser.add_argument("--model", default="tadp-tiny", help="'tadp-tiny', a hub id, or a folder in diffusers layout")
    parser.add_argument("--captioner", default="tadp-tiny", help="'tadp-tiny', or any image-text-to-text model")
    parser.add_argument("--images", nargs="+", type=Path, help="image files in place of the two rendered scenes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    backbone = tadp.TADPBackbone.from_pretrained(options.model, record_attention=LEVELS)
    captioner = tadp.Captioner.from_pretrained(options.captioner)
    images: dict[str, ImageLike] = {path.stem: path for path in options.images or ()}
    images = images or {f"scene-{number}": scene.image for number, scene in enumerate(Scenes(2, seed=357), start=1)}
    for name, image in images.items():
        [caption] = captioner(image)
        features = backbone(image, caption)
        print(f"{name} {features.image_size}: {caption}")
        for level, (feature_map, stride) in enumerate(zip(features.maps, backbone.feature_info.reduction, strict=True)):
            print(f"  level {level}, stride {stride:2}: {tuple(feature_map.shape)}")
        words = pixel_words(features, backbone.feature_info, levels=LEVELS)
        word_sheet(image, words, caption).save(options.out / f"{name}.png")
        (options.out / f"{name}.html").write_text(features.to_html(image), encoding="utf-8")
    if options.model == "tadp-tiny":
        print("tadp-tiny locates objects, not colours or places: the pictures of those words stay grey.")
        predict(images, options.out / "predictions.png")
    print(f"pictures in {options.out}")
    print(f"to explore the first image, open {options.out / next(iter(images))}.html in a browser")


def predict(images: dict[str, ImageLike], path: Path) -> None:
    """Predict the classes of pixels, their depth, and objects, and draw one row of pictures per image."""
    models = (
        tadp.TADPForSemanticSegmentation.from_pretrained("tadp-tiny-segmentation"),
        tadp.TADPForDepthEstimation.from_pretrained("tadp-tiny-depth"),
        tadp.TADPForObjectDetection.from_pretrained("tadp-tiny-detection"),
    )
    rows, captions = [], []
    for name, image in images.items():
        results = [model.predict(image) for model in models]  # each writes the caption of the image itself
        print(f"{name}: {', '.join(map(str, results))}")
        rows.append([enlarged(image), *(result.plot() for result in results)])
        captions.append(results[0].caption or "")
    sheet(rows, titles=("image", "segmentation", "depth", "detection"), labels=captions).save(path)


if __name__ == "__main__":
    main()
