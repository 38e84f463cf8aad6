# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import mean_absolute_error, roc_auc_score
from torch import Tensor
from torch.nn import functional

from ldae.cli.main import main
from ldae.cli.training import StageCLI
from ldae.data.artefact import read_json
from ldae.data.cohort import read_cohort, write_cohort
from ldae.data.spec import PreprocessingSpec
from ldae.data.split import split_hash
from ldae.evaluation.supervised import judge_supervised
from ldae.stages.components import load_supervised
from ldae.stages.supervised import ClassificationStage, SupervisedStage

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "tiny" / "supervised.yaml"
Branch = Callable[..., Path]


def words(task: str, run: Path, *, cohort: Path, **overrides: object) -> list[str]:
    keys = [f"--{key.replace('__', '.init_args.', 1)}={value}" for key, value in overrides.items()]
    configs = [f"--config={path}" for path in (ROOT / "configs" / "demo" / f"{task}.yaml", TINY)]
    return ["fit", *configs, f"--run_dir={run}", f"--data.init_args.cohort={cohort}", *keys]


def fitted(task: str, run: Path, *, cohort: Path, **overrides: object) -> int:
    return main(words(task, run, cohort=cohort, **overrides))


@pytest.fixture
def cohort(tiny_run: Path) -> Path:
    return tiny_run / "cohort" / "cohort.csv"


@pytest.fixture
def changed(tiny_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """The tiny run's cohort with other columns."""

    def make(**columns: object) -> Path:
        path = tmp_path / "changed.csv"
        write_cohort(read_cohort(tiny_run / "cohort" / "cohort.csv").assign(**columns), path)
        return path

    return make


def test_classes_are_told_apart_on_the_split_of_the_run(
    branch: Branch, cohort: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = branch("run", "autoencoder", "cache")
    assert fitted("classification", run, cohort=cohort) == 0
    folder = run / "baselines" / "diagnosis-cnn"
    assert capfd.readouterr().out.endswith(f"Wrote {folder}\n")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "metrics.json",
        "model.safetensors",
        "predictions.csv",
    ]
    rows, document = read_cohort(cohort), read_json(folder / "config.json")
    assert document["split"] == split_hash(rows)
    assert document["spec"] == read_json(run / "autoencoder" / "config.json")["spec"]
    assert document["config"]["classes"] == ["AD", "CN"]
    predictions, metrics = pd.read_csv(folder / "predictions.csv"), read_json(folder / "metrics.json")
    known = rows[rows["diagnosis"].isin(["CN", "AD"])]
    columns = ["subject", "session", "split", "diagnosis"]
    assert (
        predictions[["subject", "session", "split", "y_true"]].to_numpy().tolist()
        == known[columns].to_numpy().tolist()
    )
    assert list(predictions.columns[4:]) == ["y_pred", "p_AD", "p_CN"]
    np.testing.assert_allclose(predictions["p_AD"] + predictions["p_CN"], 1, atol=1e-6)
    assert predictions["y_pred"].tolist() == np.where(predictions["p_AD"] >= 0.5, "AD", "CN").tolist()
    test = predictions[predictions["split"] == "test"]
    assert metrics["auc"] == pytest.approx(roc_auc_score(test["y_true"] == "AD", test["p_AD"]))
    assert metrics["auc_ci"][0] <= metrics["auc"] <= metrics["auc_ci"][1]
    assert (metrics["scans_test"], metrics["network"]) == (len(test), "cnn")

    # the same words again do nothing; judged again, the component says the same
    assert fitted("classification", run, cohort=cohort) == 0
    assert "is up to date" in capfd.readouterr().out
    before = (folder / "predictions.csv").read_bytes()
    judge_supervised(folder, run_dir=run, cohort=cohort, device="cpu")
    assert (folder / "predictions.csv").read_bytes() == before


def test_the_weights_kept_are_the_best_on_validation_scans(branch: Branch, cohort: Path) -> None:
    run = branch("run", "autoencoder", "cache")
    # a rate that soon does harm, and no patience with it
    harm = {"model__optimiser": "{lr: 0.1}", "model__patience": 2}
    arguments = words("classification", run, cohort=cohort, **harm)
    assert main([*arguments, "--trainer.max_epochs=40"]) == 0
    document = read_json(run / "baselines" / "diagnosis-cnn" / "config.json")
    log = pd.concat(pd.read_csv(path) for path in (run / "logs").rglob("metrics.csv"))
    losses = log.dropna(subset=["val/loss"]).groupby("epoch")["val/loss"].last()
    assert document["extra"]["epoch"] == losses.idxmin()
    assert document["extra"]["val_loss"] == pytest.approx(losses.min(), abs=1e-6)
    assert len(losses) == losses.idxmin() + 3 < 40


def test_a_number_is_predicted_in_its_units(branch: Branch, cohort: Path) -> None:
    run = branch("run", "autoencoder", "cache")
    assert fitted("regression", run, cohort=cohort) == 0
    folder = run / "baselines" / "age-cnn"
    predictions, metrics = pd.read_csv(folder / "predictions.csv"), read_json(folder / "metrics.json")
    rows = read_cohort(cohort)
    train = rows.loc[rows["split"] == "train", "age"]
    config = read_json(folder / "config.json")["config"]
    assert config["mean"] == pytest.approx(train.mean())
    assert config["std"] == pytest.approx(train.std(), rel=1e-5)
    assert len(predictions) == len(rows)
    test = predictions[predictions["split"] == "test"]
    assert metrics["mae"] == pytest.approx(mean_absolute_error(test["y_true"], test["y_pred"]))
    assert abs(predictions["y_pred"].mean() - train.mean()) < 15
    assert main([*words("regression", run, cohort=cohort), "--model.init_args.name=other"]) == 0
    assert sorted(path.name for path in folder.parent.iterdir()) == ["age-cnn", "age-other"]


def test_broken_off_and_started_again_it_ends_with_the_same_weights(
    branch: Branch, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [branch(name, "autoencoder", "cache") for name in ("whole", "broken")]
    step = SupervisedStage.training_step

    def fail(stage: SupervisedStage, batch: dict[str, Tensor], index: int) -> Tensor:
        if stage.current_epoch == 1 and index == 1:
            raise RuntimeError("broken off on purpose")
        return step(stage, batch, index)

    monkeypatch.setattr(SupervisedStage, "training_step", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        fitted("classification", runs[1], cohort=cohort)
    monkeypatch.setattr(SupervisedStage, "training_step", step)
    checkpoint = runs[1] / "checkpoints" / "baselines" / "diagnosis-cnn" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0
    assert not (runs[1] / "baselines").exists()
    for run in runs:
        assert fitted("classification", run, cohort=cohort) == 0
    whole, resumed = (load_file(run / "baselines/diagnosis-cnn/model.safetensors") for run in runs)
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    files = [(run / "baselines/diagnosis-cnn/predictions.csv").read_bytes() for run in runs]
    assert files[0] == files[1]


def test_classes_are_weighted(branch: Branch, cohort: Path) -> None:
    run = branch("run", "autoencoder", "cache")

    def prepared(given: str) -> ClassificationStage:
        cli = StageCLI(words("classification", run, cohort=cohort, model__class_weights=given)[1:])
        cli.build()
        cli.datamodule.setup()
        stage = cli.model
        assert isinstance(stage, ClassificationStage)
        stage.prepare(cli.datamodule)
        return stage

    def weights(given: str) -> list[float]:
        return prepared(given).weight.tolist()

    assert weights("null") == [1, 1]
    assert weights("{CN: 1.0, AD: 2.0}") == [2, 1]
    rows = read_cohort(cohort)
    train = rows[(rows["split"] == "train") & rows["diagnosis"].isin(["CN", "AD"])]["diagnosis"]
    counts = train.value_counts()
    assert weights("balanced") == pytest.approx([len(train) / 2 / counts[name] for name in ("AD", "CN")])
    stage, outputs = prepared("{CN: 1.0, AD: 2.0}"), torch.randn(6, 2)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    each = functional.cross_entropy(outputs, labels, reduction="none") * torch.tensor([2, 2, 2, 1, 1, 1])
    mean = (2 * counts["AD"] + counts["CN"]) / len(train)
    assert float(stage.loss(outputs, labels)) == pytest.approx(float(each.mean()) / mean, rel=1e-6)
    # a batch in parts has the mean of their losses, whatever classes the parts hold
    parts = [stage.loss(outputs[part], labels[part]) for part in (slice(3), slice(3, 6))]
    assert float(sum(parts)) / 2 == pytest.approx(float(stage.loss(outputs, labels)), rel=1e-6)


@pytest.mark.parametrize(
    ("task", "overrides", "message"),
    [
        ("classification", {"data__target": "height"}, "target must be a column of"),
        ("classification", {"data__classes": "[CN, FTD]"}, "must have scans in split train, got none of FTD"),
        ("classification", {"data__classes": "[CN]"}, "classes must be at least two, got only CN"),
        (
            "classification",
            {"data__target": "age", "data__classes": "null"},
            "target must be a column of classes",
        ),
        (
            "regression",
            {"data__target": "sex"},
            "target must be a column of numbers, got the classes of 'sex'",
        ),
        ("classification", {"model__class_weights": "{CN: 1.0}"}, "class_weights must be a number above 0"),
        ("classification", {"model__name": "a/b"}, "name and the target must be of letters"),
        ("classification", {"data__spacing": "[8, 8, 8]"}, "spacing and size must be those of"),
        (
            "classification",
            {"model__network.path": "ldae.nets.Forest"},
            "network path must name a class, got 'ldae.nets.Forest'",
        ),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    task: str,
    overrides: dict[str, object],
    message: str,
    branch: Branch,
    cohort: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = branch("run", "autoencoder", "cache")
    assert fitted(task, run, cohort=cohort, **overrides) == 2
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (run / "baselines").exists()


def test_what_the_cohort_cannot_give_is_told(
    branch: Branch, changed: Callable[..., Path], cohort: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = branch("run", "autoencoder", "cache")
    rows = read_cohort(cohort)
    assert fitted("regression", run, cohort=changed(age=70.0)) == 2
    assert "target must vary, got 70 as 'age'" in capfd.readouterr().err
    swapped = rows["split"].replace({"val": "cal", "cal": "val"})
    assert fitted("classification", run, cohort=changed(split=swapped)) == 2
    said = capfd.readouterr().err
    assert f"was trained on split {split_hash(rows)[:12]}" in said
    assert "Use one split for a whole run" in said


def test_another_value_of_the_target_is_noticed(
    branch: Branch, changed: Callable[..., Path], cohort: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = branch("run", "autoencoder", "cache")
    overrides = {"data__target": "sex", "data__classes": "null"}
    sexes = read_cohort(cohort)["sex"]
    path = changed()
    assert fitted("classification", run, cohort=path, **overrides) == 0
    assert (run / "baselines" / "sex-cnn" / "metrics.json").is_file()
    changed(sex=sexes.replace({"F": "M", "M": "F"}))
    assert fitted("classification", run, cohort=path, **overrides) == 2
    assert "cohort changed since" in capfd.readouterr().err


def test_a_loaded_network_asks_nobody_for_weights(
    branch: Branch, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = branch("run", "autoencoder", "cache")
    backbone = "{path: ldae.nets.backbones.TimmBackbone, arguments: {name: test_resnet, pretrained: false}}"
    network = (
        "{path: ldae.nets.image_networks.SupervisedEncoder, "
        f"arguments: {{encoder: {{code_size: 8, token_size: 4, backbone: {backbone}}}}}}}"
    )
    arguments = words("classification", run, cohort=cohort, model__network=network)
    assert main([*arguments, "--trainer.max_epochs=1"]) == 0
    folder = run / "baselines" / "diagnosis-cnn"
    document = (folder / "config.json").read_text()
    (folder / "config.json").write_text(document.replace('"pretrained": false', '"pretrained": true'))
    supervised, component = load_supervised(folder)
    assert component.spec is not None
    size = PreprocessingSpec.from_dict(component.spec).size
    chances = supervised.predict(torch.rand(2, 1, *size))
    assert torch.allclose(chances.sum(1), torch.ones(2))
