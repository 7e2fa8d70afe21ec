"""Other machines: containers with a quota, systems without Unix's modules, accelerators."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from elsjax import parallel

ROOT = Path(__file__).resolve().parents[1]

V1 = "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n"
QUOTAS = {
    "none": ({}, None),
    "no quota": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
    "a container": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"},
        3,
    ),
    "a part of a core": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "5000 100000"}, 1),
    "a core and a half": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000"},
        2,
    ),
    "a group within": (
        {
            "proc/self/cgroup": "0::/pod/main\n",
            "sys/fs/cgroup/pod/main/cpu.max": "max 100000",
            "sys/fs/cgroup/pod/cpu.max": "400000 100000",
            "sys/fs/cgroup/cpu.max": "800000 100000",
        },
        4,
    ),
    "the smaller one": (
        {
            "proc/self/cgroup": "0::/pod/main\n",
            "sys/fs/cgroup/pod/main/cpu.max": "200000 100000",
            "sys/fs/cgroup/pod/cpu.max": "400000 100000",
        },
        2,
    ),
    "a group unseen": (
        {"proc/self/cgroup": "0::/../../pod\n", "sys/fs/cgroup/cpu.max": "200000 100000"},
        2,
    ),
    "version 1": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": "500000\n",
            "sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us": "100000\n",
        },
        5,
    ),
    "version 1 in a container": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "50000",
        },
        4,
    ),
    "version 1, no quota": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        None,
    ),
    "nonsense": (
        {"proc/self/cgroup": "0::/\nwhat\n1:cpu\n", "sys/fs/cgroup/cpu.max": "a b c"},
        None,
    ),
    "a period of zero": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1 0"}, None),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_cores_of_a_container(tmp_path, monkeypatch, case):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 64, raising=False)
    files, cores = QUOTAS[case]
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert parallel.usable_cores(tmp_path) == (cores or 64)


def test_cores_without_a_quota(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 7}, raising=False)
    assert parallel.usable_cores(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert parallel.usable_cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert parallel.usable_cores(tmp_path) == 1
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4, raising=False)
    assert parallel.usable_cores(tmp_path) == 4


WITHOUT_UNIX = """
import importlib.abc, os, sys
MISSING = ("array_record", "fcntl", "resource", "tensorflow_datasets")
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
for name in MISSING:
    sys.modules.pop(name, None)
for name in ("sched_getaffinity", "process_cpu_count", "getuid", "fork"):
    if hasattr(os, name):
        delattr(os, name)
import elsjax, elsjax.nn, elsjax.data.datasets, elsjax.parallel, elsjax.storage
from elsjax.posterior import index
elsjax.parallel.use_all_cores()
print(len(elsjax.load_dataset("mnist5k")))
assert not set(MISSING) & set(sys.modules)
"""


def test_the_library_needs_no_module_of_unix():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_UNIX], capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (0, "5000\n"), run.stderr


@pytest.mark.parametrize("library", ["array_record", "tensorflow_datasets"])
def test_tfds_without_its_libraries_is_one_error(tmp_path, monkeypatch, library):
    from elsjax.data import datasets, tfds_source

    directory = tmp_path / "mnist" / "3.0.1"
    directory.mkdir(parents=True)
    info = {"fileFormat": "array_record", "splits": [{"name": "train", "shardLengths": ["3"]}]}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.setenv("ELSJAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(
        tfds_source.importlib.util, "find_spec", lambda name: None if name == library else object()
    )
    with pytest.raises(ValueError, match=f"3.0.1 cannot be read without the library {library}"):
        datasets.load_dataset("mnist", data_dir=tmp_path)


def test_accelerators_are_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    offered = importlib.metadata.metadata("jax").get_all("Provides-Extra")
    for name in ("cuda12", "cuda13", "tpu"):
        (needed,) = project["optional-dependencies"][name]
        assert needed.startswith(f"jax[{name}]>=")
        assert name in offered
    (marked,) = (need for need in project["dependencies"] if need.startswith("array_record"))
    assert "sys_platform == 'linux'" in marked
