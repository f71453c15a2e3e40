"""A clamd of the test's own, with two signatures of the test's own: none are downloaded."""

import shutil

from tests.builtin.scanning import EICAR
from tests.servers.process import Process, free_port, need, program, public_folder

_CONFIG = """\
Foreground yes
DatabaseDirectory {folder}/db
TemporaryDirectory {folder}
PidFile {folder}/pid
TCPSocket {port}
TCPAddr 127.0.0.1
LocalSocket {folder}/socket
StreamMaxLength 2M
MaxThreads 4
ConcurrentDatabaseReload no
SelfCheck 0
"""
FOUND = "Test.Eicar.UNOFFICIAL"
UNWANTED = "PUA.Test.Word.UNOFFICIAL"
WORD = b"an-unwanted-word-of-the-test"


class Clamd(Process):
    """One instance on `port` and on the Unix socket `socket`. It finds the EICAR file and `WORD`."""

    def __init__(self) -> None:
        need("clamd", root=False)
        self.folder = public_folder("clamd")
        super().__init__("clamd", self.folder / "log")
        self.port = free_port()
        self.socket = self.folder / "socket"
        (self.folder / "db").mkdir()
        lines = [f"Test.Eicar:0:*:{EICAR.hex()}", f"PUA.Test.Word:0:*:{WORD.hex()}"]
        (self.folder / "db" / "test.ndb").write_text("".join(f"{line}\n" for line in lines))
        self.config = self.folder / "clamd.conf"
        self.config.write_text(_CONFIG.format(folder=self.folder, port=self.port))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self.spawn(program("clamd"), "-c", str(self.config), cwd=self.folder)
        await self.until_listening(self.port)

    async def stop(self) -> None:
        """End it and remove its folder."""
        try:
            if self.popen is not None and self.popen.poll() is None:
                await self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
