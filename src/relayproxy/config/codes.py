"""The codes of problems: what each means and what to do about it. Stable; docs/errors.md is made from here.

RP1xx YAML and keys, RP12x secrets, RP2xx values, RP3xx one part against another, RP4xx plugins, RP5xx files,
RP7xx safety, RP8xx rules.
"""

CODES: dict[str, tuple[str, str]] = {
    "RP101": (
        "unknown key",
        "No such key exists here. Keys are never ignored: a misspelt one would change nothing, silently.",
    ),
    "RP102": ("missing key", "A key that has no default must be there."),
    "RP103": ("duplicate key", "YAML readers disagree on which of two equal keys counts. Keep one."),
    "RP104": ("key is not text", "Keys are plain words; lists, mappings and merge keys (<<) can't be keys."),
    "RP105": (
        "looks like a boolean",
        "YAML 1.1 read yes, no, on and off as booleans; in YAML 1.2, which editors check, they are text. Write true or false.",
    ),
    "RP106": (
        "ambiguous number",
        "YAML 1.1 read 0600 as octal, 22:30 in base 60 and 1_000 as a thousand; in YAML 1.2 they are text. Write a plain number, or put quotes round what is meant as text.",
    ),
    "RP107": (
        "not YAML",
        "The file can't be parsed: a tab in the indentation, a missing colon, quote or bracket, more than one document, or nesting beyond all measure. Nothing behind this place was looked at.",
    ),
    "RP108": (
        "unreadable file",
        "The configuration file, one in conf.d beside it, or one that a RELAYPROXY__..._FILE variable names can't be read. As a warning: a file in conf.d is ignored, as only *.yaml is read there.",
    ),
    "RP109": (
        "environment variable",
        "RELAYPROXY__A__B sets the key a.b, RELAYPROXY__A__0__B the key b of the first element of the list a. This variable names nothing that is there, or has a single underscore where two are meant.",
    ),
    "RP110": ("wrong type", "Another kind of value is wanted here: text, a number, a list, a mapping."),
    "RP120": (
        "secret in the file",
        "Secrets are not written in the configuration: name the place they are kept in, as {env: NAME}, {file: path} or {credential: name}.",
    ),
    "RP121": (
        "secret can't be found",
        "A secret names one place, and something must be there: an environment variable that is set, a file that not everybody can read, or a credential that systemd hands over (LoadCredential=).",
    ),
    "RP201": ("unknown version", "This file is for another version of the format."),
    "RP202": ("not one of the choices", "Only certain words are known here."),
    "RP203": ("out of range", "The value is too small or too large."),
    "RP204": (
        "not a size",
        "A size is a number and a unit: 50 MB. kB, MB and GB are powers of 1000; KiB, MiB, GiB and the letters K, M and G alone are powers of 1024. A bare number counts octets.",
    ),
    "RP205": (
        "not a duration",
        "A duration is a number and a unit: 250ms, 30s, 5m, 1h30m, 7d. A bare number would hide its unit.",
    ),
    "RP206": (
        "not a network",
        "A network is an address with a prefix length and no host bits: 10.0.0.0/8, fd00::/8. A single address stands for itself.",
    ),
    "RP207": ("not an address", "Addresses are host:port, [v6]:port or unix:/path."),
    "RP208": (
        "not a domain",
        "Domains are written bare: example.org, or .example.org for all names below it.",
    ),
    "RP209": ("not a name", "Names are letters, digits, dots, dashes and underscores; at most 63."),
    "RP210": ("invalid value", "The value doesn't fit; the message says why."),
    "RP211": ("not a path", "A path of a file is wanted."),
    "RP212": ("not a known kind", "What is named here is of no kind that this version knows."),
    "RP301": (
        "no such upstream",
        "A route, a rule or an AUTH back end names an upstream that is not defined.",
    ),
    "RP302": ("no such listener", "A condition or a route names a listener that is not defined."),
    "RP303": (
        "no such plugin",
        "The pipeline names a plugin that is neither built in, installed, nor in a plugin folder.",
    ),
    "RP304": ("defined twice", "Two things have the same name, or two listeners the same address."),
    "RP305": ("can never be reached", "An earlier route takes everything that this one could."),
    "RP306": (
        "wrong order",
        "A plugin stands before one whose findings it reads, or plugins read each other's findings in a circle.",
    ),
    "RP308": ("nowhere to send", "There is more than one upstream and no route says which to use."),
    "RP309": ("contradiction", "Two settings exclude each other, or one is of no use without another."),
    "RP310": (
        "remembered by one process only",
        "A plugin, a warm-up or a rate counts or remembers something, and no `state` says where. Every worker then has counts of its own, and a reload or restart begins anew.",
    ),
    "RP401": (
        "plugin can't be used",
        "The plugin can't be loaded, or its hooks are not what they should be.",
    ),
    "RP402": ("plugin is there twice", "A plugin can stand in the pipeline once."),
    "RP403": (
        "plugin's settings don't fit",
        "A plugin looked at what its settings name, and something is not as it must be: a key or a list that is missing or unreadable, the name of a listener that there isn't.",
    ),
    "RP404": (
        "reads a plugin that doesn't exist",
        "A plugin's `after` names one that is neither built in, installed, nor in a plugin folder. One that exists and is not in the pipeline is fine.",
    ),
    "RP501": (
        "file or folder",
        "A certificate, key, CA file or folder is missing, unreadable, or doesn't fit.",
    ),
    "RP502": ("file permissions", "A private key or password file can be read by everybody."),
    "RP503": ("certificate ends soon", "A certificate has ended, or ends within two weeks."),
    "RP504": ("password file", "The password file is missing, unreadable or malformed."),
    "RP505": (
        "local address",
        "The address to send from is none of this machine. Mail goes from another source, or waits.",
    ),
    "RP701": ("open relay", "Strangers could send mail through this proxy to anywhere."),
    "RP702": ("trusts too many", "Peers in a very wide network may speak for other clients, or relay."),
    "RP703": ("passwords in the clear", "AUTH is offered, or used, without TLS that is verified."),
    "RP704": ("open to the world", "The monitoring port listens on a public address, without a password."),
    "RP705": ("too wide a domain", "The domain is one that others register names below."),
    "RP706": (
        "nobody may send",
        "Neither relay.domains nor relay.networks names anything and no listener has AUTH: every recipient is refused.",
    ),
    "RP801": (
        "no such fact",
        "A condition names something that rules don't know. Facts are listed in docs/rules-reference.md; what a plugin finds is finding.METHOD.",
    ),
    "RP802": (
        "no such operator",
        "A fact is compared by a word that is none of the operators in docs/rules-reference.md.",
    ),
    "RP803": ("no such action", "`then` has a word that is none of the actions in docs/rules-reference.md."),
    "RP804": (
        "doesn't fit the fact",
        "The operator, or the type of list, can't be used on a fact of this kind: numbers have no suffix, texts are not above anything.",
    ),
    "RP805": (
        "not a pattern",
        "Patterns are those of RE2, which looks at each character once: no backreferences, no look-ahead, no look-behind.",
    ),
    "RP806": ("rule does nothing", "A rule has no action, or a `match` with nothing in it."),
    "RP807": ("two rules of one name", "The id names a rule in logs, tests and reports; it is used once."),
    "RP808": ("no such list", "A condition names a list that is not defined under `lists:`."),
    "RP809": (
        "contradicts itself",
        "Two parts of a rule or list exclude each other, or a header field is not for rules to change.",
    ),
    "RP810": ("rule is never reached", "An earlier rule takes all mail that this one could act on."),
    "RP811": ("never matches", "The fact can never have this value, or two conditions exclude each other."),
    "RP812": (
        "placeholder",
        "A text in braces names a fact: {sender}. To write a brace, double it. Recipients are not put into headers, as that would give away a Bcc.",
    ),
    "RP813": (
        "not a reply",
        "reject takes codes 500 to 559, defer 400 to 459, but not 421; the status begins with the same digit; the text is US-ASCII.",
    ),
    "RP814": ("nothing asks the rules", "There are rules, and the pipeline has no entry `rules`."),
    "RP815": (
        "a test of the rules fails",
        "A test under `tests:` expects something that the rules don't do. The configuration is not taken until one of them is right.",
    ),
    "RP816": ("not a test", "A test has `given` and `expect`; both are mappings with known keys."),
    "RP819": (
        "finding is not there yet",
        "The rule reads what a plugin finds, and that plugin doesn't stand before `rules` in the pipeline: it would never match.",
    ),
    "RP820": ("list", "The list's file can't be read, or an item of it is none of the list's type."),
    "RP821": ("can't be skipped", "accept ends the rules; no check of the pipeline can be left out by name."),
    "RP822": ("not an address", "An address has one @, something before it and a domain behind it."),
    "RP823": ("not a rate", "A rate is a number, a slash and a time: 100/h, 10/m, 5/10m."),
    "RP824": ("list is not used", "No rule names this list."),
    "RP825": ("rule has ended", "`until` lies in the past: the rule does nothing any more."),
    "RP826": (
        "not an expression",
        '`when` is an expression in CEL over facts that is true or false; facts of families are written header["list-id"].',
    ),
    "RP827": (
        "expression without a bound",
        "What an expression costs has a limit: at most 1000 characters, no macro (exists, exists_one, all, filter) within another, at most 4 patterns and 4 + within macros, patterns as they stand.",
    ),
    "RP828": (
        "CEL is not installed",
        "Expressions under `when` need an optional library: pip install 'relayproxy[cel]'.",
    ),
    "RP829": (
        "expression may fail",
        "Of some mail the expression can't be told, or it compares a fact, which is in lower case, with text that is not.",
    ),
}
