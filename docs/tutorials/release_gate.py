# %% [markdown]
# # A gate in continuous integration
#
# A build that leaks must not be released. The gate is an exit status: 0 lets the build go on, 1 stops it. This page
# makes the files of a build and runs the gate on them as a build server does.
#
# A build of your own has a `.tflite` here. Saved outputs stand in its place, because they show the statuses in
# seconds: those of a model that memorized nothing, and those of a model that is surer of its members.

# %%
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

build = pathlib.Path(tempfile.mkdtemp())
generator = np.random.default_rng(0)
count, classes = 1000, 10
labels = generator.integers(classes, size=2 * count)
records = {"x": generator.normal(size=(2 * count, 4)), "y": labels}
np.savez(
    build / "own.npz",
    **{
        f"{key}_{part}": value
        for key, values in records.items()
        for part, value in zip(("train", "test"), np.split(values, 2))
    },
)


def save(name, surer):
    """Saves logits of all records; those of the members are `surer` higher in the true class."""
    logits = generator.normal(size=(2 * count, classes)) + 3 * np.eye(classes)[labels]
    logits[:count] += surer * np.eye(classes)[labels[:count]]
    np.save(build / f"{name}_members.npy", logits[:count])
    np.save(build / f"{name}_others.npy", logits[count:])


save("sound", surer=0.0)
save("leaking", surer=1.5)
sorted(path.name for path in build.iterdir())

# %% [markdown]
# ## The limits
#
# `--fail_if` says what may be found: an AUC of at most 0.56, and at most 4 % of the members at 1 % false positives.
# They are judged on the upper ends of intervals, over all attacks.

# %%
LIMITS = ["--fail_if", "auc>0.56", "--fail_if", "tpr@0.01>0.04"]


def gate(name, *more):
    """Runs the gate as a build server does; prints what it says and its exit status."""
    command = [sys.executable, "-m", "tfmiaq", "audit", f"{name}_members.npy,{name}_others.npy", "--records=own.npz"]
    command += ["--attacks=gap,confidence,entropy", f"--folder={name}", f"--junit={name}.xml", *LIMITS, *more]
    result = subprocess.run(command, cwd=build, capture_output=True, text=True, check=False)
    print(*result.stdout.splitlines()[-1:], *result.stderr.splitlines(), f"exit status {result.returncode}", sep="\n")
    return result.returncode


passed = gate("sound")

# %%
failed = gate("leaking")

# %% [markdown]
# ## What a build server shows
#
# `--junit` writes the judgement as test cases, one for each limit.

# %%
print((build / "leaking.xml").read_text())

# %% [markdown]
# The folder of the audit has the page, which the build keeps as an artefact, and the JSON of the report. A limit can
# be judged again on it without a new audit:

# %%
import tfmiaq

report = tfmiaq.AuditReport.load(build / "leaking")
report.gate(["auc>0.9"])

# %% [markdown]
# ## In a workflow
#
# The step of a GitHub workflow, with the page kept whatever the outcome. [A release gate](../release_gate.md) has the
# whole file, and says how many records a limit needs.
#
# ```yaml
# - run: >
#     tfmiaq audit model.tflite --records=own.npz --folder=audit --junit=audit/gate.xml
#     --fail_if "auc>0.56" --fail_if "tpr@0.01>0.04"
# - uses: actions/upload-artifact@v4
#   if: always()
#   with: {name: audit, path: audit}
# ```
