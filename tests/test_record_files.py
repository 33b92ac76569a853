"""Tables and folders of images as records, in Python and on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tfmiaq import datasets, signals

COUNT = 40


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Two .csv files and the saved outputs of a model on them."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("members", "others"):
        age, income = generator.uniform(20, 80, COUNT), generator.normal(0, 2, COUNT)
        ill = (income + generator.normal(0, 1, COUNT) > 0).astype(int)
        rows = [f"{a:.3f},{b},{c:.4f}" for a, b, c in zip(age, ill, income)]
        rows[5] = rows[5].replace(rows[5].split(",")[0], "")
        (tmp_path / f"{name}.csv").write_text("\n".join(["age,ill,income", *rows]) + "\n")
        np.save(tmp_path / f"{name}.npy", 1 / (1 + np.exp(-income)))
    return tmp_path


def test_a_table_is_audited(tables, run):
    files = "--members=members.csv --non_members=others.csv"
    status, printed = run(f"audit members.npy,others.npy {files} --label=ill --attacks=gap,confidence")
    assert status == 0, printed.err
    report = json.loads((tables / "audit" / "report.json").read_text())
    assert f"{COUNT} members" in printed.out and report["findings"] == []
    data = datasets.load_files("members.csv", "others.csv", "ill")
    assert data.x_train.shape == (COUNT, 2) and data.x_train.dtype == np.float32 and data.classes == 2
    assert np.isnan(data.x_train[5, 0]) and np.isnan(data.x_train).sum() == 1
    found = signals.extract(lambda x: x[:, 1], (data.x_train, data.y_train))
    assert found.task == "classes" and found.correct.mean() > 0.7


def test_a_table_of_a_second_order_of_columns_is_read_by_name(tables):
    rows = [line.split(",") for line in (tables / "others.csv").read_text().splitlines()]
    (tables / "turned.csv").write_text("\n".join(f"{c},{a},{b}" for a, b, c in rows))
    one, other = (datasets.load_files("members.csv", name, "ill") for name in ("others.csv", "turned.csv"))
    np.testing.assert_array_equal(one.x_test, other.x_test)


def test_labels_of_a_table_keep_their_kind(tables):
    assert datasets.load_files("members.csv", "others.csv", "income").y_train.dtype == np.float64
    text = (tables / "members.csv").read_text().replace(",1,", ",yes,").replace(",0,", ",no,")
    (tables / "names.csv").write_text(text)
    data = datasets.load_files("names.csv", "names.csv", "ill")
    assert set(data.y_train) == {"yes", "no"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--members=members.csv --label=ill", "goes with --non_members of the same kind"),
        ("--members=members.csv --non_members=others.csv", r"has the columns age, ill, income. Name the column"),
        ("--members=members.csv --non_members=others.csv --label=sick", "It has no 'sick'"),
        ("--members=members.csv --non_members=short.csv --label=ill", "other columns than 'members.csv': age"),
        ("--members=text.csv --non_members=others.csv --label=ill", "text in the column 'age': 'old' in record 0"),
        ("--members=nowhere.csv --non_members=others.csv --label=ill", "--members as a .csv file or a folder"),
        ("--members=members.csv --non_members=. --label=ill", "of one kind"),
        ("--members=members.csv --non_members=others.csv --records=digits --label=ill", "without --records"),
        ("--members=10", "Give the records: --records=FILE.npz, or --members and --non_members"),
        ("--non_members=others.csv", "Give the records"),
    ],
)
def test_tables_that_cannot_be_read_say_so(flags, message, tables, run):
    (tables / "short.csv").write_text("ill,income\n1,2\n")
    (tables / "text.csv").write_text("age,ill,income\nold,1,2\n")
    status, printed = run(f"audit members.npy,others.npy {flags}")
    assert status == 2 and message in printed.err and "Traceback" not in printed.err


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("members", "others"):
        for label, brightness in (("light", 190), ("dark", 60)):
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(10):
                image = np.clip(generator.normal(brightness, 25, (6, 5)), 0, 255).astype(np.uint8)
                Image.fromarray(image).save(tmp_path / name / label / f"{number}.png")
    return tmp_path


def test_folders_of_images_are_audited(folders, run):
    data = datasets.load_files("members", "others")
    assert data.x_train.shape == (20, 6, 5, 1) and 0 <= data.x_train.min() < data.x_train.max() <= 1
    np.testing.assert_array_equal(data.y_train, [0] * 10 + [1] * 10)
    with Image.open("members/dark/3.png") as image:
        np.testing.assert_allclose(data.x_train[3, ..., 0], np.asarray(image) / 255, rtol=1e-6)
    assert datasets.load_files("members", "others", rescale=False).x_train.max() > 100
    assert datasets.load_files("members", "others", image_size=(3, 3)).x_test.shape == (20, 3, 3, 1)
    for name, x in (("members", data.x_train), ("others", data.x_test)):
        np.save(f"{name}.npy", x.mean((1, 2, 3)) * 10 - 5)
    line = "audit members.npy,others.npy --members=members --non_members=others --attacks=gap,confidence"
    status, printed = run(line)
    assert status == 0, printed.err
    assert "20 members" in printed.out


def test_folders_that_cannot_be_read_say_so(folders, run):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("members/dark/small.png")
    line = "audit members.npy,others.npy --members=members --non_members=others"
    status, printed = run(line)
    assert status == 2 and "Expected images of one size. Received " in printed.err and "--image_size" in printed.err
    assert "Expected --image_size=HEIGHT,WIDTH. Received 3" in run(f"{line} --image_size=3")[1].err
    (folders / "members" / "grey").mkdir()
    assert "one folder for each class, the same in both. Received dark, grey, light" in run(line)[1].err


def test_tables_of_bytes_and_labels_of_every_kind_stay_what_they_are(tmp_path):
    """Counts from 0 to 200 are no images; values and several labels are no classes."""
    path, counts = str(tmp_path / "own.npz"), np.arange(200, dtype=np.uint8).reshape(20, 10)
    values, several = np.linspace(0, 1, 20), np.eye(3)[np.arange(20) % 3] + np.eye(3)[0]
    several = np.minimum(several, 1)
    np.savez(path, x_train=counts, y_train=values, x_test=counts, y_test=several)
    data = datasets.load(path)
    assert data.x_train.max() == 199
    np.testing.assert_array_equal(data.y_train, values)
    np.testing.assert_array_equal(data.y_test, several)
    with pytest.raises(ValueError, match="has values as labels, and no classes"):
        _ = data.classes
    np.savez(path, x_train=counts, y_train=np.eye(3)[np.arange(20) % 3], x_test=counts, y_test=np.arange(20.0) % 3)
    data = datasets.load(path)
    assert data.y_train.dtype == data.y_test.dtype == np.int64 and data.classes == 3
