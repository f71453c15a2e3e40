"""Inputs that are made to cost time: one character, or one small piece of grammar, again and again."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hostile:
    """`head`, then `piece` as often as it takes, then `tail`."""

    name: str
    piece: bytes
    head: bytes = b""
    tail: bytes = b""

    def make(self, size: int) -> bytes:
        """Return about `size` octets."""
        return self.head + self.piece * (size // len(self.piece)) + self.tail


HOSTILE = (
    Hostile("one word", b"a"),
    Hostile("one 8-bit word", "\u00e4".encode()),
    Hostile("odd octets", b"\xff"),
    Hostile("NULs", b"\0"),
    Hostile("digits", b"9"),
    Hostile("blanks", b" "),
    Hostile("blanks, then an end", b" ", b"a", b"b"),
    Hostile("tabs", b"\t"),
    Hostile("commas", b","),
    Hostile("semicolons", b";"),
    Hostile("colons", b":"),
    Hostile("dots", b"."),
    Hostile("labels", b"a."),
    Hostile("8-bit labels", "\u00e4.".encode()),
    Hostile("at signs", b"@"),
    Hostile("quotes", b'"'),
    Hostile("an open quote", b"a", b'"'),
    Hostile("backslashes", b"\\"),
    Hostile("a quote of backslashes", b"\\", b'"'),
    Hostile("quoted strings", b'"a" '),
    Hostile("open comments", b"("),
    Hostile("closed comments", b"(a)"),
    Hostile("nested comments", b"(", b"", b")"),
    Hostile("angle brackets", b"<"),
    Hostile("addresses", b"<a@b.example>, "),
    Hostile("routes", b"@a,"),
    Hostile("equal signs", b"="),
    Hostile("tags", b"a=b;"),
    Hostile("tag names", b"a;"),
    Hostile("b tags", b"b;b="),
    Hostile("encoded words, begun", b"=?"),
    Hostile("encoded words, nearly", b"=?utf-8?q?a"),
    Hostile("encoded words", b"=?utf-8?q?=C3?= "),
    Hostile("results", b"; spf=pass smtp.mailfrom=a"),
    Hostile("senders", b"envelope-from=", b"fail "),
    Hostile("receivers", b"receiver=", b"fail "),
    Hostile("macros", b"%{i}"),
    Hostile("mechanisms", b"a:b.example "),
    Hostile("blanks in a mechanism", b" ", b"a:", b"x"),
    Hostile("percent signs", b"%"),
    Hostile("slashes", b"/"),
    Hostile("parameters", b" A=b"),
    Hostile("plus signs", b"+41"),
    Hostile("line ends", b"\r\n"),
    Hostile("CRs", b"\r"),
    Hostile("LFs", b"\n"),
    Hostile("dots at line ends", b"\r\n."),
    Hostile("folds", b"\r\n "),
    Hostile("lines", b"\r\na"),
    Hostile("fields", b"\r\na:b"),
    Hostile("From fields", b"\r\nFrom: a@b.example"),
    Hostile("result fields", b"\r\nAuthentication-Results: mx.example.com; none"),
    Hostile("spf fields", b"\r\nReceived-SPF: fail receiver=mx.example.com envelope-from=a@example.org"),
    Hostile("indicator fields", b"\r\nBIMI-Location: a"),
    Hostile("seals", b"\r\nARC-Seal: i=1; a=rsa-sha256; cv=none; d=a.example; s=s; b=YQ=="),
    Hostile(
        "signatures", b"\r\nDKIM-Signature: v=1; a=rsa-sha256; d=a.example; s=s; h=from; bh=YQ==; b=YQ=="
    ),
    Hostile(
        "one signature, many names",
        b"from:",
        b"v=1; a=rsa-sha256; d=a.example; s=s; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=YQ==; h=",
        b"from\r\n\r\n",
    ),
    Hostile("Received fields", b"\r\nReceived: x"),
    Hostile("replies", b"250-x\r\n"),
    Hostile("srs", b"SRS0=", b"SRS0=abcdef=aa=a.example="),
)
