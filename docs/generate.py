"""Write the pages that are made from the code: `python -m docs.generate`, or `make docs`.

With --check nothing is written; the exit code says whether a page has fallen behind.
"""
# ruff: noqa: INP001  (a folder of pages is no package)

import sys
from pathlib import Path

from docs import cli_page, configuration_page, errors_page, hooks_page, metrics_page, rules_page

HERE = Path(__file__).parent
PAGES = {
    HERE / "hooks.md": hooks_page.render,
    HERE / "cli.md": cli_page.render,
    HERE / "metrics.md": metrics_page.render,
    HERE / "errors.md": errors_page.render,
    HERE / "rules-reference.md": rules_page.render,
    HERE / "reference" / "configuration.md": configuration_page.render,
}


def main(arguments: list[str]) -> int:
    """Write or compare every page; return the exit code."""
    behind = []
    for path, render in PAGES.items():
        text = render()
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        behind.append(path)
        if "--check" not in arguments:
            path.write_text(text, "utf-8")
    for path in behind:
        sys.stdout.write(f"{path.relative_to(HERE.parent)}\n")
    return 1 if behind and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
