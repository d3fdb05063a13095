"""Batches made ahead of the step that takes them."""

import threading

from owl2.training.batches import _one_ahead


def test_the_first_batch_which_starts_the_workers_is_made_by_the_main_thread_and_the_next_ones_meanwhile():
    makers = []

    def items():
        for number in range(4):
            makers.append(threading.current_thread())
            yield number

    assert list(_one_ahead(items())) == [0, 1, 2, 3]
    assert makers[0] is threading.main_thread()
    assert all(maker is not threading.main_thread() for maker in makers[1:])


def test_a_batch_that_cannot_be_made_is_an_error_where_it_is_due():
    def items():
        yield 0
        raise ValueError("broken")

    taken, found = _one_ahead(items()), []
    try:
        for item in taken:
            found.append(item)
    except ValueError as error:
        found.append(str(error))
    assert found == [0, "broken"]
