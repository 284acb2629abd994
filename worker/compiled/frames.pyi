from typing import Any

def read_run(data: bytes, offset: int, sinks: dict[int, Any], contents: dict[int, Any]) -> tuple[int, int]: ...
def publish(
    channel: int,
    exchange: str,
    routing_key: str,
    body: bytes,
    frame_max: int,
    content_type: str | None,
    content_encoding: str | None,
    table: bytes | None,
    correlation_id: str | None,
    message_id: str,
    timestamp: int | None,
    type_: str | None,
    user_id: str | None,
    app_id: str | None,
    mandatory: bool = True,
) -> bytes | None: ...
def read_properties(raw: bytes, properties: object) -> bool: ...
