"""Inbound of one kind, in bundles."""

from __future__ import annotations

import asyncio

from worker.flow.lane import Lane


class Hands:
    """A handler that notes its bundles and can be held up."""

    def __init__(self) -> None:
        self.bundles: list[list[str]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.bugs: list[BaseException] = []
        self.at_once = self.most_at_once = 0

    async def handle(self, items: list[str]) -> None:
        self.bundles.append(items)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.free.wait()
            if "bug" in items:
                raise RuntimeError("bug")
        finally:
            self.at_once -= 1


def lane(hands: Hands, *, at_once: int = 1) -> Lane[str]:
    return Lane("test", hands.handle, bundle=3, at_once=at_once, size_of=len, bundle_bytes=10, on_bug=hands.bugs.append)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_added_while_a_bundle_is_in_work_is_bundled() -> None:
    hands = Hands()
    hands.free.clear()
    made = lane(hands)
    for item in "abcde":
        made.add([item])
    await settle()
    assert hands.bundles == [["a"]]
    assert len(made) == 5, "in work counts as held"
    hands.free.set()
    await settle()
    assert hands.bundles == [["a"], ["b", "c", "d"], ["e"]]
    assert len(made) == 0


async def test_a_bundle_is_bounded_in_bytes_but_a_large_item_still_goes_alone() -> None:
    hands = Hands()
    made = lane(hands)
    made.add(["x" * 6, "y" * 4, "z", "w" * 50, "v"])
    await settle()
    assert [[len(item) for item in bundle] for bundle in hands.bundles] == [[6, 4], [1], [50], [1]]


async def test_no_more_bundles_are_in_work_than_it_has_hands() -> None:
    hands = Hands()
    hands.free.clear()
    made = lane(hands, at_once=2)
    made.add("abcdefghijkl")
    await settle()
    assert hands.most_at_once == 2
    hands.free.set()
    await settle()
    assert [item for bundle in hands.bundles for item in bundle] == list("abcdefghijkl")
    assert hands.most_at_once == 2


async def test_no_more_items_are_in_work_than_it_may_have_however_large_its_bundles() -> None:
    hands = Hands()
    hands.free.clear()
    made = lane(hands, at_once=5)
    made.most_in_work = 4
    made.add("abcdefghi")
    await settle()
    assert hands.bundles == [["a", "b", "c"], ["d"]]
    made.most_in_work = 5
    made.add("j")
    await settle()
    assert hands.bundles == [["a", "b", "c"], ["d"], ["e"]]
    hands.free.set()
    await settle()
    assert [item for bundle in hands.bundles for item in bundle] == list("abcdefghij")


async def test_what_nobody_has_begun_can_be_taken_back() -> None:
    hands = Hands()
    hands.free.clear()
    made = lane(hands)
    made.add("abcdef")
    await settle()
    assert made.take_waiting() == ["d", "e", "f"]
    assert len(made) == 3
    hands.free.set()
    await settle()
    assert hands.bundles == [["a", "b", "c"]]


async def test_a_handler_may_add_again_what_it_could_not_do() -> None:
    done: list[object] = []

    async def handle(items: list[str]) -> None:
        await asyncio.sleep(0)
        if len(done) == 0 and "second try" not in items:
            made.add(["second try"])
        else:
            done.extend(items)

    made: Lane[str] = Lane("again", handle, bundle=3, at_once=1, size_of=len, bundle_bytes=99, on_bug=done.append)
    made.add(["first try"])
    await settle()
    assert done == ["second try"]


async def test_a_bug_is_reported_and_does_not_stop_the_lane() -> None:
    hands = Hands()
    made = lane(hands)
    made.add(["bug"])
    made.add(["after"])
    await settle()
    assert [str(bug) for bug in hands.bugs] == ["bug"]
    assert hands.bundles[-1] == ["after"]


async def test_cancelling_drops_what_waits_and_what_is_in_work_and_takes_nothing_more() -> None:
    hands = Hands()
    hands.free.clear()
    made = lane(hands)
    made.add("abcdef")
    await settle()
    await made.cancel()
    made.add(["late"])
    hands.free.set()
    await settle()
    assert hands.bundles == [["a", "b", "c"]]
    assert (len(made), hands.at_once, hands.bugs) == (0, 0, [])
