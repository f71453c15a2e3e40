"""What oletools finds in one office file: a program of its own, so that a hostile file can take neither time nor memory.

Runs by its path: takes the seconds of CPU time and the octets of memory that it may use, reads the file from standard input
and writes one JSON object. Ends with 0 when that is the answer, 3 if there is no oletools, and otherwise because of the
file. Must not import anything of relayproxy: the less is loaded, the sooner it starts.
"""

import json
import resource
import sys

MISSING = 3
_MOST_WORDS = 5


def main() -> int:
    """Read, look, write; the return value is how the program ends."""
    seconds, memory = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        from oletools.olevba import FileOpenError, VBA_Parser  # noqa: PLC0415  (under the limits, too)
    except ImportError:
        return MISSING
    answer, sys.stdout = sys.stdout, sys.stderr  # oletools prints
    found: dict[str, set[str]] = {"AutoExec": set(), "Suspicious": set()}
    try:
        parser = VBA_Parser("attachment", data=sys.stdin.buffer.read(), disable_pcode=True)
        macros = bool(parser.detect_macros())
        if macros:
            for kind, word, _ in parser.analyze_macros(show_decoded_strings=False, deobfuscate=False):
                found.get(kind, set()).add(str(word))
    except FileOpenError:
        macros = False
    words = {kind: sorted(words)[:_MOST_WORDS] for kind, words in found.items()}
    json.dump(
        {"macros": macros, "autoexec": words["AutoExec"], "suspicious": words["Suspicious"]},
        answer,
    )
    answer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
