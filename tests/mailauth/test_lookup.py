"""What is remembered counts as long as the answers that it rests on are still given."""

from relayproxy.api import Answer, DnsStatus
from relayproxy.mailauth.lookup import Memory

A = ("a.example", "TXT")
B = ("b.example", "TXT")


def answers(*names):
    return {name: Answer(DnsStatus.OK, (b"x",), 60) for name in names}


def peek_at(known):
    return lambda name, rdtype: known.get((name, rdtype))


def test_the_same_answers_give_the_same_result():
    memory, known = Memory(), answers(A, B)
    assert memory.find("key", peek_at(known)) is None
    memory.keep("key", "result", dict(known))
    assert memory.find("key", peek_at(known)) == "result"
    assert memory.find("other", peek_at(known)) is None


def test_another_answer_or_none_ends_it():
    memory, known = Memory(), answers(A, B)
    memory.keep("key", "result", dict(known))
    assert memory.find("key", peek_at({A: known[A]})) is None
    # An equal answer is another one: it may have come from a zone that has changed and changed back.
    assert memory.find("key", peek_at(known | answers(B))) is None
    assert memory.find("key", peek_at(known)) == "result"


def test_the_oldest_gives_way():
    memory = Memory(2)
    for key in (1, 2, 1, 3):
        memory.keep(key, f"result {key}", {})
    assert [memory.find(key, peek_at({})) for key in (1, 2, 3)] == ["result 1", None, "result 3"]


def test_what_rests_on_long_answers_is_not_kept():
    memory = Memory()
    for length, kept in ((2000, "result"), (4100, None)):
        known = {A: Answer(DnsStatus.OK, (b"x" * length, (10, "mx.example")), 60)}
        memory.keep("key", "result", known)
        assert memory.find("key", peek_at(known)) == kept
