import torch

from worldmodel import threads
from worldmodel.threads import choose_threads, keep_memory, train_quickly


def test_the_fastest_count_is_chosen_and_the_setting_left_alone(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    before = torch.get_num_threads()
    for measured, count in (([3.0, 2.0, 1.0], 4), ([1.0, 2.0, 3.0], 1), ([1.05, 1.0, 1.5], 1)):
        times = iter(measured)
        monkeypatch.setattr(threads, "_seconds_of_work", lambda times=times: next(times))
        choice = choose_threads()
        assert choice.count == count
        assert "measured" in choice.reason
    assert torch.get_num_threads() == before


def test_a_persons_own_setting_decides(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose_threads().count == 3


def test_measuring_is_real_and_quick(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert choose_threads(most=2).count in (1, 2)


def test_memory_is_asked_to_be_kept_where_there_is_glibc_and_nowhere_else_is_a_problem(monkeypatch):
    asked = []

    class Library:
        def mallopt(self, option: int, size: int) -> int:
            asked.append((option, size))
            return 1

    monkeypatch.setattr("ctypes.CDLL", lambda _: Library())
    keep_memory(7)
    assert asked == [(-3, 7), (-1, 7)]
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())  # as on a Mac
    keep_memory()


def test_who_trains_counts_the_smallest_numbers_as_0():
    small = torch.full((4,), 1e-30)
    try:
        train_quickly()
        assert (small * 1e-10 == 0).all()
    finally:
        torch.set_flush_denormal(False)
    assert (small * 1e-10 > 0).all()
