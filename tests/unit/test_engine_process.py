"""Prevents replicas in several containers of one machine from all computing on the same core."""

from deploy.engine_process import environment


def test_threads_are_bound_one_to_a_core() -> None:
    variables = environment(2, (4, 5))
    assert variables["OMP_NUM_THREADS"] == "2"
    assert variables["GOMP_CPU_AFFINITY"] == "4 5"


def test_unbound_threads_are_as_many_and_have_no_core() -> None:
    variables = environment(2)
    assert variables["OMP_NUM_THREADS"] == "2"
    assert "GOMP_CPU_AFFINITY" not in variables
