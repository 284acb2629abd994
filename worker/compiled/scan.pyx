# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled form of `worker.cim.scan`: one pass over the bytes of compact JSON, without a Python object for each value.

It answers None to whatever it cannot vouch for, floating-point numbers, keys with escapes and whatever is not JSON
included; then the pure form looks. `tests/unit/test_scan.py` holds both to the same answers.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

cdef enum:
    MAX_MEMBERS = 1024       # of all objects that are open at one time; more are left to the pure form
    MAX_SORTED = 32          # members of one object that are put in order; sorting more by insertion would take long
    INT64_SURE_DIGITS = 18


cdef struct Member:
    Py_ssize_t start     # of the key's opening quote
    Py_ssize_t key       # bytes of the key, without its quotes
    Py_ssize_t end       # one past the value


cdef struct Span:
    Py_ssize_t start
    Py_ssize_t end


cdef struct Scan:
    const unsigned char* text
    Py_ssize_t size
    char* out
    char* spare
    Member* members
    int open_members
    int max_depth
    bint not_ascii
    Span sender
    Span body_type
    Py_ssize_t timestamp # where the digits of the header's timestamp end, 0 for any other
    Span customer        # null, or empty where a member could be added to the header; start -1 when there is one


cdef int compare(const unsigned char* text, Member* one, Member* other) noexcept nogil:
    cdef Py_ssize_t shorter = one.key if one.key < other.key else other.key
    cdef int order = memcmp(text + one.start + 1, text + other.start + 1, shorter)
    if order:
        return order
    return (one.key > other.key) - (one.key < other.key)


cdef Py_ssize_t string_end(Scan* scan, Py_ssize_t at, bint is_key) noexcept nogil:
    """Return where the string that opens at `at` has ended, -1 if it is none that is written in the one short way."""
    cdef unsigned char byte, value
    at += 1
    while at < scan.size:
        byte = scan.text[at]
        if byte == c'"':
            return at + 1
        if byte < 0x20:
            return -1
        if byte >= 0x80:
            scan.not_ascii = True
        elif byte == c'\\':
            if is_key or at + 1 >= scan.size:
                return -1
            at += 1
            byte = scan.text[at]
            if byte == c'u':
                if at + 4 >= scan.size or scan.text[at + 1] != c'0' or scan.text[at + 2] != c'0':
                    return -1
                byte = scan.text[at + 4]
                if c'0' <= byte <= c'9':
                    value = byte - c'0'
                elif c'a' <= byte <= c'f':
                    value = byte - c'a' + 10
                else:
                    return -1
                if scan.text[at + 3] == c'1':
                    value += 16
                elif scan.text[at + 3] != c'0':
                    return -1
                if value == 8 or value == 9 or value == 10 or value == 12 or value == 13:
                    return -1  # these have shorter names
                at += 4
            elif not (byte == c'"' or byte == c'\\' or byte == c'b' or byte == c'f' or byte == c'n'
                      or byte == c'r' or byte == c't'):
                return -1
        at += 1
    return -1


cdef Py_ssize_t integer_end(Scan* scan, Py_ssize_t at) noexcept nogil:
    cdef Py_ssize_t first
    cdef bint negative = scan.text[at] == c'-'
    if negative:
        at += 1
    first = at
    while at < scan.size and c'0' <= scan.text[at] <= c'9':
        at += 1
    if at == first or at - first > INT64_SURE_DIGITS:
        return -1
    if scan.text[first] == c'0' and (at - first > 1 or negative):
        return -1
    if at < scan.size and (scan.text[at] == c'.' or scan.text[at] == c'e' or scan.text[at] == c'E'):
        return -1
    return at


cdef bint follows(Scan* scan, Py_ssize_t at, const char* word, Py_ssize_t length) noexcept nogil:
    return at + length <= scan.size and memcmp(scan.text + at, word, length) == 0


cdef Py_ssize_t value_end(Scan* scan, Py_ssize_t at, int depth, int place) noexcept nogil:
    """Return where the value at `at` has ended, -1 for what cannot be vouched for. `place`: 1 message, 2 header, 3 body."""
    cdef unsigned char byte
    if at >= scan.size:
        return -1
    byte = scan.text[at]
    if byte == c'"':
        return string_end(scan, at, False)
    if byte == c'{':
        return object_end(scan, at, depth + 1, place)
    if byte == c'[':
        return array_end(scan, at, depth + 1)
    if byte == c't':
        return at + 4 if follows(scan, at, b"true", 4) else -1
    if byte == c'f':
        return at + 5 if follows(scan, at, b"false", 5) else -1
    if byte == c'n':
        return at + 4 if follows(scan, at, b"null", 4) else -1
    return integer_end(scan, at)


cdef Py_ssize_t array_end(Scan* scan, Py_ssize_t at, int depth) noexcept nogil:
    if depth > scan.max_depth:
        return -1
    at += 1
    if at < scan.size and scan.text[at] == c']':
        return at + 1
    while True:
        at = value_end(scan, at, depth, 0)
        if at < 0 or at >= scan.size:
            return -1
        if scan.text[at] == c']':
            return at + 1
        if scan.text[at] != c',':
            return -1
        at += 1


cdef Py_ssize_t object_end(Scan* scan, Py_ssize_t at, int depth, int place) noexcept nogil:
    cdef int first = scan.open_members
    cdef bint in_order = True
    cdef Member* member
    cdef Py_ssize_t start = at + 1
    cdef Py_ssize_t key_end
    cdef int inner
    if depth > scan.max_depth:
        return -1
    at += 1
    if at < scan.size and scan.text[at] == c'}':
        return at + 1
    while True:
        if scan.open_members >= MAX_MEMBERS or at >= scan.size or scan.text[at] != c'"':
            return -1
        key_end = string_end(scan, at, True)
        if key_end < 0 or key_end >= scan.size or scan.text[key_end] != c':':
            return -1
        member = &scan.members[scan.open_members]
        scan.open_members += 1
        member.start = at
        member.key = key_end - at - 2
        if scan.open_members - first > 1 and compare(scan.text, member - 1, member) >= 0:
            in_order = False
        inner = 0
        if place == 1:
            if member.key == 6 and follows(scan, at + 1, b"header", 6):
                inner = 2
            elif member.key == 4 and follows(scan, at + 1, b"body", 4):
                inner = 3
        at = value_end(scan, key_end + 1, depth, inner)
        if at < 0 or at >= scan.size:
            return -1
        member.end = at
        if place == 2 and member.key == 6 and follows(scan, member.start + 1, b"sender", 6):
            scan.sender = Span(key_end + 1, at)
        elif place == 2 and member.key == 8 and follows(scan, member.start + 1, b"customer", 8):
            scan.customer = Span(key_end + 1 if follows(scan, key_end + 1, b"null", 4) else -1, at)
        elif place == 2 and member.key == 9 and follows(scan, member.start + 1, b"timestamp", 9):
            scan.timestamp = at if c'1' <= scan.text[key_end + 1] <= c'9' else 0
        elif place == 3 and member.key == 4 and follows(scan, member.start + 1, b"type", 4):
            scan.body_type = Span(key_end + 1, at)
        if scan.text[at] == c'}':
            break
        if scan.text[at] != c',':
            return -1
        at += 1
    if not in_order and not put_in_order(scan, first, start):
        return -1
    scan.open_members = first
    if place == 2 and scan.customer.start == 0:
        scan.customer = Span(at, at)
    return at + 1


cdef bint put_in_order(Scan* scan, int first, Py_ssize_t start) noexcept nogil:
    """Write the members from `first` on in the order of their keys, from `start` of the output; False if two are the same, or if there are many."""
    cdef int count = scan.open_members - first
    cdef Member* members = scan.members + first
    cdef Member moving
    cdef int at, to
    cdef Py_ssize_t size, offset = 0
    if count > MAX_SORTED:
        return False
    for at in range(1, count):
        moving = members[at]
        to = at
        while to > 0 and compare(scan.text, &members[to - 1], &moving) > 0:
            members[to] = members[to - 1]
            to -= 1
        members[to] = moving
    for at in range(count):
        if at and compare(scan.text, &members[at - 1], &members[at]) == 0:
            return False
        if at:
            scan.spare[offset] = c','
            offset += 1
        size = members[at].end - members[at].start
        memcpy(scan.spare + offset, scan.out + members[at].start, size)
        offset += size
    memcpy(scan.out + start, scan.spare, offset)
    return True


def scan(bytes body not None, int max_depth):
    """As `worker.cim.scan.scan_purely`, but without the document."""
    cdef Scan work
    cdef Member members[MAX_MEMBERS]
    cdef Py_ssize_t end, size = PyBytes_GET_SIZE(body)
    cdef bytes content
    if size == 0 or PyBytes_AS_STRING(body)[0] != c'{':
        return None
    content = PyBytes_FromStringAndSize(PyBytes_AS_STRING(body), size)
    work.text = <const unsigned char*> PyBytes_AS_STRING(body)
    work.size = size
    work.out = PyBytes_AS_STRING(content)
    work.spare = <char*> malloc(size)
    if work.spare is NULL:
        raise MemoryError
    work.members = members
    work.open_members = 0
    work.max_depth = max_depth
    work.not_ascii = False
    work.sender = Span(0, 0)
    work.body_type = Span(0, 0)
    work.timestamp = 0
    work.customer = Span(0, 0)
    end = value_end(&work, 0, 0, 1)
    free(work.spare)
    if end != size or not work.sender.end or not work.body_type.end:
        return None
    if work.not_ascii:
        try:
            PyUnicode_DecodeUTF8(PyBytes_AS_STRING(body), size, NULL)
        except UnicodeDecodeError:
            return None
    return (
        content,
        body[work.sender.start : work.sender.end],
        body[work.body_type.start : work.body_type.end],
        None,
        None if work.customer.start < 0 else (work.customer.start, work.customer.end),
        work.timestamp,
    )
