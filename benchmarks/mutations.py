"""Broken params.json and checkpoints, as Hypothesis makes them up. For faults.py."""

import copy
import itertools
import json
import shutil
import sys

import torch
from conftest import snapshot
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from processes import Script

import utils
from toolkit.core.checkpoint import TrainState
from utils import Hyperparameters

NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**63, 10**30, -0.5, 0.5, 1e-30, 1e30])
VALUES = st.one_of(
    NUMBERS,
    st.none(),
    st.booleans(),
    st.text(max_size=5),
    st.lists(NUMBERS, max_size=3),
    st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2),
)


def check(folder, before, code, out, err):
    """What is to hold after a run with a broken file."""
    assert code in (0, 2), f"exit code {code}: {out}\n{err}"
    assert "Traceback" not in out + err, err
    if code == 2:
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert snapshot(folder) == before, f"a file was changed, though it ended with: {err}"


def run_mutations(strategy, spoil, project, folder, total, seed_number):
    """Spoil a copy of the project with each value of `strategy`, and train a step.

    Returns:
        (codes, failures): the exit codes, and what did not hold, as lines.
    """
    codes, failures, numbers = [], [], itertools.count()

    @seed(seed_number)
    @settings(
        max_examples=max(total, 1),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def mutated(mutation):
        place = folder / f"mutation-{next(numbers)}"
        experiment = project.copy(place)
        steps = spoil(experiment, mutation)
        before = snapshot(experiment)
        process = Script("train", *project.arguments(place), "--max_steps", steps)
        try:
            out, err = process.communicate()
            check(experiment, before, process.returncode, out, err)
        except Exception as error:
            process.kill()
            failures.append(f"{mutation!r:.300}: {type(error).__name__}: {error}")
            print(failures[-1], file=sys.stderr, flush=True)
        codes.append(process.returncode)
        shutil.rmtree(place)

    if total:
        mutated()
    for place in folder.glob("mutation-*"):  # those that turned out to be none
        shutil.rmtree(place)
    return codes, failures


def mutated_params(project, folder, total, seed_number):
    """Train with `total` broken params.json; see run_mutations."""
    declared = [*Hyperparameters.model_fields, "num_channels", "dropout_rate", "architecture", "random_shift"]
    keys = st.one_of(st.sampled_from(declared), st.text(max_size=12))
    values = st.dictionaries(keys, VALUES, min_size=1, max_size=3)
    edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3)

    def spoil(experiment, mutation):
        file = experiment / "params.json"
        if isinstance(mutation, dict):
            file.write_text(json.dumps(json.loads(file.read_text()) | mutation), encoding="utf-8")
        else:
            file.write_bytes(edited(file.read_bytes(), mutation))
        return 1

    return run_mutations(st.one_of(values, edits), spoil, project, folder, total, seed_number)


def mutated_checkpoints(project, folder, total, seed_number):
    """Go on with `total` broken checkpoints, in the middle of an epoch; see run_mutations."""
    half = project.copy(folder / "half") / "last.pth.tar"
    process = Script("train", *project.arguments(folder / "half"), "--max_steps", 14)
    process.communicate()
    content = half.read_bytes()
    state = utils.read_checkpoint(half)
    edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3000), st.binary(max_size=50)), min_size=1, max_size=3)
    paths = st.lists(st.integers(0, 30), max_size=4)
    structure = st.tuples(
        st.sampled_from([*TrainState.__dataclass_fields__, "state_dict", "optim_dict"]),
        paths,
        st.one_of(VALUES, st.just("delete"), st.just(torch.ones(2))),
    )

    def spoil(experiment, mutation):
        file = experiment / "last.pth.tar"
        if isinstance(mutation, list):
            file.write_bytes(edited(content, mutation))
        else:
            torch.save(replaced(copy.deepcopy(state), *mutation), file)
        return 16

    return run_mutations(st.one_of(edits, structure), spoil, project, folder, total, seed_number)


def edited(original, edits):
    """Bytes in which, for each (place, length, new), `length` bytes at a share `place` of the whole are now `new`."""
    content = original
    for place, length, new in edits:
        start = int(place * len(content))
        content = content[:start] + new + content[start + length :]
    assume(content != original)
    return content


def replaced(state, name, path, value):
    """A state in which what lies at `name`, and below it along `path`, is now `value`, or deleted."""
    holder, key = state, name
    for index in path:
        inner = holder[key]
        if isinstance(inner, dict) and inner:
            holder, key = inner, sorted(inner, key=str)[index % len(inner)]
        elif isinstance(inner, list) and inner:
            holder, key = inner, index % len(inner)
    if isinstance(value, str) and value == "delete":
        del holder[key]
    else:
        holder[key] = value
    return state
