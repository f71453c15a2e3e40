"""Contents of messages as hypothesis makes them: everything that is allowed, awkward things more often than by chance."""

from hypothesis import strategies as st


def contents() -> st.SearchStrategy[bytes]:
    """Messages without bare CR or LF and without NUL; some end without a line end, as only BDAT can send them."""
    octet = st.integers(1, 255).filter(lambda value: value not in (10, 13))
    line = st.one_of(
        st.lists(octet, max_size=60).map(bytes),
        st.sampled_from(
            [b"", b".", b"..", b".\t", b". .", b"From x", b"\xff\xfe", b" ", b"\t.", b"BDAT 1 LAST"]
        ),
        st.tuples(octet, st.integers(500, 3000)).map(lambda pair: bytes((pair[0],)) * pair[1]),
    )
    body = st.lists(line, max_size=12)
    field = st.sampled_from(
        [b"Subject: a\r\n  b", b"X-Odd : x", b"To:\r\n\tb@example.net", b"X:" + b"y" * 990]
    )
    heads = st.lists(field, max_size=4)
    return st.tuples(heads, body, st.booleans()).map(
        lambda parts: (
            b"".join(line + b"\r\n" for line in [*parts[0], b"", *parts[1]])
            + (b"no line end" if parts[2] else b"")
        )
    )
