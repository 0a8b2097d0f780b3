"""examples/study: statistics, verdicts, runs with sizes that take seconds, resuming, and what is refused."""

import itertools
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trees
from PIL import Image
from running import fork_server

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "examples" / "study"
sys.path.insert(0, str(STUDY))

import all as everything  # noqa: E402
import appendix_a  # noqa: E402
import controls  # noqa: E402
import copy_paste  # noqa: E402
import domains  # noqa: E402
import figure3  # noqa: E402
import figure4  # noqa: E402
import table1  # noqa: E402
import table2  # noqa: E402
import table3  # noqa: E402
import table_s2  # noqa: E402
import verdicts  # noqa: E402
from shared import fitting, intervals, judgement, judging, pasting, responses, runs  # noqa: E402
from shared.fitting import Study  # noqa: E402
from shared.images import Images  # noqa: E402
from shared.measuring import measure  # noqa: E402
from shared.options import read  # noqa: E402
from shared.parts import Part, Table  # noqa: E402
from shared.plain import PlainSegmentation  # noqa: E402
from shared.results import Results  # noqa: E402
from shared.rows import Row, Run  # noqa: E402
from shared.runs import plan, result_of  # noqa: E402
from shared.settings import QUICK, Settings, StopStudyError, check_same  # noqa: E402
from shared.sizes import RegionSizes  # noqa: E402
from shared.table import main  # noqa: E402
from shared.texts import Text, make_texts  # noqa: E402

import tadp  # noqa: E402
from tadp.cross_domain import Estimate  # noqa: E402

T_TWO = 4.302652729911275  # Student's t, two-sided 95 %, 2 degrees of freedom
CAPTIONS, EMPTY = Row("captions", Text("captions", 0)), Row("empty", Text("empty"))
SMALL = Table(
    "small",
    "Small",
    "segmentation",
    [Part("Small", [EMPTY, CAPTIONS], "empty", paper={"empty": 1, "captions": 2})],
    ("mIoU",),
)


def call(monkeypatch, script, *options):
    """Call the main function of a script in this process."""
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, options)])
    return script()


def small(monkeypatch, *options, table=SMALL):
    call(monkeypatch, lambda: main(table, "small"), "--quick", *options)


# Statistics and verdicts


def test_a_contrast_is_a_mean_over_seeds_with_students_interval():
    first, second = {"0": 3.0, "1": 5.0, "2": 4.0}, {"2": 1.0, "0": 2.0, "1": 1.0, "3": 9.0}
    differences = [3.0 - 2.0, 5.0 - 1.0, 4.0 - 1.0]
    estimate = intervals.contrast([(1, first), (-1, second)])
    assert estimate.mean == pytest.approx(statistics.mean(differences))
    assert estimate.half_width == pytest.approx(T_TWO * statistics.stdev(differences) / math.sqrt(3), rel=1e-3)
    assert intervals.contrast([(1, first), (-1, {"7": 1.0})]) is None


@pytest.mark.parametrize(
    ("mean", "half", "expect", "verdict"),
    [
        (1.0, 0.5, "better", "agrees"),
        (-1.0, 0.5, "better", "disagrees"),
        (0.4, 0.5, "better", "cannot tell"),
        (-1.0, 0.5, "worse", "agrees"),
        (0.4, 0.5, "same", "agrees"),
        (0.8, 0.5, "same", "cannot tell"),
        (-1.6, 0.5, "same", "disagrees"),
        (1.0, math.inf, "better", "cannot tell"),
    ],
)
def test_a_verdict_follows_from_the_side_of_the_interval(mean, half, expect, verdict):
    assert intervals.by_expectation(Estimate(mean, half, 3), expect, within=1.0) == verdict


def test_the_rank_correlation_is_that_of_the_ranks():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 9))
    ranks = [values.argsort().argsort() for values in (first, second)]
    assert judging.rank_correlation(list(first), list(second)) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert judging.rank_correlation([1, 2, 3], [3, 2, 1]) == -1


def written(folder, *, metric="mIoU", values):
    """Write the results of a table, each row's values by seed, for the frozen U-Net only."""
    rows = {
        label: {metric: {"mean": statistics.mean(seeds), "seeds": {str(k): v for k, v in enumerate(seeds)}}}
        for label, seeds in values.items()
    }
    (folder / "study-t.json").write_text(json.dumps({"parts": [{"paper": {}, "unets": {"frozen": rows}}]}))
    return Results(folder)


def test_a_lower_error_is_better(tmp_path):
    results = written(tmp_path, metric="RMSE", values={"a": [2.0, 2.1, 2.2], "b": [1.0, 1.1, 1.2]})
    claim = {"table": "t", "metric": "RMSE", "rows": {"b": 1, "a": -1}, "relative_to": "a"}
    judgement = judging.judge({"rows": claim, "expect": "better"}, results)
    assert judgement.details() == "frozen: -1.000 ± 0.000 m RMSE (-47.6 %); tuned: not run yet"
    assert judgement.verdict == "frozen: agrees; tuned: not run yet"


def test_the_difference_of_two_parts_is_the_first_less_the_second(tmp_path):
    rows = [{"a": 5.0, "b": 1.0}, {"a": 3.0, "b": 2.0}]
    parts = [
        {"unets": {"frozen": {k: {"mIoU": {"mean": v, "seeds": {"0": v, "1": v}}} for k, v in row.items()}}}
        for row in rows
    ]
    (tmp_path / "study-t.json").write_text(json.dumps({"parts": parts}))
    claim = {"table": "t", "part": [0, 1], "rows": {"a": 1, "b": -1}}
    judgement = judging.judge({"rows": claim, "expect": "better"}, Results(tmp_path))
    assert judgement.details().startswith("frozen: +3.00 ± 0.00 mIoU")


def test_every_claim_names_rows_that_a_table_has(tmp_path):
    """With a misspelt label, a claim would stay "not run yet" forever."""
    tables = {script.TABLE.name: script.TABLE for script in (table1, table2, table3, table_s2, controls)}
    claims = verdicts.tomllib.loads((STUDY / "claims.toml").read_text())
    kinds = {"rows", "each", "cross", "compare", "show", "order", "verdict"}
    for claim in claims["claim"]:
        assert {"section", "claim", "paper", "why"} <= set(claim)
        assert kinds & set(claim)
        figures = [figure | {"rows": figure} for figure in claim.get("each", [])]
        for figure in [claim] * ("rows" in claim) + figures:
            terms = figure["rows"]
            table, parts = tables[terms["table"]], terms.get("part", 0)
            for part in parts if isinstance(parts, list) else [parts]:
                labels = {row.label for row in table.parts[part].rows}
                assert set(terms["rows"]) <= labels
                assert terms.get("relative_to", next(iter(labels))) in labels
            assert terms.get("metric", "mIoU") in table.metrics
            assert figure["expect"] in ("better", "worse", "same")


def test_comparisons_with_intervals_are_judged_by_them(tmp_path):
    figures = {name: {"mean": mean, "half_width": 1.0} for name, mean in (("a", 5.0), ("b", 2.0), ("c", 1.5))}
    differences = {
        name: {"mean": mean, "half_width": 1.0} for name, mean in (("a-b", 3.0), ("b-c", 0.5), ("c-b", -3.0))
    }
    (tmp_path / "f.json").write_text(json.dumps({"x": figures | differences}))

    def pair(left, right):
        paths = {"left": ["x", left, "mean"], "right": ["x", right, "mean"], "difference": ["x", f"{left}-{right}"]}
        return paths | {"file": "f.json", "measure": f"{left}-{right}", "unit": "per cent", "expect": "left"}

    verdicts = {}
    for left, right in (("a", "b"), ("b", "c"), ("c", "b"), ("b", "a")):
        judgement = judging.judge({"compare": pair(left, right)}, Results(tmp_path))
        verdicts[left + right] = judgement.verdict
    assert verdicts == {"ab": "agrees", "bc": "cannot tell", "cb": "disagrees", "ba": "not run yet"}
    several = judging.judge({"compare": [pair("a", "b"), pair("b", "c")]}, Results(tmp_path))
    assert several.brief == "partly agrees"
    assert several.in_short() == "2 figures, +0.5 to +3.0 per cent"
    assert "| a-b | +3.0 ± 1.0 per cent |" in several.details()


def test_several_sums_are_counted_frozen_and_tuned_apart(tmp_path):
    results = written(tmp_path, values={"a": [2.0, 2.1, 2.2], "b": [1.0, 1.1, 1.2]})
    sums = [
        {"name": "up", "table": "t", "rows": {"a": 1, "b": -1}, "expect": "better"},
        {"name": "down", "table": "t", "rows": {"b": 1, "a": -1}, "expect": "better"},
    ]
    judgement = judging.judge({"each": sums}, results)
    assert judgement.details().splitlines()[2] == "| up | +1.00 ± 0.00 mIoU | not run yet |"
    assert judgement.details().splitlines()[3].startswith("| down | -1.00")
    assert judgement.verdict == "agrees in 1 of 4, not run yet in 2 of 4, disagrees in 1 of 4"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["agrees", "agrees"], "agrees"),
        (["agrees", "cannot tell"], "partly agrees"),
        (["cannot tell", "disagrees"], "partly disagrees"),
        (["agrees", "disagrees", "cannot tell"], "mixed"),
    ],
)
def test_several_figures_have_one_verdict_in_the_table_of_claims(verdicts, expected):
    assert judgement.summary(verdicts) == expected


@pytest.mark.parametrize(
    ("supervised", "control", "expected"),
    [
        ("agrees", "agrees", "agrees"),
        ("agrees", "cannot tell", "only with supervision"),
        ("agrees", "disagrees", "only with supervision"),
        ("partly agrees", "agrees", "only without supervision"),
        ("partly agrees", "cannot tell", "cannot tell"),
        ("mixed", "partly agrees", "cannot tell"),
        ("cannot tell", "partly disagrees", "does not agree"),
        ("disagrees", "disagrees", "does not agree"),
        ("agrees", "not run yet", "not run yet"),
    ],
)
def test_a_claim_needs_both_models_to_agree(supervised, control, expected):
    assert judgement.with_control(supervised, control) == expected


def test_several_figures_are_given_by_their_range_in_the_table_of_claims(tmp_path):
    results = written(tmp_path, values={"a": [2.0, 2.1, 2.2], "b": [1.0, 1.1, 1.2]})
    sums = [
        {"name": name, "table": "t", "rows": {"a": sign, "b": -sign}, "expect": "better"}
        for name, sign in {"up": 1, "down": -1}.items()
    ]
    assert judging.judge({"each": sums}, results).in_short() == "2 figures, -1.0 to +1.0 mIoU"
    single = judging.judge({"rows": sums[0], "expect": "better"}, results)
    assert single.in_short() == "+1.00 ± 0.00 mIoU; not run yet"


def crossed(tmp_path, comparisons):
    """Judge our result, which falls by 2 ± 1, against columns of the paper: two fall and one rises."""
    night = {"difference_mean": -0.02, "difference_half_width": 0.01, "seeds": {"0": 1, "1": 1, "2": 1}}
    verdicts = [
        {"paper": f"{name} mIoU", "ours": "night mIoU", "row": "simple", "verdict": verdict}
        for name, verdict in {"falls": "agrees", "falls too": "agrees", "rises": "disagrees"}.items()
    ]
    result = {"rows": {"simple": {"night mIoU": night}}, "verdicts": verdicts}
    (tmp_path / "cross-domain-segmentation.json").write_text(json.dumps(result))
    return judging.judge(
        {"cross": [{"task": "segmentation", "row": "simple"} | comparison for comparison in comparisons]},
        Results(tmp_path),
    )


@pytest.mark.parametrize(
    ("comparisons", "verdict"),
    [
        ([{"paper": "falls mIoU"}, {"paper": "falls too mIoU"}], "agrees"),
        ([{"paper": "falls mIoU"}, {"paper": "rises mIoU"}], "agrees in 1 of 2, disagrees in 1 of 2"),
        ([{"paper": "falls mIoU", "expect": "better"}], "disagrees"),
        ([{"ours": "night mIoU", "expect": "worse"}], "agrees"),
    ],
)
def test_a_figure_of_ours_beside_two_of_the_paper_counts_once(tmp_path, comparisons, verdict):
    judgement = crossed(tmp_path, comparisons)
    assert judgement.details().splitlines()[2:] == ["| simple, night mIoU | -2.0 ± 1.0 | not run yet |"]
    assert judgement.verdict == f"frozen: {verdict}; tuned: not run yet"


def test_other_domains_are_judged_with_a_tuned_unet_too_where_it_was_run(tmp_path):
    crossed(tmp_path, [])
    tuned = json.loads((tmp_path / "cross-domain-segmentation.json").read_text())
    tuned["rows"]["simple"]["night mIoU"]["difference_mean"] = 0.02
    (tmp_path / "cross-domain-segmentation-tuned.json").write_text(json.dumps(tuned))
    judgement = crossed(tmp_path, [{"ours": "night mIoU", "expect": "worse"}])
    assert judgement.details().endswith("| simple, night mIoU | -2.0 ± 1.0 | +2.0 ± 1.0 |")
    assert judgement.verdict == "frozen: agrees; tuned: disagrees"
    comparisons = [{"task": "segmentation", "row": "simple", "ours": "night mIoU"}, {"task": "detection"}]
    judgement = judging.judge({"cross": comparisons}, Results(tmp_path))  # half of the figures are missing
    assert judgement.verdict == "not run yet"
    assert judgement.details() == "-"


def test_rank_correlations_beyond_chance_are_counted_over_all_orders():
    """At most 5 % of all 9! orders reach the bound in absolute value, and more than 5 % reach the next lower value."""
    orders = np.array(list(itertools.permutations(range(9))), np.int8)
    rho = 1 - 6 * ((orders - np.arange(9)) ** 2).sum(1) / (9 * 80)
    assert (np.abs(rho) >= judging.BEYOND_CHANCE - 1e-9).mean() <= 0.05 < (np.abs(rho) >= 0.683).mean()


# Runs


def test_a_table_has_its_figures_means_and_differences(tmp_path, monkeypatch, one_thread):
    small(monkeypatch, "--out", tmp_path, "--seeds", 3, "--unet", "frozen")
    part = json.loads((tmp_path / "small.json").read_text())["parts"][0]
    row = part["unets"]["frozen"]["captions"]["mIoU"]
    values = [
        100 * json.loads(file.read_text())["figures"]["mIoU"] for file in sorted(tmp_path.glob("runs/*/captions-0-*"))
    ]
    base = [100 * json.loads(file.read_text())["figures"]["mIoU"] for file in sorted(tmp_path.glob("runs/*/empty-*"))]
    assert list(row["seeds"].values()) == pytest.approx(values)
    assert row["half_width"] == pytest.approx(T_TWO * statistics.stdev(values) / math.sqrt(3), rel=1e-3)
    assert row["difference_mean"] == pytest.approx(statistics.mean(values) - statistics.mean(base))
    page = (tmp_path / "small.md").read_text()
    assert "3 seeds" in page
    assert "| captions | 2 | +1 |" in page
    with Image.open(tmp_path / "small.png") as plot:
        assert min(plot.size) > 100


def test_a_run_that_was_killed_goes_on_and_nothing_is_done_twice(tmp_path, monkeypatch, one_thread):
    table = replace(SMALL, parts=[replace(SMALL.parts[0], rows=[EMPTY])])
    small(monkeypatch, "--out", tmp_path / "whole", "--seeds", 1, table=table)
    finished, carry_out = [], Study.carry_out

    def counted(study, run, *, trial=False):
        if not trial and len(finished) == allowed:
            raise KeyboardInterrupt
        finished.extend([] if trial else [run.name])
        return carry_out(study, run, trial=trial)

    monkeypatch.setattr(Study, "carry_out", counted)
    allowed = 1
    with pytest.raises(KeyboardInterrupt):
        small(monkeypatch, "--out", tmp_path / "cut", "--seeds", 1, table=table)
    assert len(list((tmp_path / "cut").glob("runs/*/*"))) == 1
    first, allowed = finished.copy(), 2
    small(monkeypatch, "--out", tmp_path / "cut", "--seeds", 1, table=table)
    assert len(first) == 1
    assert len(set(finished)) == len(finished) == 2
    for file in (tmp_path / "whole").glob("runs/*/*.json"):
        resumed = tmp_path / "cut" / file.relative_to(tmp_path / "whole")
        assert json.loads(file.read_text())["figures"] == json.loads(resumed.read_text())["figures"]


def test_a_folder_of_other_settings_is_refused_by_name(tmp_path):
    check_same(QUICK, tmp_path)
    check_same(QUICK, tmp_path)
    with pytest.raises(
        StopStudyError, match=r"other settings \(steps: 2 then, 3 now; schedule normal: .*Give another --out"
    ):
        check_same(replace(QUICK, steps=3), tmp_path)


def test_a_data_set_needs_its_folder_and_the_labels_of_the_task(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        read("doc", ["--data", "voc"])
    assert "--data voc needs the data set's folder: --root DIR" in capsys.readouterr().err
    with pytest.raises(StopStudyError, match="small measures segmentation, but --data nyu has no labels for it"):
        small(monkeypatch, "--data", "nyu", "--root", tmp_path, "--out", tmp_path)


def test_two_jobs_give_the_figures_of_one(tmp_path, monkeypatch, one_thread):
    monkeypatch.setattr(runs, "get_context", lambda _: fork_server())  # a spawned process would import torch again
    for jobs in (1, 2):
        small(monkeypatch, "--out", tmp_path / str(jobs), "--jobs", jobs, "--seeds", 1, "--unet", "frozen")
    single, parallel = (
        json.loads((tmp_path / f"{jobs}/small.json").read_text())["parts"][0]["unets"] for jobs in (1, 2)
    )
    assert single == parallel


def watch(monkeypatch, callback):
    """Call `callback` with each model that is measured."""

    def watched(model, images):
        callback(model)
        return measure(model, images)

    monkeypatch.setattr(fitting, "measure", watched)


def test_a_tuned_unet_trains_and_a_frozen_one_does_not(tmp_path, monkeypatch):
    study = Study(replace(QUICK, lr=1e-2), out=tmp_path, task="segmentation")
    trained = []

    def record(model):
        trained.append([parameter.detach().clone() for parameter in model.backbone.unet.parameters()])

    watch(monkeypatch, record)
    for is_tuned in (False, True):
        study.carry_out(Run("segmentation", EMPTY, "normal", is_tuned, 0))
    initial = list(tadp.TADPBackbone.from_pretrained("tadp-tiny").unet.parameters())
    frozen, tuned = ([torch.equal(a, b) for a, b in zip(weights, initial, strict=True)] for weights in trained)
    assert all(frozen)
    assert not all(tuned)


def test_an_adapter_trains_under_a_frozen_unet(tmp_path, monkeypatch):
    study = Study(QUICK, out=tmp_path, task="segmentation")
    gates = []
    watch(monkeypatch, lambda model: gates.append(model.backbone.text_adapter.gate.detach().clone()))
    study.carry_out(Run("segmentation", replace(EMPTY, adapter=True), "normal", False, 0))
    assert not torch.equal(gates[0], torch.full_like(gates[0], 1e-4))


# Texts


def test_texts_are_those_of_the_paper(tmp_path):
    images = Images(replace(QUICK, test=6), "test", out=tmp_path, task="segmentation")
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    masks = [np.unique(sample.mask) for sample in images.samples]
    assert images.present == [[images.class_names[k] for k in classes if k] for classes in masks]
    oracle = make_texts(Text("oracle"), backbone, images, seed=1)
    assert [text.split() for text in oracle.of([0, 3])] == [images.present[0], images.present[3]]
    captions, swapped = (make_texts(Text(kind), backbone, images, seed=1).texts for kind in ("captions", "others"))
    assert swapped[1:] == captions[:-1]
    assert captions != swapped
    places = make_texts(Text("places"), backbone, images, seed=1)
    first = images.places.index(images.places[0])
    assert places.of([first]).embeddings.shape == (1, 1, backbone.text_encoder.width)
    assert make_texts(Text("averaged eos"), backbone, images, seed=1).of([0]).embeddings.shape[1] == 12
    with pytest.raises(ValueError, match="unknown kind of text: 'song'"):
        make_texts(Text("song"), backbone, images, seed=1)


def test_background_is_named_where_it_is_shown_if_that_is_set(tmp_path):
    images = Images(replace(QUICK, test=4, background=True), "test", out=tmp_path, task="segmentation")
    images.samples[1].mask[:] = 3  # no background
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    for precision, recall in ((1.0, 1.0), (0.5, 0.5)):
        text = Text("oracle", precision=precision, recall=recall)
        oracle = [prompt.split() for prompt in make_texts(text, backbone, images, seed=1).of(range(4))]
        assert [names.count("background") for names in oracle] == [1, 0, 1, 1]
        assert all(names[0] == "background" for names in oracle[::2])
    for kind in ("averaged eos", "class embeddings"):
        [words] = make_texts(Text(kind), backbone, images, seed=1).of([0]).words
        assert [word.text for word in words] == list(images.class_names)
    assert make_texts(Text("class names"), backbone, images, seed=1).of([0])[0].startswith("background ")


@pytest.mark.parametrize(
    ("arguments", "background"),
    [
        ((), False),
        (("--data", "voc"), True),
        (("--data", "ade20k"), False),
        (("--data", "voc", "--no-background"), False),
    ],
)
def test_the_study_names_the_background_for_pascal(arguments, background):
    assert read("", [*arguments, "--root", "x"])[0].background == background


def test_a_folder_from_before_the_option_goes_on(tmp_path):
    check_same(QUICK, tmp_path)
    earlier = json.loads((tmp_path / "settings.json").read_text())
    del earlier["background"]
    (tmp_path / "settings.json").write_text(json.dumps(earlier))
    check_same(QUICK, tmp_path)
    with pytest.raises(StopStudyError, match="background: False then, True now"):
        check_same(replace(QUICK, background=True), tmp_path)


def test_rooms_of_nyu_are_read_from_folders(tmp_path):
    root = trees.nyu(tmp_path / "nyu")
    images = Images(Settings(data="nyu", root=str(root)), "train", out=tmp_path, task="depth")
    places = make_texts(Text("places"), tadp.TADPBackbone.from_pretrained("tadp-tiny"), images, seed=1)
    assert images.places == ["kitchen", "living_room"]
    assert places.of([1, 0]).tokens == (("living_room",), ("kitchen",))


def test_the_plain_encoder_is_of_the_unets_size():
    unet = sum(parameter.numel() for parameter in tadp.TADPBackbone.from_pretrained("tadp-tiny").unet.parameters())
    plain = PlainSegmentation(num_classes=13, head_options={"fpn_channels": 16, "channels": 16})
    assert sum(parameter.numel() for parameter in plain.stages.parameters()) == pytest.approx(unet, rel=0.1)
    features = plain.features(torch.rand(2, 3, 128, 128))
    assert [level_map.shape[2] for level_map in features.maps] == [16, 8, 4, 2]
    assert plain.from_features(features).logits.shape == (2, 13, 128, 128)


# Photographs


@pytest.mark.filterwarnings("ignore:the captioner 'tadp-tiny'")  # its captions of noise are empty or too long
@pytest.mark.filterwarnings("ignore:caption 0 .* the rest was cut")
@pytest.mark.parametrize("data", ["voc", "nyu"])
def test_a_dry_run_on_a_data_sets_layout(data, tmp_path, monkeypatch):
    root = getattr(trees, data)(tmp_path / data)
    is_depth = data == "nyu"
    rows = table3.TABLE.parts[0].rows[1:3] if is_depth else [controls.TADP[0], table_s2.TABLE.parts[0].rows[-1]]
    table = Table("dry", "Dry", "depth" if is_depth else "segmentation", [Part("Dry", rows, rows[0].label)],
                  ("RMSE",) if is_depth else ("mIoU",))  # fmt: skip
    sizes = ("--steps", 1, "--batch", 2, "--crop-px", 24 if is_depth else 72, "--seeds", 1, "--micro-batch", 1)
    options = ("--data", data, "--root", root, "--out", tmp_path / "out", "--unet", "tuned", *sizes)
    call(monkeypatch, lambda: main(table, "dry"), *options)
    results = json.loads((tmp_path / "out/dry.json").read_text())
    assert results["parts"][0]["finished"] == 2
    arguments = (
        f"--data {data} --root DIR --steps 1 --batch 2 --crop-px {sizes[5]} --seeds 1 --unet tuned --micro-batch 1"
    )
    assert results["command"] == f"python examples/study/dry.py {arguments}"
    assert all(np.isfinite(row[table.metrics[0]]["mean"]) for row in results["parts"][0]["unets"]["tuned"].values())


# Commands


def test_every_script_is_short_and_says_what_it_asks():
    scripts = sorted(STUDY.glob("*.py"))
    names = (
        "all.py appendix_a.py controls.py copy_paste.py domains.py figure3.py figure4.py table1.py table2.py table3.py "
        "table_s2.py verdicts.py"
    )
    assert [script.name for script in scripts] == names.split()  # five of them share the main of shared/table.py
    assert {script.stem for script in scripts} == {*everything.PARTS, "all", "verdicts"}
    for script in scripts:
        lines = script.read_text().splitlines()
        assert len(lines) <= 160, script
        assert re.match(r'r?"""', lines[0])


def test_all_calls_every_part_and_then_the_verdicts(monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(
        subprocess, "run", lambda words: commands.append(words) or subprocess.CompletedProcess(words, 0)
    )
    call(monkeypatch, everything.main, "--out", tmp_path, "--skip", "domains", "--quick", "--seeds", "2")
    names = [Path(words[1]).stem for words in commands]
    assert names == [*(part for part in everything.PARTS if part != "domains"), "verdicts"]
    assert commands[0][-3:] == ["--quick", "--seeds", "2"]
    call(monkeypatch, everything.main, "--out", tmp_path)
    (across,) = [words for words in commands if Path(words[1]).stem == "domains"]
    judging_command = commands[-1]
    assert across[across.index("--from") + 1] == judging_command[judging_command.index("--results") + 1]
    monkeypatch.setattr(subprocess, "run", lambda words: subprocess.CompletedProcess(words, 3))
    with pytest.raises(SystemExit, match="figure4 ended with code 3"):
        call(monkeypatch, everything.main, "--out", tmp_path)


def test_domains_brings_both_tables_together(monkeypatch, tmp_path):
    results = ROOT / "docs" / "results"
    call(monkeypatch, domains.main, "--report", "--from", results, "--page", tmp_path / "domains")
    page = (tmp_path / "domains.md").read_text()
    null = json.loads((results / "cross-domain-segmentation.json").read_text())["rows"]["null"]["night mIoU"]["mean"]
    assert f"| null | {null:.3f}" in page
    assert (tmp_path / "domains.png").exists()
    commands = []
    monkeypatch.setattr(
        subprocess, "run", lambda words: commands.append(words) or subprocess.CompletedProcess(words, 1)
    )
    with pytest.raises(StopStudyError, match=r"cross_domain.py segmentation ended with an error"):
        call(monkeypatch, domains.main, "--out", tmp_path, "--steps", "3")
    assert commands[0][2] == "segmentation"
    assert commands[0][-2:] == ["--steps", "3"]
    assert "--tune" not in commands[0]


def test_domains_has_a_tuned_unet_beside_the_frozen_one(monkeypatch, tmp_path):
    for task in domains.TASKS:
        results = json.loads((ROOT / "docs" / "results" / f"cross-domain-{task}.json").read_text())
        (tmp_path / f"cross-domain-{task}.json").write_text(json.dumps(results))
    results["rows"]["null"]["watercolor AP"]["mean"] = 0.123456
    (tmp_path / "cross-domain-detection-tuned.json").write_text(json.dumps(results))
    call(monkeypatch, domains.main, "--report", "--from", tmp_path, "--page", tmp_path / "domains")
    frozen, tuned = (tmp_path / "domains.md").read_text().split("## Table 5: detection, U-Net tuned")
    assert "0.123" in tuned
    assert "0.123" not in frozen
    assert "cross-domain-detection-tuned.md" in tuned
    assert set(json.loads((tmp_path / "domains.json").read_text())) >= {"detection", "detection, tuned"}
    commands = []
    monkeypatch.setattr(
        subprocess, "run", lambda words: commands.append(words) or subprocess.CompletedProcess(words, 0)
    )
    call(monkeypatch, domains.main, "--out", tmp_path, "--page", tmp_path / "domains")
    calls = [(words[2], Path(words[words.index("--out") + 1]).name, words[-2:]) for words in commands]
    frozen_folder = tmp_path.name
    assert [task for task, _, _ in calls] == ["segmentation", "segmentation", "detection", "detection"]
    assert [folder for _, folder, _ in calls] == [frozen_folder, "tuned", frozen_folder, "tuned"]
    assert [last == ["--tune", "all"] for _, _, last in calls] == [False, True, False, True]


def test_the_page_of_verdicts_is_made_of_what_is_there(monkeypatch, tmp_path, capsys):
    call(monkeypatch, verdicts.main, "--results", tmp_path, "--page", tmp_path / "paper.md")
    page = (tmp_path / "paper.md").read_text()
    claims = verdicts.tomllib.loads((STUDY / "claims.toml").read_text())
    assert page.count("**not run yet**") > 30
    assert all(claim["claim"] in page for claim in claims["claim"])
    details = {path.stem: path.read_text() for path in tmp_path.glob("paper-*.md")}
    for claim in claims["claim"]:
        (section,) = [section for section in claims["section"] if section["name"] == claim["section"]]
        assert claim["claim"].rstrip(".") in details[f"paper-{section['page']}"]
        assert claim["why"] in details[f"paper-{section['page']}"]
        assert f"(paper-{section['page']}.md)" in page


def test_each_claim_is_judged_with_the_control_too(monkeypatch, tmp_path):
    """The control's results are those of the shipped model here, but for one table whose rows change places."""
    results, control = ROOT / "docs" / "results", tmp_path / "control"
    control.mkdir()
    for file in [*results.glob("study-*.json"), *results.glob("cross-domain-*.json")]:
        shutil.copy(file, control)
    table = json.loads((results / "study-table_s2.json").read_text())
    for rows in table["parts"][0]["unets"].values():
        right, wrong = "precision 1.00, recall 1.00", "precision 0.50, recall 1.00"
        rows[right], rows[wrong] = rows[wrong], rows[right]
    (control / "study-table_s2.json").write_text(json.dumps(table))
    options = ["--results", results, "--control", control, "--page", tmp_path / "paper.md"]
    call(monkeypatch, verdicts.main, *options)
    page = (tmp_path / "paper.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("| Names of classes that are not in the image"))
    assert line.endswith("| agrees | disagrees | **only with supervision** |")
    introduction = (tmp_path / "paper-introduction.md").read_text()
    assert "The control, for precision 0.50, recall 1.00 minus" in introduction.replace("(", "").replace(")", "")
    assert "Verdict: **only with supervision**. `tadp-tiny`: agrees. The control: disagrees." in introduction


def test_the_verdicts_are_counted_as_the_tables_have_them():
    """A second count, from the rows of the page instead of the results."""
    page = (ROOT / "docs" / "results" / "paper.md").read_text()
    stated = re.search(r"\*\*(\d+) claims\. Verdicts: (.*)\.\*\*", page)
    listed = re.findall(r"\| \*\*(.*)\*\* \|$", page, re.MULTILINE)
    assert int(stated[1]) == len(listed)
    assert dict(pair.split(": ") for pair in stated[2].split("; ")) == {
        verdict: str(listed.count(verdict)) for verdict in listed
    }


def test_the_committed_pages_are_those_that_their_results_give(monkeypatch, tmp_path):
    results = ROOT / "docs" / "results"
    call(monkeypatch, verdicts.main, "--results", results, "--page", tmp_path / "paper.md")
    pages = {path.name for path in tmp_path.glob("*.md")}
    assert pages == {path.name for path in results.glob("paper*.md")}
    assert len(pages) > 10
    for name in pages:
        assert (tmp_path / name).read_text() == (results / name).read_text()


def test_the_page_of_verdicts_takes_ten_minutes(monkeypatch):
    """At 275 words per minute, not counting the lines and bars of tables."""
    text = (ROOT / "docs" / "results" / "paper.md").read_text()
    assert len(re.findall(r"[^\s|]*\w[^\s|]*", text)) < 2750


@pytest.mark.parametrize(
    ("script", "name"),
    [
        (table1, "table1"),
        (figure3, "figure3"),
        (figure4, "figure4"),
        (appendix_a, "appendix_a"),
        (copy_paste, "copy_paste"),
    ],
)
def test_a_page_is_written_again_from_its_figures(monkeypatch, tmp_path, script, name):
    results = ROOT / "docs" / "results"
    for suffix in (".json", ".png"):
        shutil.copy(results / f"study-{name}{suffix}", tmp_path)
    main_of = script.main if name != "table1" else lambda: main(table1.TABLE, "doc")
    call(monkeypatch, main_of, "--rewrite", "--page", tmp_path / f"study-{name}", "--out", tmp_path / "nothing")
    for suffix in (".md", ".json"):
        file = f"study-{name}{suffix}"
        assert (tmp_path / file).read_text() == (results / file).read_text()
    assert not (tmp_path / "nothing").exists()


def test_figure_4_counts_where_names_look(monkeypatch, tmp_path):
    call(monkeypatch, figure4.main, "--quick", "--test", 6, "--out", tmp_path)
    texts = json.loads((tmp_path / "figure4.json").read_text())["texts"]
    assert set(texts) == set(figure4.TEXTS)
    assert texts["class names"]["pointing"] > texts["averaged EOS"]["pointing"]
    assert texts["oracle"]["peak over mean, absent"] is None
    page = (tmp_path / "figure4.md").read_text()
    assert "`python examples/study/figure4.py --quick --test 6`; 6 rendered scenes" in page
    monkeypatch.setattr(figure4, "_count", None)  # the second call does not count again
    call(monkeypatch, figure4.main, "--quick", "--test", 6, "--out", tmp_path)
    assert (tmp_path / "figure4.md").read_text() == page
    with pytest.raises(StopStudyError, match="test: 6 then, 4 now"):
        call(monkeypatch, figure4.main, "--quick", "--out", tmp_path)


def test_figure_3_and_the_appendix_run(monkeypatch, tmp_path):
    table = figure3.TABLES[1]
    monkeypatch.setattr(
        figure3, "TABLES", [replace(table, parts=[replace(table.parts[0], rows=table.parts[0].rows[:1])])]
    )
    call(monkeypatch, figure3.main, "--quick", "--seeds", 1, "--unet", "frozen", "--out", tmp_path)
    results = json.loads((tmp_path / "figure3.json").read_text())
    assert 0.8 < results["standard deviation of latents"]["scaled"] < 1.2
    lengths = results["mean tokens per caption"]
    assert lengths["TADP-0"] < lengths["TADP-20"] <= lengths["TADP-40"]
    call(monkeypatch, appendix_a.main, "--quick", "--test", 12, "--out", tmp_path / "a")
    words = json.loads((tmp_path / "a/appendix_a.json").read_text())["words"]
    assert set(words) == set(appendix_a.WORDS)
    assert all(0 < levels["0.2"]["difference"]["mean"] < 60 for levels in words.values())
    page = (tmp_path / "a/appendix_a.md").read_text()
    monkeypatch.setattr(appendix_a, "measure", None)  # the second call does not draw again
    call(monkeypatch, appendix_a.main, "--quick", "--test", 12, "--out", tmp_path / "a")
    assert (tmp_path / "a/appendix_a.md").read_text() == page


def test_pasted_objects_lie_in_both_pictures_and_texts(tmp_path):
    half = Images(replace(QUICK, test=12), "test", out=tmp_path, task="segmentation")
    examples = [pasting.paste(half, number) for number in range(12)]
    assert sum(example is not None for example in examples) >= 6
    for number, example in enumerate(examples):
        if example is None:
            continue
        scene, donor = half.data.scenes[number], half.data.scenes[(number + 1) % 12]
        assert example.name in donor.names
        assert example.name not in scene.names
        assert np.array_equal(example.image[example.mask], donor.image[example.mask])
        assert np.array_equal(example.image[~example.mask], scene.image[~example.mask])
        assert (half.samples[(number + 1) % 12].mask[example.mask] == half.class_names.index(example.name)).all()
        named, plain, absent = (example.texts[text] for text in (pasting.NAMED, pasting.NOT_NAMED, pasting.ABSENT))
        assert plain == scene.caption()
        assert named.endswith(f"{example.name} and {plain}")
        word = absent.removesuffix(f" and {plain}").split()[-1]
        assert word not in (*scene.names, *donor.names)
    half.is_rendered = False
    with pytest.raises(StopStudyError, match=r"only objects of rendered scenes can be pasted"):
        pasting.paste(half, 0)


def test_the_fit_of_a_map_to_a_mask_is_known_for_simple_maps():
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    heat = np.where(mask, 3.0, 1.0)
    heat[3, 3] = 5.0
    figures = responses.of_map(heat, mask)
    assert figures["share inside"] == pytest.approx(24 / 36)
    assert figures["area under the curve"] == pytest.approx(7 / 8)  # one of eight pixels outside is higher
    assert figures["pointing"] == 0
    assert responses.of_map(np.ones((4, 4)), mask)["area under the curve"] == 0.5


def test_pasting_measures_maps_and_changes(monkeypatch, tmp_path):
    call(monkeypatch, copy_paste.main, "--quick", "--test", 8, "--out", tmp_path)
    results = json.loads((tmp_path / "copy_paste.json").read_text())
    maps = results["maps"]
    assert maps[responses.PASTED]["share inside"]["mean"] > maps[responses.ORIGINAL]["share inside"]["mean"]
    inside, elsewhere = (f"level 1, {place}" for place in (responses.AT_OBJECT, responses.ELSEWHERE))
    rows = results["pasting"]
    assert rows[pasting.NAMED][inside]["mean"] > 2 * rows[pasting.NAMED][elsewhere]["mean"]
    difference = rows[f"{pasting.NAMED}, minus {pasting.NOT_NAMED}"][inside]["mean"]
    assert difference == pytest.approx(rows[pasting.NAMED][inside]["mean"] - rows[pasting.NOT_NAMED][inside]["mean"])
    page = (tmp_path / "copy_paste.md").read_text()
    monkeypatch.setattr(copy_paste, "measure", None)  # the second call does not measure again
    call(monkeypatch, copy_paste.main, "--quick", "--test", 8, "--out", tmp_path)
    assert (tmp_path / "copy_paste.md").read_text() == page


def test_a_table_with_a_multi_scale_column_tests_at_six_scales(monkeypatch, tmp_path, one_thread):
    scales = []
    predict = tadp.TADPForSemanticSegmentation.predict

    def spy(self, image, text, **options):
        scales.append((options["scales"], options["flip"]))
        return predict(self, image, text, **options | {"scales": (1.0,)})

    monkeypatch.setattr(tadp.TADPForSemanticSegmentation, "predict", spy)
    table = replace(SMALL, metrics=table2.TABLE.metrics)
    small(monkeypatch, "--out", tmp_path, "--seeds", 1, "--unet", "frozen", table=table)
    assert set(scales) == {((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), True)}
    row = json.loads((tmp_path / "small.json").read_text())["parts"][0]["unets"]["frozen"]["captions"]
    gain = row["multi-scale mIoU"]["mean"] - row["mIoU"]["mean"]
    assert row["multi-scale gain"]["mean"] == pytest.approx(gain)
    assert "frozen: multi-scale gain" in (tmp_path / "small.md").read_text()
    small(monkeypatch, "--out", tmp_path, "--seeds", 1, "--unet", "frozen")  # has runs of its own, without these tests
    assert len(list(tmp_path.glob("runs/*/captions-0-frozen-0.json"))) == 2


def test_a_plan_has_every_row_frozen_and_tuned_from_every_seed(tmp_path):
    _, settings = read("doc", ["--seeds", "2", "--out", str(tmp_path)])
    runs = plan(controls.TABLE.parts[0].rows, settings, task="segmentation", schedule="normal")
    assert len(runs) == 2 * (2 * 5 + 1)  # the plain encoder has nothing to freeze
    assert len({run.name for run in runs}) == len(runs)
    assert result_of(runs[0], tmp_path) is None
    assert Settings(data="nyu", root="x").schedule("fast").epochs == 1


def test_regions_are_measured_by_their_size():
    """Six regions, two of each size, in mixed order. The expected values were computed by hand."""
    sizes = RegionSizes(("background", "dog"))
    for area, overlap in ((40, 40), (1, 1), (20, 15), (50, 50), (2, 1), (10, 5)):
        truth, predicted = np.zeros((10, 10), int), np.zeros((10, 10), int)
        truth.flat[:area], predicted.flat[:overlap] = 1, 1
        sizes.update(predicted, truth)
    assert sizes.compute() == pytest.approx({"IoU small": 0.75, "IoU medium": 0.625, "IoU large": 1.0})


def test_pixels_of_no_class_count_in_no_region():
    sizes = RegionSizes(("background", "dog"))
    truth, predicted = np.array([[1, 1, 255, 0]]), np.array([[1, 0, 1, 0]])
    sizes.update(predicted, truth)
    assert sizes.compute()["IoU small"] == pytest.approx(1 / 2)
