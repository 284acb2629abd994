from collections.abc import Callable, Mapping, Sequence
from typing import Any

def read_run(data: bytes, offset: int, sinks: dict[int, Any], contents: dict[int, Any]) -> tuple[int, int]: ...
def publish_run(
    channel: int,
    messages: Sequence[tuple[Any, ...]],
    frame_max: int,
    user_id: str | None,
    encode_table: Callable[[Mapping[str, str | int]], bytes],
    mandatory: bool = True,
) -> bytes | None: ...
def read_properties(raw: bytes, properties: object) -> bool: ...
