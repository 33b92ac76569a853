"""What a killed run, a killed worker, a full disk and a broken file leave behind: the same numbers in the end."""

from __future__ import annotations

import collections
import functools
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import joblib
import numpy as np
import pipelines
import pytest
from conftest import train
from joblib.externals import loky

import tfmiaq
from tfmiaq._backend import keras
from tfmiaq.caching.store import FullDiskError

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["anew", "fast"])
def fast(request):
    """Whether the pipeline's models are built and traced once, or each anew."""
    return request.param


@pytest.fixture(scope="module")
def undisturbed():
    return pipelines.audit(None).to_json()


@pytest.fixture(scope="module")
def undisturbed_way(fast, undisturbed):
    return pipelines.audit(None, fast=True).to_json() if fast else undisturbed


@pytest.fixture(scope="module")
def kept_fast(tmp_path_factory):
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed_fast(kept_fast):
    return pipelines.audit(kept_fast, fast=True).to_json()


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "log"
    monkeypatch.setenv("TFMIAQ_TEST_LOG", str(path))
    # Processes that an earlier test left behind have its environment.
    loky.get_reusable_executor().shutdown()
    return lambda: collections.Counter(path.read_text().split()) if path.exists() else collections.Counter()


def _finished(folder):
    """The files of finished models' signals; those of what the holder of their file sees lie in files beside them."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            found += [path.name] if "features" in file.files else []
    return found


def _differing(folder, other):
    """The files of finished models that hold other signals than in another folder, and by how much."""
    differing = {}
    for path in _finished(folder):
        with np.load(folder / path) as one, np.load(other / path) as two:
            apart = np.abs(one["features"] - two["features"]).max()
        differing.update({path: apart} if apart else {})
    return differing


def _wait(condition, seconds=150.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def _in_tests(*command, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_a_second_audit_trains_nothing(tmp_path, log, fast, undisturbed_way):
    first = pipelines.audit(tmp_path / "cache", fast=fast)
    trained = log()["finished"]
    again = pipelines.audit(tmp_path / "cache", fast=fast)
    assert first.to_json() == again.to_json() == undisturbed_way
    # The target itself is trained by each call.
    assert (trained, log()["finished"]) == (7, 8)


def test_processes_give_the_numbers_of_one_process(tmp_path, fast, undisturbed_way):
    assert pipelines.audit(tmp_path / "cache", n_jobs=2, fast=fast).to_json() == undisturbed_way


@pytest.fixture
def drawing():
    """A thread that draws from Python's random generator all the time, as that of a Dask worker does now and then."""
    ended, interval = threading.Event(), sys.getswitchinterval()

    def draw():
        while not ended.is_set():
            random.random()

    thread = threading.Thread(target=draw)
    sys.setswitchinterval(1e-6)
    thread.start()
    yield
    ended.set()
    thread.join()
    sys.setswitchinterval(interval)


@pytest.mark.slow
@pytest.mark.parametrize("is_kept", [False, True], ids=["lent", "kept"])
def test_threads_that_draw_at_random_change_nothing(drawing, undisturbed_fast, is_kept):
    stages = pipelines.fast_stages()
    # What a function gets to see, which may keep it, is a model of its own.
    stages += [lambda model, x, y: model] if is_kept else []
    assert pipelines.audit(None, train=stages).to_json() == undisturbed_fast


@pytest.mark.slow
def test_an_audit_that_was_killed_goes_on(tmp_path, log, fast, undisturbed_way):
    folder = tmp_path / "cache"
    call = f"import pipelines; pipelines.audit({str(folder)!r}, fast={fast})"
    process = _in_tests("-c", call, TFMIAQ_TEST_SECONDS="1")
    _wait(lambda: len(_finished(folder)) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = _finished(folder)
    before = log()["finished"]
    assert pipelines.audit(folder, fast=fast).to_json() == undisturbed_way
    assert set(kept) < set(_finished(folder))
    assert len(_finished(folder)) == 6
    # No model that was finished is trained again; the target is. One may have been killed between its two stages.
    assert 6 - len(kept) + 1 - fast <= log()["finished"] - before <= 6 - len(kept) + 1


def test_a_worker_that_dies_is_told_and_what_is_finished_is_kept(tmp_path, log, undisturbed):
    folder, trap = tmp_path / "cache", tmp_path / "trap"
    train = functools.partial(pipelines.die_once, str(trap))
    trap.touch()
    with pytest.raises(RuntimeError, match=r"died.*run the same audit again"):
        pipelines.audit(folder, n_jobs=2, train=train)
    assert not trap.exists()
    kept = len(_finished(folder))
    before = log()["finished"]
    again = pipelines.audit(folder, n_jobs=2, train=train)
    assert again.to_json() == undisturbed
    assert log()["finished"] - before == 6 - kept + 1


@pytest.mark.parametrize("size", [0, 100, -50])
def test_a_broken_file_is_made_again(tmp_path, log, undisturbed, size):
    folder = tmp_path / "cache"
    pipelines.audit(folder)
    victim = folder / _finished(folder)[2]
    victim.write_bytes(victim.read_bytes()[:size])
    before = log()["finished"]
    with pytest.warns(UserWarning, match="is broken"):
        again = pipelines.audit(folder)
    assert again.to_json() == undisturbed
    assert log()["finished"] - before == 2


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_at_once_and_loses_no_model(small_disk, undisturbed):
    folder = small_disk / "cache"
    with pytest.raises(FullDiskError, match="No space is left to write"):
        pipelines.audit(folder)
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    assert pipelines.audit(folder).to_json() == undisturbed
    # What did not fit is no half file: the next run reads what there is.
    assert pipelines.audit(folder).to_json() == undisturbed
    assert not list(folder.glob(".unfinished*"))


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def dask_cluster(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    port = _free_port()
    processes = [
        _in_tests("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    ]
    address = f"tcp://127.0.0.1:{port}"
    for name in ("one", "two"):
        processes.append(
            _in_tests(
                "-m",
                "distributed.cli.dask_worker",
                address,
                "--nthreads",
                "1",
                "--name",
                name,
                "--no-dashboard",
                "--local-directory",
                str(tmp_path / name),
                TFMIAQ_TEST_SECONDS="0.5",
            )
        )
    client = distributed.Client(address, timeout=150)
    client.wait_for_workers(2, timeout=150)
    yield client
    client.close()
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        process.wait(30)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_worker_that_is_killed_costs_nothing_but_time(tmp_path, log, dask_cluster, undisturbed_fast, kept_fast):
    folder, victims = tmp_path / "cache", []

    def kill_one():
        _wait(lambda: len(_finished(folder)) >= 1)
        victims.append(next(iter(dask_cluster.run(os.getpid).values())))
        os.kill(victims[0], signal.SIGKILL)

    watcher = threading.Thread(target=kill_one)
    watcher.start()
    with joblib.parallel_config(backend="dask"):
        report = pipelines.audit(folder, fast=True)
    watcher.join()
    assert len(victims) == 1
    assert report.to_json() == undisturbed_fast, _differing(folder, kept_fast)
    assert len(_finished(folder)) == 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_numbers(tmp_path, undisturbed_fast, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        register_ray()
        with joblib.parallel_config(backend="ray", n_jobs=2):
            assert pipelines.audit(tmp_path / "cache", fast=True).to_json() == undisturbed_fast
    finally:
        ray.shutdown()


def _small_model(x, y):
    pipelines.note("float")
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    return train(model, x, y)


def _quantized(bits, model, x, y):
    pipelines.note(f"w{bits}")
    return train(tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(bits, 4)), x, y)


def test_two_pipelines_share_what_they_begin_with(tmp_path, log):
    members, non_members = pipelines.sets(20)
    target = pipelines.train_slowly(*members)
    for bits in (2, 1, 2):
        tfmiaq.audit(
            target,
            members,
            non_members,
            ["LiRA"],
            reference_models=tfmiaq.ReferenceModels(
                [_small_model, functools.partial(_quantized, bits)], 2, cache=tmp_path / "cache"
            ),
            verbose=False,
        )
    assert {name: log()[name] for name in ("float", "w2", "w1")} == {"float": 2, "w2": 2, "w1": 2}
