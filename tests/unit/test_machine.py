"""Prevents planning with cores, memory or GPUs that this process may not use, as in a container."""

import os
from pathlib import Path

import psutil
import pytest

from deploy import machine
from deploy.machine import Gpu, Limits, cgroup_limits, computes_bfloat16, find_gpus, measure, min_given, usable_cores

GIB = 1024**3
MIB = 1024**2


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def fake_nvidia_smi(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


TWO_GPUS = """cat <<END
0, GPU-aaaa-1, NVIDIA L4, 23034, 22500
1, GPU-bbbb-2, NVIDIA A10G, 24564, 24000
END"""
L4 = Gpu("NVIDIA L4", 23034 * MIB, 22500 * MIB)
A10G = Gpu("NVIDIA A10G", 24564 * MIB, 24000 * MIB)


def test_this_machine_measures_within_its_own_bounds() -> None:
    found = measure()
    assert set(found.cores) <= os.sched_getaffinity(0)
    assert len(found.cores) >= 1
    assert 0 < found.free_memory_bytes <= found.memory_bytes <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 avx avx2 fma\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw avx512_vnni\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw avx512_bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", True),
    ],
    ids=["avx2", "avx512", "avx512-bf16", "arm"],
)
def test_an_x86_without_bfloat16_instructions_is_slow_in_it(tmp_path: Path, cpuinfo: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert computes_bfloat16(tmp_path / "cpuinfo") is expected


def test_where_the_cpu_does_not_tell_bfloat16_is_taken_as_usual(tmp_path: Path) -> None:
    assert computes_bfloat16(tmp_path / "missing")


@pytest.mark.parametrize(
    ("quota", "cores"),
    [(None, (0, 2, 5)), (8.0, (0, 2, 5)), (2.0, (0, 2)), (1.9, (0,)), (0.5, (0,))],
)
def test_cores_are_the_affinity_cut_to_whole_cores_of_the_quota(quota: float | None, cores: tuple[int, ...]) -> None:
    assert usable_cores({5, 0, 2}, quota) == cores


def test_a_limit_above_the_machine_changes_nothing_and_a_negative_rest_is_zero() -> None:
    assert min_given(10, None) == 10
    assert min_given(10, 2**63) == 10
    assert min_given(10, -3) == 0


def test_version_2_takes_the_tightest_limit_on_the_way_to_the_root(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/system.slice/job"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/job\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/system.slice/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/system.slice/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/memory.current": "1\n",
            f"{group}/cpu.max": "max 100000\n",
            f"{group}/memory.max": f"{8 * GIB}\n",
            f"{group}/memory.current": f"{3 * GIB}\n",
            f"{group}/memory.stat": f"anon 7\ninactive_file {GIB}\n",
        },
    )
    assert cgroup_limits(root) == Limits(cores=1.5, memory_bytes=8 * GIB, free_memory_bytes=6 * GIB)


def test_version_1_reads_quota_and_memory_from_their_own_hierarchies(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/docker/abc/memory.stat": f"total_inactive_file {GIB}\n",
        },
    )
    assert cgroup_limits(root) == Limits(cores=2.0, memory_bytes=4 * GIB, free_memory_bytes=3 * GIB)


def test_a_container_that_sees_only_its_own_group_reads_the_mount_root(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/kubepods/pod1\n5:memory:/kubepods/pod1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup_limits(root) == Limits(cores=3.0, memory_bytes=None, free_memory_bytes=None)


def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path) == Limits(cores=None, memory_bytes=None, free_memory_bytes=None)


def test_without_nvidia_smi_there_are_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == ()


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        (None, (L4, A10G)),
        ("1", (A10G,)),
        ("1,0", (A10G, L4)),
        ("GPU-bbbb", (A10G,)),
        ("0,7,1", (L4,)),
        ("", ()),
        ("-1", ()),
    ],
)
def test_gpus_are_those_that_cuda_visible_devices_leaves(
    visible: str | None, gpus: tuple[Gpu, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, TWO_GPUS)
    assert find_gpus(visible) == gpus


def test_a_gpu_that_does_not_tell_its_memory_is_still_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, "echo '0, GPU-cccc, NVIDIA GB10, [N/A], [N/A]'")
    assert find_gpus() == (Gpu("NVIDIA GB10", 0, 0),)


def test_a_driver_that_hangs_is_given_up_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, "exec sleep 600")
    monkeypatch.setattr(machine, "NVIDIA_SMI_TIMEOUT_S", 0.2)
    assert find_gpus() == ()
    assert "nvidia-smi gave no answer in 0.2 s" in caplog.text


def test_a_driver_that_fails_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    assert find_gpus() == ()
    assert "nvidia-smi failed with code 18" in caplog.text
