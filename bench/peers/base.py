"""What a peer is."""

import shutil
from pathlib import Path

from bench.lab import Lab, Place, Running, Sample


class Relay:
    """A way from the load generator to the sink. A `name` with a dash is a variant of the part before it."""

    name = ""
    about = ""
    proof: tuple[str, ...] = ()
    """What a message has in its header when it has come this way."""

    @property
    def family(self) -> str:
        return self.name.partition("-")[0]

    def missing(self) -> str:
        """Why it can't run here, or ""."""
        return ""

    def version(self) -> str:
        """What is compared, in a few words."""
        return ""

    def start(self, place: Place) -> Running:
        """Start it, with its end on `stack`. Raises bench.programs.BenchError."""
        raise NotImplementedError

    def measure(self, place: Place, running: Running) -> Sample:
        """One run of the cell."""
        return place.lab.measure(place.cell, running)

    def folder(self, lab: Lab) -> Path:
        """A new, empty folder for its files; others may pass through, since some peers drop root."""
        path = lab.folder / self.name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o755)
        return path
