"""The pieces that each grammar is made of, for nonsense that gets further than noise does."""

KEY = (
    b"v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/"
    b"byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
)
SIGNATURE_TAGS = (
    b"v=1", b"a=rsa-sha256", b"a=ed25519-sha256", b"c=relaxed/simple", b"d=example.org", b"s=sel", b"h=from:to:subject",
    b"bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", b"b=YWJj", b"t=1", b"x=99999999999", b"l=3", b"i=@example.org",
    b"q=dns/txt", b"z=a", b";", b"\r\n ", b"=", b":", b" ", b"xn--", b"\xc3\xa4",
)  # fmt: skip
SPF_TERMS = (
    b"v=spf1 ", b"ip4:192.0.2.0/24 ", b"ip6:::1/200 ", b"a:", b"mx/24//64 ", b"include:example.org ", b"redirect=",
    b"exp=example.org ", b"exists:%{ir}.%{v}", b"%{", b"%%", b"%{d2r+-}", b"ptr ", b"-all", b"?", b"/", b":", b"=", b" ",
    b"example.org", b"%{l1r-}", b"..", b"\xc3\xa4",
)  # fmt: skip
RESULTS_WORDS = (
    b"mx.example.com", b"; ", b"spf=pass", b"smtp.mailfrom=a@example.org", b'reason="a\\"b"', b"(", b")", b'"', b"\\",
    b"=", b".", b"/1", b"i=1;", b"dkim=fail", b"header.d", b"none", b"\r\n ", b"1", b"\xc3\xa4", b"arc=none",
)  # fmt: skip
FROM_WORDS = (
    b"a@example.org", b"<", b">", b'"', b"(", b")", b"\\", b",", b";", b":", b"=?utf-8?q?a=40b?=", b"@", b".", b"[", b"]",
    b" ", b"\r\n ", b"\r\nFrom: ", b"From", b"\xc3\xa4", b"Group:", b"\x00", b"xn--",
)  # fmt: skip
HEADER_LINES = (
    b"From: a@example.org\r\n", b"DKIM-Signature: ", b"ARC-Seal: ", b"ARC-Message-Signature: ",
    b"ARC-Authentication-Results: ", b"Authentication-Results: ", b"Received-SPF: fail receiver=", b"BIMI-Location: ",
    b"i=1; ", b"i=2; ", b"cv=none; ", b"\r\n", b" ", b":", b"\t", *SIGNATURE_TAGS, *RESULTS_WORDS,
)  # fmt: skip
ADDRESS_WORDS = (
    b"FROM:", b"TO:", b"<", b">", b"a@b.example", b'"', b"\\", b"@x,@y:", b"[192.0.2.1]", b" SIZE=", b" BODY=8BITMIME",
    b" NOTIFY=NEVER", b" ORCPT=rfc822;a", b" RET=FULL", b" ENVID=+41", b" AUTH=<>", b" SMTPUTF8", b"=", b"9" * 30,
    b"\xc3\xa4", b"postmaster", b".", b"@",
)  # fmt: skip
SRS_WORDS = (
    b"SRS0",
    b"SRS1",
    b"=",
    b"+",
    b"-",
    b"abcdef",
    b"aa",
    b"example.org",
    b"user",
    b'"',
    b"\\",
    b"@",
    b"\xc3\xa4",
)
