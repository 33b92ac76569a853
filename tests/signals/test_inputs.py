"""Records in the forms that people have them."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from scipy import sparse
from sklearn import compose, ensemble, linear_model, pipeline, preprocessing

import tfmiaq
from tfmiaq import signals
from tfmiaq._backend import keras, tf
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.signals import inputs

pd = pytest.importorskip("pandas")
ATTACKS = ["gap", "confidence"]
COUNT = 60


def _numbers(seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(2 * COUNT, 4)).astype(np.float32)
    return x, (x[:, 0] + generator.normal(0, 0.5, 2 * COUNT) > 0).astype(int)


def _target(x):
    return np.column_stack([-2 * x[:, 0], 2 * x[:, 0]])


def _halves(x, y):
    take = (lambda part, rows: part.iloc[rows]) if isinstance(x, pd.DataFrame) else (lambda part, rows: part[rows])
    return [(take(x, rows), y[rows]) for rows in (slice(COUNT), slice(COUNT, None))]


def _confidences(report):
    return np.concatenate([report["confidence"].member_scores, report["confidence"].non_member_scores])


@pytest.fixture(scope="module")
def expected():
    return _confidences(tfmiaq.audit(_target, *_halves(*_numbers()), ATTACKS))


@pytest.mark.parametrize("form", ["batched", "equal batches", "single", "one-hot", "weights", "tensors"])
def test_a_dataset_of_tensorflow_is_read_once(form, expected):
    def of(records):
        x, y = records
        if form == "tensors":
            return tf.constant(x), tf.constant(y)
        dataset = tf.data.Dataset.from_tensor_slices((x, np.eye(2)[y]) if form == "one-hot" else (x, y))
        if form == "weights":
            dataset = dataset.map(lambda a, b: (a, b, 1.0))
        sizes = {"batched": (7, False), "equal batches": (6, True), "one-hot": (16, False), "weights": (16, False)}
        if form not in sizes:
            return dataset
        return dataset.batch(sizes[form][0], drop_remainder=sizes[form][1])

    report = tfmiaq.audit(_target, *map(of, _halves(*_numbers())), ATTACKS)
    np.testing.assert_allclose(_confidences(report), expected)


def test_a_shuffled_dataset_keeps_records_and_labels_together(expected):
    sets = [tf.data.Dataset.from_tensor_slices(part).shuffle(COUNT, seed=1).batch(16) for part in _halves(*_numbers())]
    report = tfmiaq.audit(_target, *sets, ATTACKS)
    np.testing.assert_allclose(np.sort(_confidences(report)[:COUNT]), np.sort(expected[:COUNT]))


def test_datasets_that_cannot_be_read_say_so():
    x, y = _numbers()
    good = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    for bad, error, message in (
        (good.repeat(), ValueError, r"members is a dataset without an end.*take\(n\)"),
        (good.take(0), ValueError, "members holds no records"),
        (tf.data.Dataset.from_tensor_slices(x), TypeError, r"dataset whose elements are pairs \(x, y\)"),
        ((good, y), TypeError, "x of members as a tf.data.Dataset, and labels apart"),
    ):
        with pytest.raises(error, match=message):
            tfmiaq.audit(_target, bad, good, ATTACKS)


def test_image_folders_of_keras_are_audited(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("members", "others"):
        for label, brightness in (("dark", 60), ("light", 190)):
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(10):
                image = np.clip(generator.normal(brightness, 20, (6, 6, 3)), 0, 255).astype(np.uint8)
                keras.utils.save_img(str(tmp_path / name / label / f"{number}.png"), image, scale=False)
    sets = [
        keras.utils.image_dataset_from_directory(str(tmp_path / name), image_size=(6, 6), batch_size=8)
        for name in ("members", "others")
    ]
    report = tfmiaq.audit(lambda x: x.mean((1, 2, 3)) / 25 - 5, *sets, ATTACKS)
    assert report.member_accuracy == report.non_member_accuracy == 1
    assert len(report["confidence"].member_scores) == 20


def _frame(x):
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "town": np.where(x[:, 2] > 0, "Rome", "Oslo")})
    frame.loc[3, "b"] = np.nan
    return frame.set_index(pd.Index(np.arange(len(x))[::-1]))


def _pipeline():
    columns = [("numbers", "passthrough", ["a", "b"]), ("names", preprocessing.OneHotEncoder(), ["town"])]
    trees = ensemble.HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5, random_state=0)
    return pipeline.Pipeline([("columns", compose.ColumnTransformer(columns)), ("trees", trees)])


def test_a_data_frame_stays_one_for_a_pipeline():
    """Text and a missing value go to the target, and to the stages of reference models, as they are."""
    x, y = _numbers()
    members, others = _halves(_frame(x), np.where(y, "yes", "no"))
    target = _pipeline().fit(*members)
    kinds = []

    def train(frame, labels):
        kinds.append((type(frame), set(labels.tolist())))
        return _pipeline().fit(frame, labels)

    reference_models = tfmiaq.ReferenceModels(train, count=2)
    attacks = ["gap", "confidence", "label-only", "RMIA", "RMIA on augmented queries", "quantile regression"]
    report = tfmiaq.audit(target, members, others, attacks, reference_models=reference_models)
    assert [attack.name for attack in report.attacks] == attacks
    assert kinds == [(pd.DataFrame, {0, 1})] * 2
    probabilities = target.predict_proba(members[0])
    own = probabilities[np.arange(COUNT), (members[1] == "yes").astype(int)]
    np.testing.assert_allclose(report["confidence"].member_scores, np.log(own / (1 - own)), rtol=1e-5)


def test_a_data_frame_of_numbers_is_an_array_for_a_keras_model():
    x, y = _numbers()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    frame = pd.DataFrame(x, columns=[*"abcd"])
    found = signals.extract(model, (frame, pd.Series(y)))
    np.testing.assert_allclose(found.confidences, signals.extract(model, (x, y)).confidences, rtol=1e-6)
    with pytest.raises(ValueError, match="Columns town of the DataFrame hold no numbers"):
        signals.extract(model, (_frame(x), y))


@pytest.mark.parametrize("form", ["dict", "list", "tuple", "frame", "dataset"])
def test_a_model_of_several_inputs(form):
    x, y = _numbers()
    one, other = (keras.Input((size,), name=name) for size, name in ((1 if form == "frame" else 3, "zeta"), (1, "eta")))
    joined = keras.layers.Concatenate()([one, other])
    model = keras.Model(
        {"zeta": one, "eta": other} if form in ("dict", "dataset") else [one, other], keras.layers.Dense(2)(joined)
    )
    parts = {"zeta": x[:, :1] if form == "frame" else x[:, :3], "eta": x[:, 3:]}
    outputs = np.asarray(model(parts if form in ("dict", "dataset") else list(parts.values())))

    def of(rows):
        chosen = {name: part[rows] for name, part in parts.items()}
        if form == "frame":
            return pd.DataFrame({name: part[:, 0] for name, part in chosen.items()}), y[rows]
        given = {"list": list, "tuple": tuple}.get(form, lambda values: chosen)(chosen.values())
        return tf.data.Dataset.from_tensor_slices((given, y[rows])).batch(16) if form == "dataset" else (given, y[rows])

    members, others = of(slice(COUNT)), of(slice(COUNT, None))
    attacks = ["gap", "confidence", "label-only"]
    report = tfmiaq.audit(model, members, others, attacks)
    saved = tfmiaq.audit((outputs[:COUNT], outputs[COUNT:]), (None, y[:COUNT]), (None, y[COUNT:]), ATTACKS)
    np.testing.assert_allclose(_confidences(report), _confidences(saved), rtol=1e-4, atol=1e-5)
    assert "label-only" in [attack.name for attack in report.attacks]
    if form in ("dict", "dataset"):  # A list would follow the file's own order of inputs.
        file = tf.lite.TFLiteConverter.from_keras_model(model).convert()
        found = tfmiaq.audit(file, members, others, ATTACKS)
        np.testing.assert_allclose(_confidences(found), _confidences(saved), rtol=1e-3, atol=1e-4)


def test_records_of_several_inputs_are_indexed_joined_and_hashed():
    x, _ = _numbers()
    frame = inputs.Inputs(_frame(x))
    pair = inputs.Inputs({"b": x[:, :3], "a": x[:, 3]})
    for records in (frame, pair, inputs.Inputs([x[:, :3], x[:, 3]])):
        assert records.shape[0] == len(records) == len(x)
        few = inputs.concatenate(records[:10], records[np.arange(len(x)) >= len(x) - 5])
        np.testing.assert_array_equal(few.matrix(), np.concatenate([records.matrix()[:10], records.matrix()[-5:]]))
        np.testing.assert_array_equal(inputs.record_hashes(records[5:9]), inputs.record_hashes(records)[5:9])
        assert len(set(inputs.record_hashes(records))) == len(x)
        assert fingerprint(records) == fingerprint(records[:]) != fingerprint(records[1:])
    turned = inputs.Inputs({"a": x[:, 3], "b": x[:, :3]})
    np.testing.assert_array_equal(inputs.concatenate(pair, turned).matrix()[: len(x)], pair.matrix())
    assert inputs.concatenate(pair, turned).given["b"].shape == (2 * len(x), 3)
    assert inputs.have_nan(frame).sum() == 1


def test_copies_of_several_inputs_depend_on_the_record_alone():
    x, _ = _numbers()
    for records in (inputs.Inputs(_frame(x)), inputs.Inputs({"a": x[:, :2], "b": x[:, 2:]})):
        queries = signals.AugmentedQueries.from_records(records)
        whole = queries(records, 4)
        np.testing.assert_array_equal(queries(records[20:30], 4).matrix(), whole.matrix()[20:30])
        changed = (whole.matrix() != records.matrix()).mean()
        assert 0.02 < changed < 0.35 and type(whole.given) is type(records.given)
        assert whole.form == records.form


def test_shared_records_of_a_frame_are_found():
    x, y = _numbers()
    frame = _frame(x)
    shared = (
        pd.concat([frame.iloc[:30], frame.iloc[COUNT : COUNT + 30]]),
        np.concatenate([y[:30], y[COUNT : COUNT + 30]]),
    )
    report = tfmiaq.audit(lambda f: _target(f[["a"]].to_numpy()), (frame.iloc[:COUNT], y[:COUNT]), shared, ATTACKS)
    assert [finding.kind for finding in report.findings] == ["shared records"]


def test_missing_values_are_the_models_own_affair():
    x, y = _numbers()
    x[[2, 70], 1] = np.nan
    members, others = _halves(x, y)
    trees = ensemble.HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5).fit(*members)
    report = tfmiaq.audit(trees, members, others, ["gap", "confidence", "label-only", "quantile regression"])
    assert all(np.isfinite(attack.member_scores).all() for attack in report.attacks)
    target = lambda records: _target(records + records[:, 1:2] * 0)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"NaN or infinity for 1 of 60 members, .* index 2. 1 of these records hold NaN"
    ):
        tfmiaq.audit(target, members, others, ATTACKS)
    with pytest.raises(ValueError, match="train has NaN or infinity in 2 records, the first at index 2"):
        signals.pair((x, y), "train", "cross_distill")


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ((sparse.csr_matrix(np.eye(20)), np.zeros(20, int)), TypeError, r"sparse matrix. Pass x.toarray\(\)"),
        (({"a": np.zeros(20), "b": np.zeros(19)}, np.zeros(20, int)), ValueError, "different numbers of records"),
        (([np.zeros((20, 2)), np.zeros((19, 3))], np.zeros(20, int)), ValueError, "different numbers of records"),
        (({"a": np.zeros(20)}, np.zeros(20, int)), ValueError, r"Both must come from one preprocessing"),
        (([[1, 2], [3]], np.zeros(2, int)), ValueError, "is a list that makes no array"),
        ((np.zeros((20, 2)), None), ValueError, "members has no labels"),
        ((np.zeros((20, 2)), 3), ValueError, "members holds no records"),
        ((np.zeros((20, 2)),), TypeError, r"as a pair \(x, y\), or as a tf.data.Dataset.*Received tuple of 1"),
        ((None, np.zeros(20, int)), ValueError, r"x of members is None|records of shape"),
        ((None, 3), ValueError, "members holds no records"),
    ],
)
def test_records_that_cannot_be_read_say_so(members, error, message):
    others = np.zeros((20, 2)), np.zeros(20, int)
    with pytest.raises(error, match=message):
        tfmiaq.audit(_target, members, others, ATTACKS)


def test_saved_outputs_without_records_never_end_in_a_traceback():
    x, y = _numbers()
    outputs = _target(x)
    sets = (None, y[:COUNT]), (None, y[COUNT:])
    saved = outputs[:COUNT], outputs[COUNT:]
    report = tfmiaq.audit(saved, *sets)
    assert report.skipped["label-only"].startswith("needs augmented queries")
    assert report.skipped["quantile regression"] in ("needs the records themselves", "was not chosen")
    for more, message in (
        ({"augmented_queries": True}, None),
        ({"attacks": ["quantile regression"]}, "needs the records themselves"),
        ({"attacks": ["label-only"]}, "needs augmented queries"),
        ({"access": "file"}, "saved outputs: audit it with access='query'"),
        ({"other": _target}, "x of members is None, and the target needs records"),
        ({"reference_models": tfmiaq.ReferenceModels(lambda x, y: None, 2)}, r"x of members is None.*saved_references"),
        ({"slices": {"side": np.arange(2 * COUNT) % 2}, "attacks": ATTACKS}, None),
    ):
        if message is None:
            assert tfmiaq.audit(saved, *sets, **{"attacks": ATTACKS, **more}).attacks
            continue
        with pytest.raises((ValueError, TypeError), match=message):
            tfmiaq.audit(saved, *sets, **more)
    with pytest.raises(ValueError, match=r"x of members is None, and the target needs records"):
        tfmiaq.audit(_target, *sets)
    with pytest.raises(ValueError, match=r"2 saved outputs for 60 members. Give one for each record"):
        tfmiaq.audit((outputs[:2], outputs[COUNT:]), *sets)
    lists = tuple(part.tolist() for part in saved)
    np.testing.assert_allclose(_confidences(tfmiaq.audit(lists, *sets, ATTACKS)), _confidences(report))


def test_outputs_of_reference_models_that_were_saved(tmp_path):
    """Models that were trained elsewhere, with the masks of their training sets, are attacked with as one's own."""
    x, y = _numbers()
    generator = np.random.default_rng(1)

    def train(x_train, y_train):
        kept = {row.tobytes(): 4.0 * (2 * label - 1) for row, label in zip(x_train, y_train)}
        own = lambda records: np.array([kept.get(row.tobytes(), 0.0) for row in records])  # noqa: E731
        return lambda records: np.column_stack([np.zeros(len(records)), records[:, 0] + own(records)])

    masks = generator.random((6, 2 * COUNT)) < 0.5
    outputs = np.stack([train(x[mask], y[mask])(x) for mask in masks])
    references = signals.saved_references(outputs, y, masks)
    target = train(x[:COUNT], y[:COUNT])(x)
    sets = (target[:COUNT], target[COUNT:]), (None, y[:COUNT]), (None, y[COUNT:])
    report = tfmiaq.audit(*sets, ["confidence", "LiRA", "whole output"], reference_models=references)
    assert report["LiRA"].auc > 0.95 and report.reference_models == 6
    paths = [tmp_path / f"{number}.npy" for number in range(6)]
    for path, part in zip(paths, outputs):
        np.save(path, part)
    from_files = signals.saved_references(paths, y, masks.astype(int))
    np.testing.assert_array_equal(from_files.features, references.features)
    redrawn = np.random.default_rng(2).random((6, 2 * COUNT)) < 0.5
    null = tfmiaq.audit(*sets, ["LiRA"], reference_models=signals.saved_references(outputs[:, ::-1], y, redrawn))
    assert abs(null["LiRA"].auc - 0.5) < 0.2
    for bad, message in (
        ((outputs, y, masks[:, :-1]), r"trained_on as an array of shape \(6, 120\)"),
        ((outputs, y, masks * 2), r"trained_on as an array of shape \(6, 120\)"),
        ((outputs[:1], y, masks[:1]), "at least 2 models"),
        ((outputs[:, :50], y, masks), "50 saved outputs for 120 records of model 0"),
        ((outputs.argmax(2), y, masks), "Received labels as outputs"),
    ):
        with pytest.raises(ValueError, match=message):
            signals.saved_references(*bad)
    with pytest.raises(ValueError, match=r"signals are of 120 records. Expected those of 60 members and then of 50"):
        tfmiaq.audit(sets[0], sets[1], (None, y[COUNT:-10]), reference_models=references)
    with pytest.raises(ValueError, match="'LiRA on augmented queries' needs augmented queries of reference models"):
        tfmiaq.audit(*sets, ["LiRA on augmented queries"], reference_models=references)
    with pytest.raises(ValueError, match="Canaries are trained on through the target's pipeline"):
        tfmiaq.audit(*sets, reference_models=references, canaries=tfmiaq.Canaries())


def test_the_example_of_saved_outputs_in_the_docs_runs():
    text = (pathlib.Path(__file__).parents[2] / "docs" / "auditing.md").read_text(encoding="utf-8")
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "saved_references(" in block
    ]
    x, y = _numbers()
    generator = np.random.default_rng(0)
    masks = generator.random((4, 2 * COUNT)) < 0.5
    outputs = _target(x) + masks[:, :, None] * np.eye(2)[y] * 3
    members = np.arange(2 * COUNT)[:, None] < COUNT
    names = {
        "np": np,
        "tfmiaq": tfmiaq,
        "outputs": outputs,
        "masks": masks,
        "y_members": y[:COUNT],
        "y_others": y[COUNT:],
    }
    exec(example, names | {"target_outputs": _target(x) + members * np.eye(2)[y] * 3}, found := {})
    assert found["report"]["LiRA"].auc > 0.9


@pytest.mark.parametrize("head", ["fused", "layer", "sigmoid"])
def test_a_model_of_keras_3_gives_the_logits_in_front_of_its_softmax(head):
    keras_3 = pytest.importorskip("keras", minversion="3.0")
    layers = keras_3.layers
    last = {
        "fused": [layers.Dense(3, activation="softmax")],
        "layer": [layers.Dense(3), layers.Softmax()],
        "sigmoid": [layers.Dense(1, activation="sigmoid")],
    }[head]
    model = keras_3.Sequential([keras_3.Input((4,)), *last])
    x, y = _numbers()
    found = signals.extract(model, (x, y))
    expected = signals.extract(signals.SavedOutputs(np.asarray(model(x))), (None, y))
    np.testing.assert_allclose(found.confidences, expected.confidences, rtol=1e-3, atol=1e-4)
    assert abs(signals.extract(model, (x * 1000, y)).confidences).max() > 200


def test_canaries_of_what_has_no_wrong_class_are_refused_before_any_work():
    x, y = _numbers()
    pipeline_of = tfmiaq.ReferenceModels(lambda *_: pytest.fail("trained"), 4)
    for records in (({"a": x, "b": x}, y), (x, y + 0.5)):
        with pytest.raises(ValueError, match=r"audit: (Expected x of non_members as one array|Labels of non_members)"):
            tfmiaq.audit(
                lambda _: pytest.fail("queried"),
                records,
                records,
                reference_models=pipeline_of,
                canaries=tfmiaq.Canaries(count=20),
            )


def test_classes_are_matched_in_every_form():
    x, y = _numbers()
    names = np.where(y, "yes", "no")
    for one, other in (((x, y), (x[:50], y[:50])), ((_frame(x), names), (_frame(x[:50]), names[:50]))):
        (x_in, y_in), (_, y_out) = signals.match_classes(one, other)
        assert sorted(y_in) == sorted(y_out) and len(x_in) == len(y_in)
        assert type(x_in) is type(one[0])
    with pytest.raises(ValueError, match="no class in common"):
        signals.match_classes((x, y * 0), (x, y * 0 + 1))
    assert linear_model.LogisticRegression().fit(*signals.match_classes((x, y), (x, y))[0]).classes_.tolist() == [0, 1]
