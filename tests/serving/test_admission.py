"""Who enters the engine, in which order, and who is sent away."""

import asyncio

import pytest

from owl2.serving.engine.admission import Admission, AdmissionLimits
from owl2.serving.engine.errors import DeadlineExceeded, InvalidRequest, Overloaded, ShuttingDown


def admission(running=1, queued=10, queued_per_client=5, queue_seconds=5.0, rate=0.0, tokens=100, **options):
    made = Admission(AdmissionLimits(running, queued, queued_per_client, queue_seconds, rate), **options)
    made.cache_tokens = tokens
    return made


async def hold(doors: Admission, client: str, entered: list[str], count: int = 1, tokens: int = 0) -> None:
    async with doors.places(client, count, tokens):
        entered.append(client)
        await asyncio.sleep(0)


def test_clients_take_turns_whatever_the_number_of_their_requests():
    async def check() -> list[str]:
        doors, entered = admission(queued_per_client=10, queued=20), []
        clients = "aaaaabbc"
        await asyncio.gather(*(hold(doors, client, entered) for client in clients))
        assert doors.running == doors.queued == 0
        return entered

    assert "".join(asyncio.run(check())) == "aabcabaa"  # the first found a free place, and then came to the queue


def test_one_more_than_the_queue_takes_is_sent_away():
    async def check() -> None:
        doors, entered = admission(queued=3, queued_per_client=2), []
        async with doors.places("x"):
            tasks = [asyncio.create_task(hold(doors, client, entered)) for client in "aab"]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="3 requests are waiting") as error:
                await hold(doors, "c", entered)
            assert error.value.status == 429 and error.value.retry_after
        await asyncio.gather(*tasks)
        async with doors.places("x"):
            tasks = [asyncio.create_task(hold(doors, "a", entered)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="2 requests of yours"):
                await hold(doors, "a", entered)
        await asyncio.gather(*tasks)
        assert len(entered) == 5

    asyncio.run(check())


def test_never_more_than_the_cache_holds_is_inside_and_large_requests_are_not_overtaken():
    async def check() -> None:
        doors, entered = admission(running=10, tokens=100), []
        async with doors.places("x", tokens=60):
            tasks = [
                asyncio.create_task(hold(doors, client, entered, tokens=tokens))
                for client, tokens in (("large", 50), ("small", 10))
            ]
            await asyncio.sleep(0.01)
            assert not entered and doors.reserved == 60
        await asyncio.gather(*tasks)
        assert entered == ["large", "small"] and doors.reserved == 0
        with pytest.raises(InvalidRequest):
            await hold(doors, "x", entered, tokens=101)
        with pytest.raises(InvalidRequest):
            await hold(doors, "x", entered, count=11)

    asyncio.run(check())


def test_who_waits_too_long_or_goes_away_leaves_the_queue():
    async def check() -> None:
        doors, entered = admission(queue_seconds=0.05), []
        async with doors.places("x"):
            gone = asyncio.create_task(hold(doors, "a", entered))
            await asyncio.sleep(0)
            gone.cancel()
            with pytest.raises(DeadlineExceeded):
                await hold(doors, "b", entered)
            assert doors.queued == 0
        await hold(doors, "c", entered)
        assert entered == ["c"] and doors.running == 0

    asyncio.run(check())


def test_each_client_has_its_own_rate_which_refills():
    async def check() -> None:
        now = [0.0]
        doors, entered = admission(rate=2, clock=lambda: now[0]), []
        for _ in range(2):
            await hold(doors, "a", entered)
        with pytest.raises(Overloaded, match="2 requests a minute") as error:
            await hold(doors, "a", entered)
        assert error.value.retry_after == pytest.approx(30)
        await hold(doors, "b", entered)
        now[0] = 31.0
        await hold(doors, "a", entered)
        now[0] = 300.0
        await hold(doors, "b", entered)
        assert list(doors._rates) == ["b"], "who has sent nothing for long is forgotten"

    asyncio.run(check())


def test_closed_doors_send_away_who_comes_and_who_waits():
    async def check() -> None:
        doors, entered = admission(), []
        async with doors.places("x"):
            waiting = asyncio.create_task(hold(doors, "a", entered))
            await asyncio.sleep(0)
            doors.close()
            for attempt in (waiting, hold(doors, "b", entered)):
                with pytest.raises(ShuttingDown):
                    await attempt

    asyncio.run(check())
