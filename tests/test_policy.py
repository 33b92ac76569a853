from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmiaq.policy import BitwidthPolicy, LayerBits, OutputBits

_bits = st.one_of(st.none(), st.integers(1, 8))
_layer_bits = st.builds(LayerBits, _bits, _bits)
_policies = st.builds(
    BitwidthPolicy,
    _layer_bits,
    st.dictionaries(st.text(min_size=1, max_size=8), _layer_bits, max_size=4),
    st.none() | _layer_bits,
    st.none() | _layer_bits,
    st.none() | st.builds(OutputBits, st.integers(1, 8), st.floats(0.1, 100)),
)


@given(_policies)
def test_json_round_trip_gives_an_equal_policy(policy):
    again = BitwidthPolicy.from_json(policy.to_json())
    assert again == policy
    assert hash(again) == hash(policy)


def test_numpy_numbers_are_taken_and_made_plain():
    assert LayerBits(np.int64(2), np.uint8(4)) == LayerBits(2, 4)
    assert type(LayerBits(np.int64(2)).weight) is int
    assert OutputBits(np.int32(2), np.float32(4)) == OutputBits(2, 4.0)
    policy = BitwidthPolicy.uniform(np.int64(2), np.int16(4), first=np.int8(8), output=OutputBits(np.int64(3)))
    assert policy == BitwidthPolicy.uniform(2, 4, output=OutputBits(3))
    assert BitwidthPolicy.from_json(policy.to_json()) == policy


def test_uniform_keeps_its_ends_with_output_bits_and_layers():
    policy = BitwidthPolicy.uniform(2, 4, output=OutputBits(2, 4.0), layers={"stem": LayerBits(4, 4)})
    assert (policy.first, policy.last) == (LayerBits(8, 8), LayerBits(8, 8))
    assert policy.output == OutputBits(2, 4.0)
    assert policy.resolve(["stem", "a", "b"], ["stem"], ["b"]) == {
        "stem": LayerBits(4, 4),
        "a": LayerBits(2, 4),
        "b": LayerBits(8, 8),
    }
    assert BitwidthPolicy.uniform(2, 4, first=None).first is None


def test_every_fault_of_uniform_is_named_at_once():
    with pytest.raises(ValueError, match=r"BitwidthPolicy.uniform: Expected weight to be .*Expected last to be"):
        BitwidthPolicy.uniform(weight=9, last="8")


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match=r"LayerBits: Expected weight to be an integer from 1 to 8, or None for float"):
        LayerBits(weight=bits)


@pytest.mark.parametrize("bits", ["4", 2.0, True])
def test_bits_that_are_no_integers_are_refused(bits):
    with pytest.raises(TypeError, match=r"LayerBits: Expected activation to be an integer"):
        LayerBits(activation=bits)


def test_the_last_match_wins_and_ends_yield_to_patterns():
    policy = BitwidthPolicy(
        default=LayerBits(2, 4),
        layers={"conv*": LayerBits(3, 3), "conv2": LayerBits(1, 1)},
        first=LayerBits(8, 8),
        last=LayerBits(7, 7),
    )
    names = ["stem", "conv1", "conv2", "relu", "head"]
    resolved = policy.resolve(names, first=["stem"], last=["head"], followers={"relu": "conv2"})
    assert resolved == {
        "stem": LayerBits(8, 8),
        "conv1": LayerBits(3, 3),
        "conv2": LayerBits(1, 1),
        "relu": LayerBits(1, 1),
        "head": LayerBits(7, 7),
    }


def test_a_fused_relu_follows_an_end():
    policy = BitwidthPolicy.uniform(2, 4, first=8, last=8)
    assert policy.resolve(["a", "relu", "b"], ["a"], ["b"], {"relu": "a"})["relu"] == LayerBits(8, 8)


def test_patterns_match_other_names_of_a_layer_too():
    policy = BitwidthPolicy(layers={"backbone/*": LayerBits(1, 1), "sep": LayerBits(3, 3)})
    aliases = {"conv": ["conv", "backbone/conv"], "sep_depthwise": ["sep", "backbone/sep"]}
    resolved = policy.resolve(["conv", "sep_depthwise", "head"], aliases=aliases)
    assert resolved == {"conv": LayerBits(1, 1), "sep_depthwise": LayerBits(3, 3), "head": LayerBits(8, 8)}


def test_all_unknown_names_are_listed_with_the_nearest():
    policy = BitwidthPolicy(layers={"cnov1": LayerBits(2, 2), "conv*": LayerBits(2, 2), "zzz": LayerBits(2, 2)})
    with pytest.raises(ValueError, match=r"(?s)'cnov1'. Did you mean 'conv1'.*'zzz'") as error:
        policy.resolve(["conv1", "dense"])
    assert "conv*" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}', '{"schema": 1}', '{"schema": 1, "default": {"w": 2}}'])
def test_json_that_is_no_policy_is_refused(text):
    with pytest.raises(ValueError, match="policy"):
        BitwidthPolicy.from_json(text)


def test_a_policy_does_not_load_tensorflow():
    code = "import sys, tfmiaq; tfmiaq.BitwidthPolicy.uniform(); assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bits": 9}, ValueError, r"OutputBits: Expected bits to be an integer from 1 to 8. Received 9"),
        ({"bits": None}, TypeError, r"OutputBits: Expected bits to be an integer from 1 to 8. Received None"),
        ({"clip": 0}, ValueError, r"OutputBits: Expected clip to be a finite number above 0. Received 0"),
        ({"clip": float("nan")}, ValueError, r"OutputBits: Expected clip to be a finite number above 0"),
        ({"clip": "8"}, TypeError, r"OutputBits: Expected clip to be a finite number above 0. Received '8'"),
    ],
)
def test_output_bits_out_of_range_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        OutputBits(**arguments)


def test_the_output_takes_output_bits_only():
    with pytest.raises(TypeError, match=r"BitwidthPolicy.output: Expected an OutputBits or None. Received LayerBits"):
        BitwidthPolicy(output=LayerBits(4, 4))
