# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled form of what `worker.rabbit` does with the bytes of every message.

It does the usual case only: a whole delivery or confirm in the buffer, a publish without headers whose strings fit.
The rest is left to the Python form, which does everything. `tests/unit/test_compiled_frames.py` holds both to the same answers.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object string, Py_ssize_t* size) except NULL

cdef enum:
    FRAME_METHOD = 1
    FRAME_HEADER = 2
    FRAME_BODY = 3
    FRAME_END = 0xCE
    OVERHEAD = 8
    BASIC_CLASS = 60
    DELIVER = 60
    ACK = 80
    NACK = 120
    SHORT = 255

ctypedef const unsigned char* Bytes


cdef inline unsigned int u16(Bytes at) noexcept nogil:
    return (at[0] << 8) | at[1]


cdef inline unsigned long long u32(Bytes at) noexcept nogil:
    return (<unsigned long long> at[0] << 24) | (at[1] << 16) | (at[2] << 8) | at[3]


cdef inline unsigned long long u64(Bytes at) noexcept nogil:
    return (u32(at) << 32) | u32(at + 4)


cdef inline Py_ssize_t frame_end(Bytes data, Py_ssize_t at, Py_ssize_t size) noexcept nogil:
    """Return where the frame at `at` ends, 0 unless it is here as a whole."""
    cdef unsigned long long end
    if size - at < OVERHEAD:
        return 0
    end = at + OVERHEAD + u32(data + at + 3)
    if end > <unsigned long long> size or data[end - 1] != FRAME_END:
        return 0
    return <Py_ssize_t> end


cdef inline str text(Bytes at):
    """Return the short string at `at`."""
    return PyUnicode_DecodeUTF8(<const char*> at + 1, at[0], "replace")


def read_run(bytes data not None, Py_ssize_t offset, dict sinks not None, dict contents not None):
    """Give whole deliveries and confirms of the channels in *sinks* to them, from *offset* on.

    Return where it stopped, and how many frames it took: the next frame is another's, or not here as a whole.
    """
    cdef Bytes raw = <Bytes> PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t end, header, header_end, body, body_end, at, key
    cdef unsigned long long body_size
    cdef unsigned int channel, method
    cdef Py_ssize_t frames = 0
    while True:
        end = frame_end(raw, offset, size)
        if end < offset + 12 or raw[offset] != FRAME_METHOD or u16(raw + offset + 7) != BASIC_CLASS:
            return offset, frames
        channel = u16(raw + offset + 1)
        method = u16(raw + offset + 9)
        sink = sinks.get(channel)
        if sink is None:
            return offset, frames
        if method == ACK or method == NACK:
            if end < offset + 21 or channel in contents:
                return offset, frames
            sink.on_confirm(u64(raw + offset + 11), (raw[offset + 19] & 1) == 1, method == ACK)
            frames += 1
            offset = end
            continue
        if method != DELIVER:
            return offset, frames
        header = end
        header_end = frame_end(raw, header, size)
        if header_end < header + 22 or raw[header] != FRAME_HEADER or u16(raw + header + 1) != channel:
            return offset, frames
        body_size = u64(raw + header + 11)
        body = header_end
        body_end = frame_end(raw, body, size)
        if body_end == 0 or raw[body] != FRAME_BODY or u16(raw + body + 1) != channel:
            return offset, frames
        if u32(raw + body + 3) != body_size:
            return offset, frames
        at = offset + 12 + raw[offset + 11]     # behind the consumer tag
        key = at + 10 + raw[at + 9]             # behind the exchange
        if at + 9 >= end or key >= end or key + 1 + raw[key] > end - 1:
            return offset, frames
        sink.on_deliver(
            u64(raw + at),
            (raw[at + 8] & 1) == 1,
            text(raw + at + 9),
            text(raw + key),
            data[header + 19 : header_end - 1],
            data[body + 7 : body_end - 1],
        )
        frames += 3
        offset = body_end


cdef inline unsigned char* put16(unsigned char* to, unsigned int number) noexcept nogil:
    to[0] = number >> 8
    to[1] = number & 0xFF
    return to + 2


cdef inline unsigned char* put32(unsigned char* to, unsigned long long number) noexcept nogil:
    to[0] = (number >> 24) & 0xFF
    to[1] = (number >> 16) & 0xFF
    to[2] = (number >> 8) & 0xFF
    to[3] = number & 0xFF
    return to + 4


cdef inline unsigned char* put64(unsigned char* to, unsigned long long number) noexcept nogil:
    return put32(put32(to, number >> 32), <unsigned int> number)


cdef struct Text:
    const char* start
    Py_ssize_t size


cdef inline unsigned char* put_short(unsigned char* to, Text* string) noexcept nogil:
    to[0] = <unsigned char> string.size
    memcpy(to + 1, string.start, string.size)
    return to + 1 + string.size


cdef inline unsigned char* put_head(unsigned char* to, int kind, unsigned int channel, Py_ssize_t size) noexcept nogil:
    to[0] = kind
    return put32(put16(to + 1, channel), size)


cdef inline bint take(object string, Text* into, Py_ssize_t* total) except -1:
    """Point *into* at the UTF-8 of *string*, if there is one; False when it does not fit a short string."""
    into.start = NULL
    into.size = 0
    if string is not None:
        if type(string) is not str:
            return False
        into.start = PyUnicode_AsUTF8AndSize(string, &into.size)
        total[0] += into.size + 1
    return into.size <= SHORT


cdef struct Publish:
    Text exchange, key, kind, encoding, correlation, message, event, user, app
    Py_ssize_t names, props, size


cdef bint measure(tuple message, object user_id, bytes table, unsigned long long frame_max, Publish* into) except -1:
    """Take what *message*, an `Outgoing`, has to be written, and how long it is; False where the Python form is needed."""
    into.names = 0
    into.props = 3
    if type(message[3]) is not bytes or message[0] is None or message[1] is None or message[2] is None:
        return False
    into.size = PyBytes_GET_SIZE(<bytes> message[3])
    try:
        if not (
            take(message[0], &into.exchange, &into.names) and take(message[1], &into.key, &into.names)
            and take(message[8], &into.kind, &into.props) and take(message[9], &into.encoding, &into.props)
            and take(message[4], &into.correlation, &into.props) and take(message[2], &into.message, &into.props)
            and take(message[5], &into.event, &into.props) and take(user_id, &into.user, &into.props)
            and take(message[6], &into.app, &into.props)
        ):
            return False
    except UnicodeEncodeError:
        return False
    if message[7] is not None:
        into.props += 8
    if table is not None:
        into.props += PyBytes_GET_SIZE(table)
    return (
        <unsigned long long> into.size + OVERHEAD <= frame_max
        and <unsigned long long> into.props + OVERHEAD + 12 <= frame_max
    )


cdef inline unsigned char* put_optional(unsigned char* to, Text* string) noexcept nogil:
    return to if string.start is NULL else put_short(to, string)


cdef unsigned char* put_publish(
    unsigned char* to, unsigned int channel, tuple message, bytes table, Publish* of, bint mandatory
) except NULL:
    cdef unsigned int flags = 1 << 12 | 1 << 7
    to = put_head(to, FRAME_METHOD, channel, 7 + of.names)
    to = put16(put32(to, 0x003C0028), 0)
    to = put_short(put_short(to, &of.exchange), &of.key)
    to[0] = 1 if mandatory else 0
    to[1] = FRAME_END
    to = put_head(to + 2, FRAME_HEADER, channel, 12 + of.props)
    to = put64(put16(put16(to, BASIC_CLASS), 0), of.size)
    if of.kind.start is not NULL:
        flags |= 1 << 15
    if of.encoding.start is not NULL:
        flags |= 1 << 14
    if table is not None:
        flags |= 1 << 13
    if of.correlation.start is not NULL:
        flags |= 1 << 10
    if message[7] is not None:
        flags |= 1 << 6
    if of.event.start is not NULL:
        flags |= 1 << 5
    if of.user.start is not NULL:
        flags |= 1 << 4
    if of.app.start is not NULL:
        flags |= 1 << 3
    to = put_optional(put_optional(put16(to, flags), &of.kind), &of.encoding)
    if table is not None:
        memcpy(to, PyBytes_AS_STRING(table), PyBytes_GET_SIZE(table))
        to += PyBytes_GET_SIZE(table)
    to[0] = 2                                   # persistent
    to = put_short(put_optional(to + 1, &of.correlation), &of.message)
    if message[7] is not None:
        to = put64(to, message[7])
    to = put_optional(put_optional(put_optional(to, &of.event), &of.user), &of.app)
    to[0] = FRAME_END
    to += 1
    if of.size:
        to = put_head(to, FRAME_BODY, channel, of.size)
        memcpy(to, PyBytes_AS_STRING(<bytes> message[3]), of.size)
        to[of.size] = FRAME_END
        to += of.size + 1
    return to


def publish_run(
    unsigned int channel, messages not None, unsigned long long frame_max, user_id, encode_table,
    bint mandatory = True,
):
    """Return persistent publishes of *messages*, each an `Outgoing`, in a row, as the Python form writes them.

    *encode_table* writes headers. None when one has a reply address, a string too long for a short string, or no
    Unicode, or frames larger than *frame_max*.
    """
    cdef Py_ssize_t total = 0, count = len(messages), at
    cdef Publish* parts = <Publish*> malloc(count * sizeof(Publish))
    cdef list tables = []
    cdef tuple message
    cdef bytes table, run
    cdef unsigned char* to
    if parts is NULL:
        raise MemoryError
    try:
        for at in range(count):
            message = <tuple> messages[at]      # a named tuple is one, though not exactly
            table = encode_table(message[10]) if message[10] else None
            tables.append(table)
            if message[11] is not None or not measure(message, user_id, table, frame_max, &parts[at]):
                return None
            total += OVERHEAD + 7 + parts[at].names + OVERHEAD + 12 + parts[at].props
            total += OVERHEAD + parts[at].size if parts[at].size else 0
        run = PyBytes_FromStringAndSize(NULL, total)
        to = <unsigned char*> PyBytes_AS_STRING(run)
        for at in range(count):
            to = put_publish(to, channel, <tuple> messages[at], <bytes> tables[at], &parts[at], mandatory)
        return run
    finally:
        free(parts)


cdef inline Py_ssize_t short_end(Bytes raw, Py_ssize_t at, Py_ssize_t size) noexcept nogil:
    """Return where the short string at `at` ends, 0 when it runs past *size*."""
    if at >= size or at + 1 + raw[at] > size:
        return 0
    return at + 1 + raw[at]


def read_properties(bytes raw not None, properties):
    """Set on *properties* what *raw*, the properties of a message, holds; False unless all of it is as it should be.

    After False some of it may be set: the Python form has to begin anew.
    """
    cdef Bytes at = <Bytes> PyBytes_AS_STRING(raw)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(raw), offset = 2, end
    cdef unsigned int flags
    cdef int bit
    if size < 2:
        return False
    flags = u16(at)
    if flags & 7:
        return False
    for bit in range(15, 2, -1):
        if not flags & (1 << bit):
            continue
        if bit == 13:
            if size - offset < 4 or offset + 4 + u32(at + offset) > <unsigned long long> size:
                return False
            end = offset + 4 + <Py_ssize_t> u32(at + offset)
            if not read_table(at, offset + 4, end, properties.headers):
                return False
        elif bit == 12 or bit == 11:
            if offset >= size:
                return False
            end = offset + 1
            if bit == 12:
                properties.delivery_mode = at[offset]
            else:
                properties.priority = at[offset]
        elif bit == 6:
            if offset + 8 > size:
                return False
            end = offset + 8
            properties.timestamp = u64(at + offset)
        else:
            end = short_end(at, offset, size)
            if end == 0:
                return False
            set_short(properties, bit, text(at + offset))
        offset = end
    return offset <= size


cdef int set_short(properties, int bit, str value) except -1:
    if bit == 15:
        properties.content_type = value
    elif bit == 14:
        properties.content_encoding = value
    elif bit == 10:
        properties.correlation_id = value
    elif bit == 9:
        properties.reply_to = value
    elif bit == 8:
        properties.expiration = value
    elif bit == 7:
        properties.message_id = value
    elif bit == 5:
        properties.type = value
    elif bit == 4:
        properties.user_id = value
    else:
        properties.app_id = value
    return 0


cdef bint read_table(Bytes raw, Py_ssize_t at, Py_ssize_t end, dict into) except -1:
    """Read a header table of the usual kinds of values; False at any other."""
    cdef Py_ssize_t key
    cdef unsigned char kind
    cdef unsigned long long length
    cdef str name
    while at < end:
        key = short_end(raw, at, end)
        if key == 0 or key >= end:
            return False
        name = text(raw + at)
        kind = raw[key]
        at = key + 1
        if kind == c'S':
            if end - at < 4:
                return False
            length = u32(raw + at)
            if at + 4 + length > <unsigned long long> end:
                return False
            try:
                into[name] = PyUnicode_DecodeUTF8(<const char*> raw + at + 4, length, NULL)
            except UnicodeDecodeError:
                return False
            at += 4 + <Py_ssize_t> length
        elif kind == c'l':
            if end - at < 8:
                return False
            into[name] = <long long> u64(raw + at)
            at += 8
        elif kind == c'I':
            if end - at < 4:
                return False
            into[name] = <int> <unsigned int> u32(raw + at)
            at += 4
        elif kind == c't':
            if at >= end:
                return False
            into[name] = raw[at] != 0
            at += 1
        else:
            return False
    return True
