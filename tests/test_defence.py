"""The whole way in one call."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tfmiaq
import tfmiaq.defence
from tfmiaq._backend import keras

RECIPE = tfmiaq.TrainingRecipe(epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def sets(digits):
    return (digits.x_train[:60], digits.y_train[:60]), (digits.x_test[:120], digits.y_test[:120])


def _untrained():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="logits"),
        ]
    )


def _train(x, y):
    return tfmiaq.TrainingRecipe(epochs=5, learning_rate=0.1, batch_size=16).fit(_untrained(), x, y)


@pytest.fixture(scope="module")
def made(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("defended")
    return tfmiaq.defend(
        _train, *sets, recipe=RECIPE, folds=0, n_reference=2, target="edgetpu", folder=folder, verbose=False
    )


@pytest.mark.slow
def test_all_of_it_is_made(made):
    assert made.verification.exact
    assert set(made.reports) == {"float", "quantized", ".tflite"}
    assert all(report.reference_models == 2 for report in made.reports.values())
    attacks = [attack.name for attack in made.reports[".tflite"].attacks]
    assert "two versions" in attacks and "label-only" not in attacks
    names = {"float.keras", "quantized.keras", "policy.json", "model.tflite", "verification.txt", "comparison.html"}
    assert names <= {path.name for path in made.folder.iterdir()}
    assert (made.folder / "reports" / "tflite" / "report.html").is_file()
    headline = json.loads((made.folder / "headline.json").read_text())
    assert headline["float"]["attack_accuracy"] == made.reports["float"].attack_accuracy
    assert "| .tflite |" in str(made)
    metadata = tfmiaq.tflite.read_metadata(made.buffer)
    assert metadata["audit"]["attack_accuracy"] == made.reports["quantized"].attack_accuracy
    # The audited non-members are the half that no choice was made on.
    assert made.reports["float"].non_members == 60


@pytest.mark.slow
def test_a_second_call_trains_nothing(made, sets, monkeypatch):
    monkeypatch.setattr(tfmiaq.TrainingRecipe, "fit", lambda *args: pytest.fail("trained again"))
    again = tfmiaq.defend(
        _train, *sets, recipe=RECIPE, folds=0, n_reference=2, target="edgetpu", folder=made.folder, verbose=False
    )
    assert {name: report.to_json() for name, report in again.reports.items()} == {
        name: report.to_json() for name, report in made.reports.items()
    }
    assert again.buffer == made.buffer


@pytest.mark.slow
def test_a_model_is_defended_with_a_search_and_augmentation(sets, tmp_path):
    float_model = _train(*sets[0])
    recipe = tfmiaq.TrainingRecipe(
        1, augment=keras.layers.RandomTranslation(0.1, 0.1), loss=tfmiaq.losses.RelaxLoss(0.2, True)
    )
    made = tfmiaq.defend(float_model, *sets, policy="search", recipe=recipe, n_trials=3, folder=tmp_path, verbose=False)
    assert (tmp_path / "search" / "best.json").is_file()
    assert tfmiaq.BitwidthPolicy.from_json((tmp_path / "search" / "best.json").read_text()) == made.policy
    assert made.reports["quantized"].reference_models == 0
    # Who trains on changed records is asked for them.
    assert all("label-only" in {attack.name for attack in report.attacks} for report in made.reports.values())


@pytest.mark.slow
def test_a_cross_distilled_model_is_attacked_by_models_of_its_kind(sets, tmp_path, monkeypatch):
    shares = []
    distil = tfmiaq.defence.cross_distill
    monkeypatch.setattr(
        tfmiaq.defence, "cross_distill", lambda *args, **given: shares.append(given["share"]) or distil(*args, **given)
    )
    policy = tfmiaq.BitwidthPolicy(tfmiaq.LayerBits(2, 4), output=tfmiaq.OutputBits(4, 8.0))
    made = tfmiaq.defend(
        _train, *sets, policy=policy, recipe=RECIPE, folds=2, share=0.5, n_reference=2, folder=tmp_path, verbose=False
    )
    assert set(shares) == {0.5}
    # Two folds for the model itself, and two for each of the reference models.
    assert len(list((tmp_path / "teachers").glob("*.npz"))) == 6
    assert made.reports["quantized"].reference_models == 2
    assert made.policy.output == policy.output
    # Coarse answers, and those of the reference models, are asked for on changed copies too.
    assert {"label-only", "RMIA on augmented queries", "LiRA on label agreement"} <= {
        a.name for a in made.reports[".tflite"].attacks
    }


@pytest.mark.slow
@pytest.mark.parametrize("by_heart", [True, False])
def test_records_learnt_by_heart_are_relearnt_from_teachers(sets, tmp_path, monkeypatch, by_heart):
    """Labels of chance can only be learnt by heart."""
    chance = [(x, np.random.default_rng(0).integers(0, 10, len(y))) for x, y in sets]
    monkeypatch.setattr(tfmiaq.defence, "FROM_SCRATCH", RECIPE)

    def train(x, y):
        return tfmiaq.TrainingRecipe(epochs=40, learning_rate=0.1, batch_size=16).fit(_untrained(), x, y)

    tfmiaq.defend(train, *(chance if by_heart else sets), n_reference=0, folder=tmp_path, verbose=False)
    teachers = list((tmp_path / "teachers").glob("*.npz")) if (tmp_path / "teachers").exists() else []
    assert len(teachers) == (5 if by_heart else 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"model": keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()]), "folds": 2},
            ValueError,
            "folds",
        ),
        ({"folds": 61}, ValueError, "Expected folds from 2 to 60. Received 61"),
        ({"folds": 1}, ValueError, "Expected folds of at least 2, or 0. Received 1"),
        ({"repeats": 0}, ValueError, "Expected repeats of at least 1. Received 0"),
        ({"share": 1.5}, ValueError, "defend: Expected share from 0 to 1. Received 1.5"),
        ({"policy": "best"}, ValueError, "Expected a BitwidthPolicy, 'search' or None as policy. Received 'best'"),
        ({"policy": 3}, TypeError, "Expected a BitwidthPolicy"),
        ({"model": 3}, TypeError, "Expected a keras.Model or a function that trains one. Received 3"),
        ({"test": (np.zeros((5, 3)), np.zeros(5, int))}, ValueError, "defend: train has .* and test of shape"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(sets, arguments, error, message, tmp_path):
    given = {"model": lambda x, y: pytest.fail("trained"), "train": sets[0], "test": sets[1], **arguments}
    with pytest.raises(error, match=message):
        tfmiaq.defend(**given, folder=tmp_path)
