"""The log of several processes that write to one pipe."""

from service.stderr_log import MAX_WRITE_BYTES, _join_lines


def test_writes_are_whole_lines_that_a_pipe_keeps_together() -> None:
    """At most 4,096 bytes on Linux (man 7 pipe), unless one line is longer."""
    lines = [b"x" * size + b"\n" for size in (10, MAX_WRITE_BYTES - 12, 1, 1, 2 * MAX_WRITE_BYTES)]
    writes = list(_join_lines(lines))
    assert b"".join(writes) == b"".join(lines)
    assert [len(data) for data in writes] == [MAX_WRITE_BYTES, 4, 2 * MAX_WRITE_BYTES + 1]
    assert all(data.endswith(b"\n") for data in writes)
