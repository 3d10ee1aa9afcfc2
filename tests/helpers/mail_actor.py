"""What a state machine does with receive ports: filters that take all, dead names, slow readers.

What each port is to get is a line of frames and dead names. A message must be the next of its
line; where the port says that so many are missing, so many are skipped, and nothing else ever is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from hypervisor.engine.mail import Mailbox
from hypervisor.infos import DeadName, Message, Missing, NetMessage, Notification
from hypervisor.requests import Caller, SetFilter
from tests.helpers.naive import NaiveDevice, NaiveOpen
from tests.helpers.receiving import Mailer, mailer
from tests.helpers.uplink_actor import UplinkActor

MAX_MAILERS = 5
#: A filter of NETF that takes whatever arrives.
TAKES_ALL = (1,)

picks = st.integers(0, 60)


@dataclass(eq=False)
class NaiveMailer:
    """One receive port, and what is to come out of it."""

    port: Mailer
    box: Mailbox
    line: list[bytes | DeadName] = field(default_factory=list)
    place: int = 0
    taps: dict[NaiveDevice, None] = field(default_factory=dict)

    def sent(self, devices: set[NaiveDevice], frames: Sequence[bytes]) -> None:
        """Frames have arrived at these devices."""
        for device in self.taps:
            if device in devices:
                self.line.extend(frames)

    def got(self, messages: list[Message]) -> None:
        """Check messages that were received."""
        for message in messages:
            assert message.receive_port == self.port.name
            if isinstance(message, Missing):
                skipped = self.line[self.place : self.place + message.messages]
                assert len(skipped) == message.messages, "more is missing than there was"
                assert not any(isinstance(each, DeadName) for each in skipped)
                self.place += message.messages
                continue
            assert self.place < len(self.line), f"{message} was never sent"
            if isinstance(message, NetMessage):
                frame = message.header + message.packet[4:]
                assert frame == self.line[self.place], "another message was to come"
            else:
                assert message == self.line[self.place]
            self.place += 1


class MailActor(UplinkActor):
    """Allocates receive ports, sets filters on devices, and receives, late or never."""

    def start(self, mode: str, ample: bool, isolated: str = "") -> None:
        super().start(mode, ample, isolated)
        self.mailers: list[NaiveMailer] = []
        self.receiving: dict[int, NaiveMailer] = {}
        self.watching: dict[bytes, NaiveMailer] = {}
        self.chosen_for_dead = 0
        self.model.witnesses = self.mailers

    def begin_mail(self, count: int) -> None:
        """Give some opens a receive port each that gets what arrives at their device."""
        for pick in range(count):
            self.allocate(pick, (2, 16, 5)[pick])
            self.set_filter(pick, 0)
            self.watch_a_name(pick, 0)

    def mailer(self, pick: int) -> NaiveMailer:
        """Return one of the receive ports."""
        return self.mailers[pick % len(self.mailers)]

    @precondition(lambda self: self.live and len(self.mailers) < MAX_MAILERS)
    @rule(pick=picks, qlimit=st.sampled_from((1, 2, 5, 0, 16)))
    def allocate(self, pick: int, qlimit: int) -> None:
        each = self.one(pick)
        if not each.outlet:
            port = mailer(self.world, each.port.caller, qlimit)
            self.mailers.append(NaiveMailer(port, port.port.box))

    @precondition(lambda self: self.mailers)
    @rule(pick=picks, to=picks)
    def set_filter(self, pick: int, to: int) -> None:
        each = self.mailer(pick)
        # Who never read and has filters is given no frames: that is tested elsewhere.
        opens = [o for o in self.of(each) if o.reads and o.may_hold]
        if opens:
            one, world = opens[to % len(opens)], self.world
            world.call(
                SetFilter(
                    world.number(), one.port.caller, one.port.port, each.port.name, 0, TAKES_ALL
                )
            )
            each.taps[one.device] = None
            self.collect()

    def of(self, each: NaiveMailer) -> list[NaiveOpen]:
        """Return the opens in a receive port's task."""
        return [one for one in self.live if one.port.caller == each.port.caller]

    @precondition(lambda self: self.mailers)
    @rule(pick=picks, to=picks)
    def watch_a_name(self, pick: int, to: int) -> None:
        each = self.mailer(pick)
        if opens := self.of(each):
            name = opens[to % len(opens)].port.port
            each.port.hear(Notification.DEAD_NAME, name)
            self.watching[name] = each

    @precondition(lambda self: self.mailers)
    @rule(pick=picks, most=st.integers(1, 9), held=st.booleans())
    def receive(self, pick: int, most: int, held: bool) -> None:
        each = self.mailer(pick)
        waits = each in self.receiving.values()
        if self.too_many_of(each.port.caller):
            number = each.port.receive(most)
            error = self.world.done[number].error
            assert error is not None
            assert error.reason == "D_NO_MEMORY"
        elif held:
            self.receiving[each.port.receive(most)] = each
        elif not waits:
            each.got(each.port.take(most))
        self.collect()

    def too_many_of(self, caller: Caller) -> bool:
        """Tell whether a task has all the requests held that it may."""
        asked = sum(each.open.port.caller == caller for each in self.asked.values())
        return asked + self.receives_of(caller) >= self.limits.held_requests_per_task

    def receives_of(self, caller: Caller) -> int:
        """Return how many receives a task has held."""
        return sum(each.port.caller == caller for each in self.receiving.values())

    def has_too_many(self, each: NaiveOpen) -> bool:
        return super().has_too_many(each) or self.too_many_of(each.port.caller)

    @precondition(lambda self: self.mailers)
    @rule(most=st.sampled_from((1, 64)), held=st.booleans())
    def all_receive(self, most: int, held: bool) -> None:
        for pick in range(len(self.mailers)):
            self.receive(pick, most, held)

    @precondition(lambda self: self.receiving)
    @rule(pick=picks)
    def cancel_receive(self, pick: int) -> None:
        self.cancel(list(self.receiving)[pick % len(self.receiving)])

    def cancel(self, number: int) -> None:
        if number not in self.receiving:
            super().cancel(number)
            return
        del self.receiving[number]
        assert self.world.cancel(number)
        assert not self.world.cancel(number)
        self.collect()

    @precondition(lambda self: self.mailers)
    @rule(pick=picks, qlimit=st.integers(1, 9))
    def set_qlimit(self, pick: int, qlimit: int) -> None:
        self.mailer(pick).port.set_qlimit(qlimit)

    @precondition(lambda self: self.mailers)
    @rule(pick=picks)
    def destroy_mailer(self, pick: int) -> None:
        each = self.mailer(pick)
        each.port.destroy()
        each.port.destroy()
        self.forget(each)
        self.collect()

    def forget(self, dead: NaiveMailer) -> None:
        """A receive port is dead."""
        self.mailers.remove(dead)
        self.chosen_for_dead += len(dead.line)
        self.watching = {name: each for name, each in self.watching.items() if each is not dead}

    # --- what the others do --------------------------------------------------------------------

    def bury(self, dead: list[NaiveOpen]) -> None:
        for each in list(self.mailers):
            for device in list(each.taps):
                left = [one for one in device.opens if one not in dead]
                if not left:
                    del each.taps[device]
                elif not any(one.reads for one in left):
                    # Whom only filters look at is no receiver for this model.
                    each.port.destroy()
                    self.forget(each)
                    break
        super().bury(dead)
        for one in dead:
            if (watcher := self.watching.pop(one.port.port, None)) is not None:
                watcher.line.append(DeadName(watcher.port.name, one.port.port))

    def end(self, caller: Caller) -> None:
        for each in [each for each in self.mailers if each.port.caller == caller]:
            self.forget(each)
        super().end(caller)

    def collect(self) -> None:
        super().collect()
        for number, each in list(self.receiving.items()):
            done = self.world.done.get(number)
            if done is None:
                continue
            del self.receiving[number]
            if done.error is not None:
                assert done.error.reason == "MACH_SEND_INVALID_DEST"
                assert each not in self.mailers
            else:
                each.got(done.result)

    @invariant()
    def mail_is_somewhere(self) -> None:
        mail = self.network.engine.mail
        assert mail.chosen == self.chosen_for_dead + sum(len(m.line) for m in self.mailers)
        assert mail.held_receives == len(self.receiving)
        for each in self.mailers:
            missing = sum(letter.missing for letter in each.box.letters)
            waiting = each.box.posted + each.box.notes + missing
            assert each.place + waiting == len(each.line), each.port.name.hex()
            if self.ample:
                # Nothing but its own limit keeps a port from getting what arrives.
                assert each.box.drops.keys() <= {"port_full"}

    def teardown(self) -> None:
        while getattr(self, "mailers", None):
            self.destroy_mailer(0)
        super().teardown()
