"""Keeps a dnsmasq running inside a gateway, tells it of the devices, and says what goes wrong.

One that ends, that does not say that it is up, that does not read its files when it is told to, or
that has stopped in the middle of its work, is killed and started again, after a pause that doubles;
the way out is there all the while.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from hypervisor.gateway import dnsmasq
from hypervisor.gateway.dnsmasq import Duty
from hypervisor.gateway.plan import GatewayPlan
from hypervisor.gateway.poller import Poller
from hypervisor.gateway.pulse import LOOKS, Pulse, unread
from hypervisor.kernel import namespaces, process, tools

#: The first pause before it is started again, and the longest; each is twice the last.
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 30.0
#: It lived for so long that what ended it has nothing to do with how it was started.
STEADY_S: Final = 10.0
#: Of its lines that are news so many are passed on at once, and one more each second.
LINES: Final = 10
_LINE_BYTES: Final = 300
_READ_BYTES: Final = 4_096


class Butler:
    """One dnsmasq. ``say`` tells the server a sentence; ``settled`` is called when it has come up
    for the first time, or failed to.

    It may take the plan's ``start_s`` to be up, or to read its files.
    """

    def __init__(
        self,
        duty: Duty,
        path: str,
        folder: str,
        poller: Poller,
        plan: GatewayPlan,
        say: Callable[[str], None],
        settled: Callable[[], None],
    ) -> None:
        self._duty = duty
        self._path = path
        self._folder = folder
        self._poller = poller
        self._say = say
        self._settled = settled
        self._patience_s, self._look_s = plan.start_s, plan.look_s
        self._mouth = _Mouth(poller, say)
        self._texts: dict[str, str] = {}
        self._pid = self._pidfd = self._output = -1
        self._up = False
        self._unread = False
        self._since = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._deadline: int | None = None
        self._restart: int | None = None
        self._look: int | None = None

    def serve(self, texts: Mapping[str, str]) -> None:
        """Serve by these contents of its files from now on."""
        mine = {name: texts[name] for name in self._duty.files}
        if mine == self._texts:
            return
        self._texts = mine
        for name, text in mine.items():
            with open(f"{self._folder}/{name}", "w", encoding="ascii") as file:
                file.write(text)
        if self._pid < 0:
            if self._restart is None:
                self._start()
        elif self._duty.anew:
            self._end()
            self._start()
        elif self._up:
            self._read_again()
        else:
            self._unread = True

    def _start(self) -> None:
        self._restart = None
        if self._duty.memory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._folder}/{self._duty.memory}")
        self._output, writer = os.pipe()
        os.set_blocking(self._output, False)
        self._pid = os.fork()
        if self._pid == 0:
            self._become(writer)
        os.close(writer)
        self._pidfd = os.pidfd_open(self._pid)
        self._up = self._unread = False
        self._since = self._poller.clock()
        self._mouth.fresh()
        self._poller.watch(self._output, self._listen)
        self._poller.watch(self._pidfd, self._ended)
        self._expect("was not up")

    def _become(self, writer: int) -> None:
        """In the child: see nothing of the user's, may nothing that it need not, be dnsmasq."""
        try:
            hide = ("/home", "/root", "/run", "/var", "/mnt", "/media", "/srv", "/opt")
            namespaces.hide_folders(each for each in hide if not self._path.startswith(each))
            process.drop_capabilities(self._duty.capabilities)
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            arguments = ("dnsmasq", *self._duty.arguments)
            tools.execute(self._path, arguments, (nothing, writer, writer))
        except OSError as error:
            os.write(writer, f"cannot be started: {error.strerror}\n".encode())
        finally:
            os._exit(1)

    def _read_again(self) -> None:
        os.kill(self._pid, signal.SIGHUP)
        if self._deadline is None:
            self._expect("did not read its files")

    def _expect(self, otherwise: str) -> None:
        def give_up() -> None:
            self._deadline = None
            self._fail(f"{otherwise} within {self._patience_s:g} s")

        self._poller.cancel(self._deadline)
        self._deadline = self._poller.after(self._patience_s, give_up)

    def _content(self) -> None:
        self._poller.cancel(self._deadline)
        self._deadline = None

    def _look_after(self, pulse: Pulse) -> None:
        """See whether it does anything about questions that lie before it, now and later."""
        if pulse.stopped(waiting=unread(self._duty.sockets)):
            self._look = None
            self._fail(f"has stopped: it has done nothing for {LOOKS * self._look_s:g} s")
        else:
            self._look = self._poller.after(self._look_s, partial(self._look_after, pulse))

    def _listen(self) -> None:
        try:
            data = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._poller.forget(self._output)
            return
        for line in self._mouth.lines(data, tell=self._up):
            if dnsmasq.STARTED in line:
                self._up = True
                self._content()
                self._look_after(Pulse(self._pid))
                self._settled()
                if self._unread:
                    self._unread = False
                    self._read_again()
            elif self._up and f": {dnsmasq.READ}" in line:
                self._content()

    def _ended(self) -> None:
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._pid = -1
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if self._poller.watches(self._output):
            self._listen()
        last = self._mouth.last
        self._fail(how + (f": {last}" if last else ""))

    def _fail(self, why: str) -> None:
        """dnsmasq is of no use, or no more: say so, and start it again later."""
        if self._poller.clock() - self._since >= STEADY_S:
            self._pause_s = FIRST_PAUSE_S
        self._end()
        self._say(f"dnsmasq {why}; no {self._duty.what} are given until it runs again")
        self._settled()
        self._restart = self._poller.after(self._pause_s, self._start)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _end(self) -> None:
        self._content()
        self._poller.cancel(self._look)
        self._look = None
        if self._pid > 0:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        for fd in (self._pidfd, self._output):
            if fd >= 0:
                self._poller.forget(fd)
                os.close(fd)
        self._pid = self._pidfd = self._output = -1
        self._up = False


class _Mouth:
    """What dnsmasq says, line by line; what is news is passed on, but not too much of it."""

    def __init__(self, poller: Poller, say: Callable[[str], None]) -> None:
        self._clock = poller.clock
        self._say = say
        self._rest = b""
        self._may, self._at = float(LINES), poller.clock()
        self._untold = 0
        #: The last line that was news.
        self.last = ""

    def fresh(self) -> None:
        """Another one speaks."""
        self._rest, self.last = b"", ""

    def lines(self, data: bytes, *, tell: bool) -> list[str]:
        """Return the lines that ``data`` completes, having passed on what is news.

        Without ``tell`` it is kept for who asks why.
        """
        *found, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_LINE_BYTES:]
        texts = [each[:_LINE_BYTES].decode(errors="replace") for each in found]
        for text in texts:
            if told := dnsmasq.news(text):
                self.last = told
                if tell:
                    self._pass_on(told)
        return texts

    def _pass_on(self, text: str) -> None:
        now = self._clock()
        self._may, self._at = min(float(LINES), self._may + now - self._at), now
        if self._may < 1:
            self._untold += 1
            return
        self._may -= 1
        left_out = f" ({self._untold} lines before it were left out)" if self._untold else ""
        self._untold = 0
        self._say(f"dnsmasq says: {text}{left_out}")
