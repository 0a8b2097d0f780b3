"""Every script in examples/ runs, with sizes that take seconds."""

import argparse
import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import trees
from PIL import Image
from running import run_script

from tadp.datasets import RenderedScenes

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *options: object) -> str:
    process = run_script(EXAMPLES / script, *options)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


def is_script(path):
    """Whether users call the file; `captioner_data.py` only starts further processes of its own."""
    return 'if __name__ == "__main__":' in path.read_text() and path.name != "captioner_data.py"


def test_every_script_has_a_test():
    scripts = {p.relative_to(EXAMPLES).as_posix() for p in EXAMPLES.rglob("*.py") if is_script(p)}
    tested = Path(__file__).read_text() + (Path(__file__).parents[1] / "docs" / "test_docs.py").read_text()
    tested += (Path(__file__).parent / "test_personalize_study.py").read_text()
    tested += (Path(__file__).parent / "test_study.py").read_text()
    tested += (Path(__file__).parent / "test_publish.py").read_text()
    tested += "train_vae.py train_unet.py train_captioner.py segmentation.py"  # make.py and learn.py run these
    assert {script for script in scripts if script.split("/")[-1] not in tested} == set()


def test_the_page_lists_every_script():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    scripts = {p.relative_to(EXAMPLES).as_posix() for p in EXAMPLES.rglob("*.py") if is_script(p)}
    assert set(re.findall(r"`python examples/(\S+\.py)", page)) == scripts


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda p: p.relative_to(EXAMPLES).as_posix())
def test_a_file_is_one_idea(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 165
    assert ast.get_docstring(ast.parse(text))
    if is_script(path):  # --help shows the docstring, with the command
        name = path.relative_to(EXAMPLES.parent).as_posix()
        assert f"python {name}" in (ast.get_docstring(ast.parse(text)) or "")
        assert "description=__doc__" in text or re.search(r"(read_options|read|main)\((TABLE, )?__doc__", text)


def test_base_models_are_counted_as_the_page_says():
    printed = run("base_models.py", "--family", "sd1").splitlines()
    page = (EXAMPLES.parent / "docs" / "base-models.md").read_text().splitlines()
    assert printed[0] in page
    assert printed[2] in page
    assert " | 860 + 34 + 123 | " in printed[2]  # Stable Diffusion's own count is 860 and 123 million
    assert printed[-4:] == [
        "level 0: up_blocks.3.attentions.2", "level 1: up_blocks.2.attentions.1", "level 2: up_blocks.1.attentions.1",
        "level 3: up_blocks.0.resnets.1",
    ]  # fmt: skip


def test_a_model_runs_with_each_way_to_save_memory():
    printed = run("base_models.py", "--savings", "tadp-tiny", "--side", "64")
    rows = [line.split(" | ")[:2] for line in printed.splitlines() if " | not measured | " in line]
    differences = {way.removeprefix("| "): float(value) for way, value in rows}
    assert 0 < differences.pop("storage_dtype, float8_e4m3fn") < 0.25
    assert differences.pop("quantization_config, int8", 0) < 0.02  # only with torchao
    assert differences == {"dtype only": 0, "idle_on_cpu": 0, "block_level": 0, "leaf_level": 0}


def test_passes_that_end_early_are_counted_as_the_page_says():
    printed = run("base_models.py", "--levels", "--family", "sd1", "--family", "sd3").splitlines()
    page = (EXAMPLES.parent / "docs" / "base-models.md").read_text().splitlines()
    assert len(printed) == 4
    assert all(line in page for line in printed)


def test_passes_that_end_early_take_less_time():
    _, _, *rows = run("base_models.py", "--levels", "--rounds", 1, "--side", 64, "--family", "sd1").splitlines()
    assert len(rows) == 1
    measured = [float(cell.split(" (")[0]) for cell in rows[0].split(" | ")[2:]]
    assert measured[2] < 0.9  # only level 3, a third of the FLOPs


def test_benchmark_compares_every_variant_with_diffusers(tmp_path):
    printed = run("benchmark.py", "--size", "tiny", "--rounds", 1, "--out", tmp_path / "speed")
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    page = (tmp_path / "speed.md").read_text()
    assert all(f"| {row['name']} |" in page and f"| {row['name']} |" in printed for row in rows)
    assert all(row["unet_speed"] > 0 and 0 < row["share_of_best_rate"] < 1.5 for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == len(rows)
    assert by_name["diffusers"]["unet_speed"] == 1
    assert by_name["tadp, stopped at the same layer"]["error"] == 0
    assert by_name["tadp, float32"]["error"] == 0
    assert by_name["tadp, float32, channels_last"]["error"] < 5e-5
    assert 1e-4 < by_name["tadp, bfloat16"]["error"] < 0.1
    work = [
        by_name[f"tadp, {levels}"]["gflop"]["extract"] for levels in ("only level 3", "levels from 2 on", "float32")
    ]
    assert work == sorted(set(work))
    assert {row["group"] for row in rows if row["name"].startswith("step")} == {
        "A training step", "A training step on a batch",
    }  # fmt: skip


def test_a_row_of_the_benchmark_runs_alone(tmp_path):
    name = "step: tadp, float32"
    run("benchmark.py", "--size", "tiny", "--rounds", 1, "--only", name, "--out", tmp_path / "row")
    rows = json.loads((tmp_path / "row.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["step: diffusers", name]


def test_each_layer_is_compared_with_other_routines(tmp_path):
    printed = run("layer_speed.py", "--size", "tiniest", "--repeats", 1, "--out", tmp_path / "layers")
    assert (tmp_path / "layers.md").read_text() in printed
    kinds = ("3x3 convolution", "1x1 convolution", "linear", "attention", "group norm", "SiLU")
    shares = [re.search(rf"^\| {kind} \| (\d+)% \|", printed, re.MULTILINE) for kind in kinds]
    assert 95 <= sum(int(share[1]) for share in shares if share) <= 105
    assert "x attention, 8 heads, 64 queries, 77 keys |" in printed


def test_the_time_of_compilation_is_measured(tmp_path):
    """With the backend "eager", because the C++ compiler takes minutes."""
    way = ("--task", "pass", "--way", "backbone.compile()", "--backend", "eager")
    run("compile_speed.py", "--size", "two-levels", "--side", 64, "--rounds", 1, *way, "--out", tmp_path / "compiled")
    [row] = json.loads((tmp_path / "compiled.json").read_text())["pass"].values()
    assert row["error"] < 1e-5  # only what is not compiled runs with other routines for linear layers
    assert row["cold"] > 0
    assert "| `backbone.compile()` | " in (tmp_path / "compiled.md").read_text()


def test_a_training_step_gives_gradients_that_can_be_compared(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from benchmarking.compiling import step
    from benchmarking.counting import relative_error
    from benchmarking.variants import Variant, build

    backbone, _, text = build("tiny", Variant(""))
    backbone.unfreeze()
    rows = step(backbone, torch.randn(1, 4, 8, 8), text)
    assert len(rows) >= 8
    assert relative_error(rows, rows) == 0
    assert relative_error({name: 2 * row for name, row in rows.items()}, rows) == pytest.approx(1)


def test_the_cost_on_a_gpu_is_measured_on_a_cpu_to_see_that_it_runs(tmp_path):
    small = ("--size", "tiniest", "--batch", 8, "--batches", "--rounds", 1, "--device", "cpu", "--savings", "tadp-tiny")
    printed = run("gpu_cost.py", *small, "--out", tmp_path / "gpu")
    assert (tmp_path / "gpu.md").read_text() in printed
    assert "| idle_on_cpu | 0.0000 | not measured |" in printed
    results = json.loads((tmp_path / "gpu.json").read_text())
    errors = {name: row["error"] for name, row in results["passes"].items()}
    assert errors["tadp, float32"] == 0
    assert errors["diffusers by hand, float32"] is None
    assert errors["diffusers with hooks, TensorFloat-32"] < 1e-4  # which is float32 on a CPU
    assert 1e-4 < errors["tadp, bfloat16"] < 1  # the weights are random
    assert all(row["seconds"] > 0 for part in ("batches", "steps", "passes") for row in results[part].values())
    for row in results["kernels"].values():
        assert sum(share for kind, share in row.items() if kind not in ("busy", "batch")) == pytest.approx(1)
        assert row["convolution"] > 0.05


def test_training_steps_are_compared_with_the_first_row(tmp_path):
    printed = run("training_step.py", "--size", "tiny", "--rounds", 1, "--out", tmp_path / "step")
    assert (tmp_path / "step.md").read_text() in printed
    results = json.loads((tmp_path / "step.json").read_text())
    assert len(results["steps"]) == 10
    assert len(results["passes"]) == 3
    assert all(row["seconds"] > 0 and row["memory"] > 0 for table in results.values() for row in table.values())
    assert results["steps"]["U-Net frozen, fused AdamW"]["seconds"] < 1


def test_the_cost_of_schedules_is_what_the_page_says(tmp_path):
    run("schedule_cost.py", "--out", tmp_path / "cost.md")
    page = EXAMPLES.parent / "docs" / "results" / "schedule-cost.md"
    assert (tmp_path / "cost.md").read_text() == page.read_text()


def test_ways_to_stride_4_are_compared():
    printed = run("stride4.py", "--steps", 2, "--batch", 2, "--scenes", 4, "--held-out", 2, "--seeds", 1)
    figures = [line.split(": ")[1] for line in printed.splitlines() if "±" in line]
    assert len(figures) == 3
    assert all(0 <= float(figure.split()[0]) <= 1 for figure in figures)


def test_tiles_have_no_seams_with_an_overlap_and_bounded_memory(tmp_path):
    sizes = ("--side", 384, "--tiles", 128, "--memory", "512x512", "896x896")
    printed = run("large_image.py", *sizes, "--out", tmp_path / "tiles")
    assert (tmp_path / "tiles.md").read_text() == printed
    results = json.loads((tmp_path / "tiles.json").read_text())
    apart, overlapping = results["seams"]
    assert apart["level 0 step"] > 1.2
    assert overlapping["level 0 step"] < apart["level 0 step"] - 0.2
    assert all(0 < overlapping[f"level {level} all"] < apart[f"level {level} all"] for level in range(4))
    _, small, single, tiled = results["memory"]
    assert [row["way"] for row in (small, single, tiled)] == ["tiles", "single pass", "tiles"]
    # with four times the pixels, the result grows, but not the memory per tile
    assert tiled["peak_mb"] - tiled["result_mb"] < 1.25 * (small["peak_mb"] - small["result_mb"])
    assert tiled["peak_mb"] < 0.6 * single["peak_mb"]


def test_samples_are_drawn(tmp_path):
    run("tiny/sample.py", "--out", tmp_path / "sheet.png", "--steps", 2, "--per-prompt", 1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 500


def test_the_evaluation_fills_its_tables(tmp_path):
    sizes = ("--train-scenes", 50, "--test-scenes", 12, "--epochs", 1, "--seeds", 1, "--threads", 1)
    printed = run("tiny/evaluate.py", *sizes, "--out", tmp_path / "figures")
    results = json.loads((tmp_path / "figures.json").read_text())
    assert set(results["localisation"]) == {"caption", "name list", "chance"}
    assert 0.02 < results["localisation"]["chance"]["pointing"] < 0.3
    assert "oracle names" in printed


def test_the_scale_of_a_caption_table_is_measured(tmp_path):
    page = tmp_path / "results" / "scale.md"
    printed = run("caption_table_scale.py", "--entries", 300, "--lookups", 50, "--out", page)
    assert page.read_text() == printed
    assert "`python examples/caption_table_scale.py --entries 300 --lookups 50 --seed 0`" in printed
    rows = [line.split(" | ") for line in printed.splitlines() if "memory |" in line or "on disk |" in line]
    assert [row[0] for row in rows] == ["| SQLite, on disk", "| JSON Lines, in memory", "| Parquet, in memory"]
    assert all(0.1 < float(row[6]) < 1e6 for row in rows)


def test_the_scale_of_a_feature_store_is_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from feature_store_scale import measure, page  # its processes would import torch three times
    from tables import made_up_store

    monkeypatch.setattr(made_up_store, "ROWS_PER_SHARD", 20)
    figures = {"tenths_s": made_up_store.write(tmp_path, 700, [3, 650]), "manifest_mb": 1, "index_files_mb": 1}
    assert len(list((tmp_path / "manifest").iterdir())) == 4  # 32 of the 35 parts were merged
    for step in ("index", "open", "plan"):
        figures |= measure(step, tmp_path, 700, [3, 650])
    assert 0 < figures["cold_ms"] <= figures["coldest_ms"] < 1e5
    options = argparse.Namespace(images=700, lookups=2)
    assert "`python examples/feature_store_scale.py --images 700 --lookups 2`" in page(figures, options)


def test_caption_coverage_counts_and_draws(tmp_path):
    captions = {"2007_1": "two women on a couch", "2007_2": "a dog by a train station", "2007_3": ""}
    present = {"2007_1": "background person sofa", "2007_2": "background dog", "2007_3": "chair", "2011_9": "cat"}
    for name, texts in (("captions", captions), ("present", present)):
        content = {image_id: {"captions": [text], "class_label": 1} for image_id, text in texts.items()}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = ("--captions", tmp_path / "captions.json", "--present", tmp_path / "present.json")
    tokenizer = EXAMPLES.parent / "tadp" / "assets" / "tadp-tiny" / "tokenizer"
    out = ("--out", tmp_path / "docs" / "coverage", "--plot", tmp_path / "docs" / "coverage.png")
    printed = run("caption_coverage.py", *files, "--tokenizer", tokenizer, *out)
    page = (tmp_path / "docs" / "coverage.md").read_text()
    assert page in printed
    assert "| names | 0.500 | 0.250 |" in page  # the dog is right; "train" is not a train
    assert "| names and synonyms | 0.750 | 0.750 |" in page
    assert "| the same, without look-alikes | 1.000 | 0.750 |" in page
    assert "](coverage.png)" in page
    assert str(tmp_path) not in page
    assert json.loads((tmp_path / "docs" / "coverage.json").read_text())["tokens"]["over_77"] == 0
    with Image.open(tmp_path / "docs" / "coverage.png") as plot:
        assert min(plot.size) > 200


def test_nouns_counts_where_the_taggers_agree(nltk_data, tmp_path, monkeypatch):
    monkeypatch.setenv("NLTK_DATA", str(nltk_data))
    texts = ("a dog", "two cats", "a dog in Paris")  # NLTK leaves out Paris, which is a name
    content = {str(number): {"captions": [text]} for number, text in enumerate(texts)}
    (tmp_path / "few_captions.json").write_text(json.dumps(content))
    printed = run("nouns.py", tmp_path / "few_captions.json", "--out", tmp_path / "nouns.md")
    assert "| few | 3 | 0.667 | 1.000 | 0.750 |" in printed
    assert (tmp_path / "nouns.md").read_text() in printed


def test_caption_coverage_needs_the_classes_of_every_image(tmp_path):
    for name, image_id in (("captions", "one"), ("present", "other")):
        (tmp_path / f"{name}.json").write_text(json.dumps({image_id: {"captions": ["a dog"]}}))
    files = ("--captions", tmp_path / "captions.json", "--present", tmp_path / "present.json")
    with pytest.raises(AssertionError, match=r"present.json lacks 1 of the 1 images, one first"):
        run("caption_coverage.py", *files, "--out", tmp_path / "page")


def test_the_oracles_figures_are_printed_beside_those_asked_for(tmp_path):
    page = tmp_path / "results" / "oracle.md"
    printed = run("oracle_figures.py", "--scenes", 400, "--draws", 2, "--out", page)
    assert page.read_text() == printed
    assert "`python examples/oracle_figures.py --scenes 400 --seed 0 --draws 2`; 400 rendered scenes" in printed
    cells = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith(("| 0", "| 1"))]
    assert [cell[:2] for cell in cells] == [[a, b] for a in ("0.50", "0.75", "1.00") for b in ("0.50", "0.75", "1.00")]
    for target_precision, target_recall, precision, recall, furthest, _ in cells:
        assert float(precision) == pytest.approx(float(target_precision), abs=0.01)
        assert float(recall) == pytest.approx(float(target_recall), abs=0.01)
        assert float(furthest) <= 0.01


def test_captions_are_cleaned_and_counted(tmp_path):
    texts = ["- a watercolor painting of a dog", "a watercolor", "a pencil drawing of a watercolor owl", "a bird"]
    captions = {str(number): {"captions": [text], "class_label": 3} for number, text in enumerate(texts)}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    printed = run(
        "clean_captions.py",
        f"watercolor={tmp_path / 'captions.json'}",
        "--out",
        tmp_path / "out",
        "--batches",
        2,
        "--read",
    )
    assert "| captions.json | 4 | 3 (75.0%) | 1 (25.0%) |" in printed
    assert "words that captions lost, in addition to the words for the domain: pencil 1\n" in printed
    assert "words that followed a removed word for the domain: owl 1\n" in printed
    assert "begin with a medium, before cleaning: none\n" in printed
    assert "'a pencil drawing of a watercolor owl' -> 'an owl'" in printed
    assert "not cleaned: 'a watercolor': the caption says nothing else" in printed
    assert "in each batch of 2: 2 1" in printed
    cleaned = json.loads((tmp_path / "out" / "captions.json").read_text())
    assert cleaned["0"] == {"captions": ["a dog"], "class_label": 3}
    assert [entry["captions"] for entry in cleaned.values()][1] == ["a watercolor"]


SMALL = ("--steps", 2, "--batch", 2, "--train-scenes", 4, "--held-out-scenes", 2, "--sheet", 1)


@pytest.mark.parametrize(
    ("script", "kind", "trivial"),
    [
        ("depth.py", "TADPForDepthEstimation", {"mean depth", "mean of each pixel"}),
        ("detection.py", "TADPForObjectDetection", {"boxes of a random image"}),
    ],
)
def test_a_model_is_trained_evaluated_and_kept(script, kind, trivial, tmp_path):
    from tadp import tasks

    printed = run(script, *SMALL, "--tune", "nothing", "--out", tmp_path)
    assert "this model" in printed
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["baselines"]) == trivial
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    with Image.open(tmp_path / "predictions.png") as sheet:
        assert sheet.width > 3 * 320
    model = getattr(tasks, kind).from_pretrained(tmp_path / "model")
    assert model.captioner_name == "tadp-tiny"
    assert model.record["metrics"] == result["figures"]
    assert "scenes, 4 images" in (tmp_path / "model" / "README.md").read_text()


TEXTS = ("class_names", "class_embeddings", "averaged_eos", "null")


@pytest.mark.parametrize(
    ("script", "text", "more"),
    [
        *((f"{task}.py", text, ()) for task in ("segmentation", "depth", "detection") for text in TEXTS),
        ("depth.py", "averaged_eos", ("--no-own-class",)),
        ("depth.py", "class_embeddings", ("--text-adapter", "--no-latent-scaling")),
        ("segmentation.py", "averaged_eos", ("--text-adapter", "--no-latent-scaling", "--background")),
    ],
)
def test_every_text_trains_and_is_saved(script, text, more, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    run(script, *SMALL, "--text", text, *more, "--out", tmp_path)
    assert (tmp_path / "predictions.png").exists()
    config = json.loads((tmp_path / "model/config.json").read_text())
    options, base = config["options"], config["base"]["options"]
    assert options["prompt_mode"] == text
    assert base["text_adapter"] == ("--text-adapter" in more)
    assert base["scale_latents"] == ("--no-latent-scaling" not in more)
    assert ("background" in options["prompt_classes"]) == ("--background" in more)
    if script == "depth.py":
        assert options["own_class"] == (text != "null" and "--no-own-class" not in more)


def test_stored_text_is_not_offered(tmp_path):
    process = run_script(EXAMPLES / "depth.py", "--text", "stored", "--out", tmp_path)
    assert process.returncode == 2
    assert "invalid choice: 'stored'" in process.stderr


def test_a_study_compares_with_an_untrained_network_and_a_trivial_answer(tmp_path):
    page = tmp_path / "docs" / "segmentation"
    options = ("segmentation", "--out", tmp_path / "study", "--page", page, "--seeds", 1, *SMALL)
    printed = run("learn.py", *options)
    text = page.with_suffix(".md").read_text()
    assert text.startswith(printed[printed.index("# Segmentation on rendered scenes") :].strip())
    assert "](segmentation.png)" in text
    assert page.with_suffix(".png").exists()
    assert "`python examples/learn.py segmentation --steps 2 --batch 2" in text
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == ["| tadp-tiny", "| tadp-tiny, its U-Net untrained", "| background everywhere"]
    runs = json.loads(page.with_suffix(".json").read_text())["runs"]
    trained, untrained = (results[0]["figures"]["mIoU"] for results in runs.values())
    assert trained != untrained
    assert str(tmp_path) not in text + page.with_suffix(".json").read_text()
    logs = [log.read_bytes() for log in sorted((tmp_path / "study").rglob("log.txt"))]
    run("learn.py", *options)  # nothing is repeated
    assert [log.read_bytes() for log in sorted((tmp_path / "study").rglob("log.txt"))] == logs


def test_models_are_compared_on_a_folder_of_masks(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        for scene_number, sample in enumerate(RenderedScenes(3, seed=number, size=96)):
            for folder, array in ((part, sample.image), (f"{part}annot", sample.mask.astype("uint8"))):
                path = tmp_path / "cams" / folder / f"{part}-{scene_number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    page, names = tmp_path / "docs" / "own-data", ",".join(f"class {number}" for number in range(13))
    sizes = ("--seeds", 1, "--steps", 2, "--batch", 2, "--crop", 64, "--class-names", names, "--unlabelled", 255)
    options = (tmp_path / "cams", "--out", tmp_path / "study", "--page", page, *sizes)
    run("own_data.py", *options)
    text, summary = page.with_suffix(".md").read_text(), json.loads(page.with_suffix(".json").read_text())
    assert "`python examples/own_data.py cams --seeds 1 --steps 2 --batch 2 --crop 64`; 3 images for training" in text
    mious = {result["model"]: result["details"]["miou"] for result in summary["runs"]}
    assert set(mious) == {"tadp-tiny, frozen", "tadp-tiny, tuned", "ResNet-18 from scratch"}
    assert len(set(mious.values())) == 3
    for name, miou in mious.items():
        assert f"| {name} | {100 * miou:.1f} | " in text
    assert re.search(r"\| class \d+ everywhere \| \d+\.\d \| \d+\.\d \| - \| - \|", text)
    assert "runs are finished" not in text
    assert str(tmp_path) not in text + page.with_suffix(".json").read_text()
    with Image.open(page.with_suffix(".png")) as plot:
        assert min(plot.size) > 200
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "study").rglob("*.json"))]
    by_hand = "\n## Detection on BCCD\n\nWritten by hand.\n"
    page.with_suffix(".md").write_text(text + by_hand)
    (tmp_path / "study" / "tadp-tiny-tuned-0.json").rename(tmp_path / "tuned.json")
    run("own_data.py", *options, "--report")  # trains nothing, and keeps the section that was added
    partial = page.with_suffix(".md").read_text()
    assert "2 of 3 runs are finished" in partial
    assert "| tadp-tiny, tuned |" not in partial
    assert partial.endswith(by_hand)
    (tmp_path / "tuned.json").rename(tmp_path / "study" / "tadp-tiny-tuned-0.json")
    run("own_data.py", *options)
    assert page.with_suffix(".md").read_text() == text + by_hand
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "study").rglob("*.json"))] == times


def test_the_page_on_photographs_is_what_its_results_give(tmp_path):
    for suffix in (".md", ".json"):
        shutil.copy(EXAMPLES.parent / "docs" / "results" / f"own-data{suffix}", tmp_path)
    before = (tmp_path / "own-data.md").read_text()
    run("own_data.py", "--page", tmp_path / "own-data")
    assert (tmp_path / "own-data.md").read_text() == before


def test_a_study_of_domains_goes_on_after_a_kill_and_makes_one_page(tmp_path):
    page = tmp_path / "docs" / "night"
    steps = ("--seeds", 1, "--token-steps", 1, *SMALL)
    options = ("segmentation", "--out", tmp_path / "s", "--modifiers", "textual_inversion", *steps, "--page", page)
    run("cross_domain.py", *options, "--only", "train/null-night-0")  # the only run that the killed study had finished
    folder = tmp_path / "s" / "segmentation"
    before = (folder / "train" / "null-night-0" / "result.json").read_bytes()
    printed = run("cross_domain.py", *options)
    assert "segmentation: 3 steps, 1 finished" in printed
    assert (folder / "train" / "null-night-0" / "result.json").read_bytes() == before
    assert not (folder / "train" / "null-night-0" / "log.txt").exists()
    text = page.with_suffix(".md").read_text()
    assert "`python examples/cross_domain.py segmentation --seeds 1 --modifiers null textual_inversion" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| null", "| textual"))]
    assert [row[0] for row in rows[:3]] == ["| null", "| textual_inversion", "| null, captions not cleaned"]
    figures = json.loads((folder / "train" / "null-night-0" / "result.json").read_text())["figures"]
    assert rows[0][1] == f"{figures['night mIoU']:.3f}"
    assert set(figures) == {"source mIoU", "night mIoU", "night mIoU, not cleaned"}
    summary = json.loads(page.with_suffix(".json").read_text())
    assert {row["verdict"] for row in summary["verdicts"]} == {"cannot tell", "not measured"}  # one seed is not enough
    assert str(tmp_path) not in text + page.with_suffix(".json").read_text()

    process = run_script(EXAMPLES / "cross_domain.py", *options, "--lr", 1)
    assert process.returncode
    assert "has a study with other options (training: " in process.stderr


def paper_trees(root: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        trees.voc(root / "VOCdevkit" / year)
        trees.write_list(root / "VOCdevkit" / year / "ImageSets/Main/test.txt", ["2007_000033"])
    trees.cross_domain(root / "watercolor")
    trees.cross_domain(root / "comic")
    trees.cityscapes(root / "cityscapes")
    trees.dark_zurich(root / "dark_zurich")
    trees.nighttime_driving(root / "NighttimeDrivingTest")


@pytest.mark.parametrize(
    ("task", "step", "expected"),
    [
        (
            "detection",
            "null-watercolor-comic-0",
            {"watercolor2k AP", "watercolor2k AP50", "comic2k AP"},
        ),
        ("segmentation", "null-night-0", {"dark-zurich mIoU", "nighttime-driving mIoU"}),
    ],
)
def test_a_study_of_the_papers_data_sets_reads_them(task, step, expected, tmp_path):
    paper_trees(tmp_path / "data")
    sizes = ("--steps", 1, "--batch", 1, "--tune", "nothing", "--sheet", 0)
    options = (task, "--data", "paper", "--root", tmp_path / "data", "--out", tmp_path / "s", *sizes)
    run("cross_domain.py", *options, "--only", f"train/{step}")
    figures = json.loads((tmp_path / "s" / task / "train" / step / "result.json").read_text())["figures"]
    assert expected <= set(figures)
    assert {f"{name}, not cleaned" for name in expected} <= set(figures)
    if task == "segmentation":
        only = ("--only", "learn/textual_inversion-night-0")
        process = run_script(EXAMPLES / "cross_domain.py", *options, *only)
        assert "Unpack Dark Zurich's rgb_anon/train/night" in process.stderr


@pytest.mark.slow
def test_the_recipe_makes_a_checkpoint_that_loads(tmp_path):
    import tadp
    from tadp.datasets.scenes import Scenes

    steps = ("--vae-steps", 1, "--unet-steps", 1, "--captioner-steps", 4, "--scenes", 40)
    run("tiny/make.py", "--work", tmp_path / "work", "--out", tmp_path / "tadp-tiny", *steps)
    backbone = tadp.TADPBackbone.from_pretrained(tmp_path / "tadp-tiny")
    features = backbone(Scenes(1)[0].image, "a dog")
    assert [level_map.shape[1] for level_map in features.maps] == [32, 141, 173, 128]
    assert isinstance(tadp.Captioner.from_pretrained(tmp_path / "tadp-tiny" / "captioner"), tadp.Captioner)


@pytest.mark.slow
def test_the_task_models_that_ship_are_trained_and_packed_by_one_command(tmp_path):
    import tadp

    sizes = ("--steps", 2, "--scenes", 16, "--held-out-scenes", 1)
    words = ("tiny/task_models.py", "--work", tmp_path / "work", "--out", tmp_path / "models", *sizes)
    printed = run(*words)
    assert [line.split(":")[0] for line in printed.splitlines() if "MB" in line] == [
        str(tmp_path / "models" / f"tadp-tiny-{task}") for task in ("segmentation", "depth", "detection")
    ]
    folder = tmp_path / "models" / "tadp-tiny-segmentation"
    config = json.loads((folder / "config.json").read_text())
    assert config["record"]["data"] == "16 rendered scenes (`tadp.datasets.RenderedScenes`, seed 101)"
    model = tadp.TADPForSemanticSegmentation.from_pretrained(folder)
    assert model.predict(RenderedScenes(1, seed=3)[0].image).caption.startswith(("a ", "an "))
    result = tmp_path / "work" / "segmentation" / "result.json"
    finished = result.stat().st_mtime_ns
    run(*words)
    assert result.stat().st_mtime_ns == finished  # finished runs are only packed again


def test_points_of_objects_are_found_more_often_by_features_than_by_pixels(tmp_path):
    printed = run("matching.py", "--pairs", 6, "--seeds", 1, "--out", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == printed
    rows = {line.split(" | ")[0].strip("| "): re.findall(r"(\d\.\d\d) ±", line) for line in printed.splitlines()}
    assert "`python examples/matching.py --pairs 6 --seeds 1`" in printed
    assert float(rows["tadp-tiny, timestep 0"][-1]) > 2 * float(rows["raw pixels"][0])
    assert len(rows["tadp-tiny, timestep 261"]) == 6


def test_a_word_outside_the_caption_is_found_and_its_map_resembles_that_inside_the_caption(tmp_path):
    printed = run("any_word.py", "--scenes", 12, "--seeds", 1, "--out", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == printed
    assert "`python examples/any_word.py --scenes 12 --seeds 1`" in printed
    rows = [line for line in printed.splitlines() if line.startswith("| with the text |")]
    for row in rows:
        assert all(float(share) > 0.6 for share in re.findall(r"(\d\.\d\d) ±", row))
        assert all(float(rank) > 0.8 for rank in re.findall(r"\((\d\.\d\d)\)", row))
    assert len(rows) == 2


def test_one_head_is_trained_on_tadp_on_a_timm_model_and_on_both(tmp_path):
    sizes = ("--scenes", 24, "--held-out", 8, "--steps", 20, "--seeds", 1, "--size", 64)
    printed = run("compare_backbones.py", "--timm", "resnet10t", *sizes, "--out", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == printed
    rows = {line.split(" | ")[0].strip("| "): line for line in printed.splitlines() if line.startswith("| ")}
    assert "timm model has random weights" in printed
    assert "141 at 16" in rows["tadp"]
    assert "256 at 16" in rows["timm"]
    assert "397 at 16" in rows["both"]


def test_guided_upsampling_finds_boundaries_better_than_bilinear(tmp_path):
    sizes = ("--scenes", 24, "--held-out", 8, "--steps", 30, "--seeds", 1)
    printed = run("upsampling.py", *sizes, "--out", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == printed
    edges = [float(line.split("|")[3].split()[0]) for line in printed.splitlines() if line.startswith("| level")]
    assert edges[1] > edges[0]
    assert edges[3] > edges[2]


def test_scenes_are_segmented_better_than_by_chance_without_training(tmp_path):
    printed = run("zero_shot.py", "--scenes", 8, "--seeds", 1, "--out", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == printed
    rows = {line.split(" | ")[0].strip("| "): re.findall(r"(\d\.\d+) ±", line) for line in printed.splitlines()}
    trained, names, own, chance = (
        float(rows[name][0])
        for name in (
            "trained head (`tadp-tiny-segmentation`)",
            "`segment`, all names",
            "`segment`, names of the image",
            "chance",
        )
    )
    assert chance < names < own < trained
