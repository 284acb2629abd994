# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled form of what `worker.mongo.activities` makes of an activity: BSON straight from the JSON that a message and the registry brought.

It answers None to whatever it has no short way for, and the Python form writes that. `tests/unit/test_activity_document.py`
holds both to the same bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object string, Py_ssize_t* size) except NULL
    double PyOS_string_to_double(const char* text, char** end, void* overflow) except? -1.0

cdef enum:
    DOUBLE = 0x01
    STRING = 0x02
    OBJECT = 0x03
    ARRAY = 0x04
    OBJECT_ID = 0x07
    BOOLEAN = 0x08
    DATE = 0x09
    NULL_VALUE = 0x0A
    INT32 = 0x10
    INT64 = 0x12
    DEEPEST = 200
    SURE_DIGITS = 18
    LARGEST = 64 * 1024 * 1024   # of what is written; more is refused by the store anyway


cdef struct Out:
    char* data
    Py_ssize_t size
    Py_ssize_t room


cdef struct Text:
    const char* start
    Py_ssize_t size


cdef int need(Out* out, Py_ssize_t more) noexcept nogil:
    """Have room for *more* bytes; -1 when there is none."""
    cdef Py_ssize_t room
    cdef char* data
    if out.size + more <= out.room:
        return 0
    room = (out.size + more) * 2
    if room > LARGEST:
        return -1
    data = <char*> realloc(out.data, room)
    if data is NULL:
        return -1
    out.data = data
    out.room = room
    return 0


cdef void write_at(Out* out, Py_ssize_t at, unsigned long long number, int count) noexcept nogil:
    cdef int index
    for index in range(count):
        out.data[at + index] = <char> (number & 0xFF)
        number >>= 8


cdef int put(Out* out, const char* start, Py_ssize_t size) noexcept nogil:
    if need(out, size) < 0:
        return -1
    memcpy(out.data + out.size, start, size)
    out.size += size
    return 0


cdef int put_number(Out* out, unsigned long long number, int count) noexcept nogil:
    if need(out, count) < 0:
        return -1
    write_at(out, out.size, number, count)
    out.size += count
    return 0


cdef int put_byte(Out* out, int byte) noexcept nogil:
    return put_number(out, byte, 1)


cdef int name(Out* out, int kind, const char* key, Py_ssize_t size) noexcept nogil:
    """Begin an element: its kind and its name."""
    if need(out, size + 2) < 0:
        return -1
    out.data[out.size] = <char> kind
    memcpy(out.data + out.size + 1, key, size)
    out.size += size + 2
    out.data[out.size - 1] = 0
    return 0


cdef Py_ssize_t begin(Out* out) noexcept nogil:
    """Leave room for the length of a document; return where."""
    if put_number(out, 0, 4) < 0:
        return -1
    return out.size - 4


cdef int end(Out* out, Py_ssize_t started) noexcept nogil:
    if started < 0 or put_byte(out, 0) < 0:
        return -1
    write_at(out, started, out.size - started, 4)
    return 0


cdef Py_ssize_t key_end(const char* text, Py_ssize_t at) noexcept nogil:
    """Return where the key whose first character is at `at` ends; -1 for one with escapes."""
    while text[at] != c'"':
        if text[at] == c'\\' or text[at] == 0:
            return -1
        at += 1
    return at


cdef Py_ssize_t string(Out* out, const char* text, Py_ssize_t at) noexcept nogil:
    """Write the string that opens at `at`; return where it has ended, -1 for escapes that the serialiser does not write."""
    cdef Py_ssize_t started = out.size, run
    cdef char byte
    cdef int high, low
    if put_number(out, 0, 4) < 0:
        return -1
    at += 1
    while True:
        run = at
        while text[at] != c'"' and text[at] != c'\\' and text[at] != 0:
            at += 1
        if put(out, text + run, at - run) < 0 or text[at] == 0:
            return -1
        if text[at] == c'"':
            break
        byte = text[at + 1]
        at += 2
        if byte == c'n':
            byte = c'\n'
        elif byte == c't':
            byte = c'\t'
        elif byte == c'r':
            byte = c'\r'
        elif byte == c'b':
            byte = 8
        elif byte == c'f':
            byte = 12
        elif byte == c'u':
            if text[at] != c'0' or text[at + 1] != c'0':
                return -1
            high = hex_digit(text[at + 2])
            low = hex_digit(text[at + 3]) if high >= 0 else -1
            if low < 0 or high > 7:
                return -1
            byte = <char> (high * 16 + low)
            at += 4
        elif byte != c'"' and byte != c'\\':
            return -1
        if put_byte(out, byte) < 0:
            return -1
    if put_byte(out, 0) < 0:
        return -1
    write_at(out, started, out.size - started - 4, 4)
    return at + 1


cdef inline int hex_digit(char digit) noexcept nogil:
    if c'0' <= digit <= c'9':
        return digit - c'0'
    if c'a' <= digit <= c'f':
        return digit - c'a' + 10
    return -1


cdef Py_ssize_t number(Out* out, Py_ssize_t kind_at, const char* text, Py_ssize_t at):
    """Write a number; its kind goes to `kind_at`."""
    cdef Py_ssize_t first = at
    cdef bint negative = text[at] == c'-'
    cdef long long value = 0
    cdef double fraction
    cdef char* ended
    cdef unsigned long long bits
    if negative:
        at += 1
    while c'0' <= text[at] <= c'9':
        value = value * 10 + (text[at] - c'0') if at - first <= SURE_DIGITS else value
        at += 1
    if text[at] == c'.' or text[at] == c'e' or text[at] == c'E':
        fraction = PyOS_string_to_double(text + first, &ended, NULL)
        memcpy(&bits, &fraction, 8)
        out.data[kind_at] = DOUBLE
        return ended - text if put_number(out, bits, 8) == 0 else -1
    if at == first + negative or at - first > SURE_DIGITS:
        return -1
    if negative:
        value = -value
    if -0x80000000 <= value <= 0x7FFFFFFF:
        out.data[kind_at] = INT32
        return at if put_number(out, <unsigned long long> value, 4) == 0 else -1
    out.data[kind_at] = INT64
    return at if put_number(out, <unsigned long long> value, 8) == 0 else -1


cdef Py_ssize_t value(Out* out, Py_ssize_t kind_at, const char* text, Py_ssize_t at, int depth):
    """Write the value at `at`, of an element whose kind stands at `kind_at`; return where it has ended, or -1."""
    cdef char first = text[at]
    if first == c'"':
        out.data[kind_at] = STRING
        return string(out, text, at)
    if first == c'{':
        out.data[kind_at] = OBJECT
        return members(out, text, at, depth + 1, False)
    if first == c'[':
        out.data[kind_at] = ARRAY
        return items(out, text, at, depth + 1)
    if first == c'n':
        out.data[kind_at] = NULL_VALUE
        return at + 4
    if first == c't' or first == c'f':
        out.data[kind_at] = BOOLEAN
        if put_byte(out, first == c't') < 0:
            return -1
        return at + (4 if first == c't' else 5)
    return number(out, kind_at, text, at)


cdef Py_ssize_t members(Out* out, const char* text, Py_ssize_t at, int depth, bint renames):
    """Write an object as a document; with *renames* its member `id` is called `_id`."""
    cdef Py_ssize_t started = begin(out), key, kind_at
    if started < 0 or depth > DEEPEST:
        return -1
    at += 1
    while text[at] != c'}':
        if text[at] == c',':
            at += 1
        if text[at] != c'"':
            return -1
        key = at + 1
        at = key_end(text, key)
        if at < 0 or text[at + 1] != c':':
            return -1
        kind_at = out.size
        if renames and at - key == 3 and memcmp(text + key, b"_id", 3) == 0:
            return -1
        if renames and at - key == 2 and memcmp(text + key, b"id", 2) == 0:
            if name(out, 0, b"_id", 3) < 0:
                return -1
        elif name(out, 0, text + key, at - key) < 0:
            return -1
        at = value(out, kind_at, text, at + 2, depth)
        if at < 0:
            return -1
    return at + 1 if end(out, started) == 0 else -1


cdef Py_ssize_t items(Out* out, const char* text, Py_ssize_t at, int depth):
    """Write an array: a document whose names are numbers."""
    cdef Py_ssize_t started = begin(out), kind_at, number, size
    cdef char digits[20]
    cdef Py_ssize_t index = 0
    if started < 0 or depth > DEEPEST:
        return -1
    at += 1
    while text[at] != c']':
        if text[at] == c',':
            at += 1
        size = 20
        number = index
        while True:
            size -= 1
            digits[size] = <char> (c'0' + number % 10)
            number //= 10
            if number == 0:
                break
        kind_at = out.size
        if name(out, 0, digits + size, 20 - size) < 0:
            return -1
        at = value(out, kind_at, text, at, depth)
        if at < 0 or (text[at] != c',' and text[at] != c']'):
            return -1
        index += 1
    return at + 1 if end(out, started) == 0 else -1


cdef int put_text(Out* out, const char* key, Py_ssize_t size, str text) except -2:
    """Write a string, or null."""
    cdef Text utf8
    if text is None:
        return name(out, NULL_VALUE, key, size)
    utf8.start = PyUnicode_AsUTF8AndSize(text, &utf8.size)
    if name(out, STRING, key, size) < 0 or put_number(out, utf8.size + 1, 4) < 0:
        return -1
    return put(out, utf8.start, utf8.size + 1)  # Python ends it with a zero byte, too


cdef int put_date(Out* out, const char* key, Py_ssize_t size, long long milliseconds) noexcept nogil:
    if name(out, DATE, key, size) < 0:
        return -1
    return put_number(out, <unsigned long long> milliseconds, 8)


cdef int put_json(Out* out, const char* key, Py_ssize_t size, bytes json, bint renames) except -2:
    """Write the document in an object's JSON, or null."""
    if json is None:
        return name(out, NULL_VALUE, key, size)
    if PyBytes_AS_STRING(json)[0] != c'{' or name(out, OBJECT, key, size) < 0:
        return -1
    return 0 if members(out, PyBytes_AS_STRING(json), 0, 1, renames) == PyBytes_GET_SIZE(json) else -1


cdef int put_object_id(Out* out, str digits) except -2:
    cdef bytes raw = bytes.fromhex(digits)
    if PyBytes_GET_SIZE(raw) != 12 or name(out, OBJECT_ID, b"_id", 3) < 0:
        return -1
    return put(out, PyBytes_AS_STRING(raw), 12)


cdef int put_event(
    Out* out, str event_id, str event_name, str event_type, long long timestamp, str conversation_id,
    bytes sender, bytes channel_session, bytes data, bytes room,
) except -2:
    cdef Py_ssize_t started
    if name(out, OBJECT, b"activity", 8) < 0:
        return -1
    started = begin(out)
    if (
        put_text(out, b"_id", 3, event_id) < 0
        or put_text(out, b"name", 4, event_name) < 0
        or put_text(out, b"type", 4, event_type) < 0
        or put_date(out, b"timestamp", 9, timestamp) < 0
        or put_text(out, b"conversationId", 14, conversation_id) < 0
        or put_json(out, b"eventEmitter", 12, sender, False) < 0
        or put_json(out, b"channelSession", 14, channel_session, True) < 0
        or put_json(out, b"data", 4, data, False) < 0
        or put_json(out, b"roomInfo", 8, room, True) < 0
    ):
        return -1
    return end(out, started)


def activity(
    str event_id not None,
    str customer_id,
    str conversation_id,
    str channel_session_id,
    str room_id,
    str event_name not None,
    str event_type not None,
    long long timestamp,
    bytes sender not None,
    bytes channel_session,
    bytes data not None,
    bytes room,
    long long created,
    str message_id not None,
    str stored_because,
):
    """Return the document of an activity as BSON, None where it is left to the Python form. The JSON is compact and valid."""
    cdef Out out
    cdef Py_ssize_t started
    out.data = NULL
    out.size = 0
    out.room = 0
    try:
        if need(&out, PyBytes_GET_SIZE(data) + 1024) < 0:
            return None
        started = begin(&out)
        if (
            put_object_id(&out, event_id) < 0
            or put_text(&out, b"customerId", 10, customer_id) < 0
            or put_text(&out, b"conversationId", 14, conversation_id) < 0
            or put_text(&out, b"channelSessionId", 16, channel_session_id) < 0
            or put_text(&out, b"roomId", 6, room_id) < 0
            or put_event(
                &out, event_id, event_name, event_type, timestamp, conversation_id, sender, channel_session, data, room
            ) < 0
            or put_date(&out, b"timestamp", 9, timestamp) < 0
            or put_date(&out, b"recordCreationTime", 18, created) < 0
            or put_text(&out, b"messageId", 9, message_id) < 0
            or put_text(&out, b"storedBecause", 13, stored_because) < 0
            or end(&out, started) < 0
        ):
            return None
        return PyBytes_FromStringAndSize(out.data, out.size)
    except UnicodeEncodeError:
        return None
    finally:
        free(out.data)
