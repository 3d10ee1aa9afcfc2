"""The census: proves that counters, slots and pool agree. For tests, and for a doubting operator.

Walks everything, so it costs time in proportion to what is held; nothing on the hot path does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypervisor.engine.engine import Engine
from hypervisor.engine.opens import Copy, Lone, Open, TxFrame
from hypervisor.frames import Frame


class AuditError(AssertionError):
    """The books do not agree: a bug in the engine."""


@dataclass(frozen=True, slots=True)
class Census:
    """What is where, at one moment."""

    live_frames: int
    references: int
    waiting_in_rx: int
    waiting_for_rx: int


def audit(engine: Engine) -> Census:
    """Count everything and return the census. Raises AuditError on the first disagreement."""
    references: Counter[Frame] = Counter()
    in_rx = for_rx = lent_frames = lent_bytes = 0
    for each in engine.opens:
        in_rx += len(each.rx)
        references.update(each.rx)
        in_rx += each.express_frames
        lent_frames += each.express_frames
        lent_bytes += each.express_bytes
        held = len(each.rx) + each.express_frames
        held_bytes = sum(len(frame.data) for frame in each.rx) + each.express_bytes
        _agree(f"{each}: rx_bytes", each.rx_bytes, held_bytes)
        slots: list[int | None] = []
        for receiver, queue in each.waiting.items():
            _agree(f"{each}: is a waiter of {receiver}", receiver.waiters.count(each), 1)
            for_rx += len(queue)
            for copy in (*queue.slotted, *queue.queued):
                slots.append(_waiting(each, copy))
                if copy.frame is not None:
                    references[copy.frame] += 1
                    held += 1
                    held_bytes += len(copy.data)
            for copy in queue.queued:
                _agree(f"{each}: an unslotted copy has no frame", copy.frame, None)
        _agree(f"{each}: TX slots", each.tx_used, len(set(slots) - {None}))
        _agree(f"{each}: held frames", each.held_frames, held)
        _agree(f"{each}: held bytes", each.held_bytes, held_bytes)
        if each.tx_used > engine.limits.tx_slots or each.rx_used > engine.limits.rx_slots:
            raise AuditError(f"{each} exceeds its slots")
    in_mail = _audit_mail(engine, references)
    for frame, count in references.items():
        _agree(f"counter of {frame!r}", frame.counter, count)
    live_bytes = lent_bytes + sum(len(frame.data) for frame in references)
    live_frames = lent_frames + len(references)
    _agree("live frames", engine.pool.live_frames, live_frames)
    _agree("live bytes", engine.pool.live_bytes, live_bytes)
    settled = engine.copies_delivered + sum(engine.drops.values())
    settled += sum(len(frames) for _, frames, _ in engine.passing)
    _agree("copies chosen", engine.copies_chosen, settled + in_rx + for_rx)
    mail = engine.mail
    settled = mail.delivered + sum(mail.drops.values())
    _agree("messages chosen", mail.chosen, settled + in_mail)
    _audit_shares(engine)
    held_reads = sum(len(each.reads) for each in engine.opens)
    held_writes = sum(len(each.writes) for each in engine.opens)
    _agree("held reads", engine.held_reads, held_reads)
    _agree("held writes", engine.held_writes, held_writes)
    return Census(live_frames, lent_frames + sum(references.values()), in_rx, for_rx)


def _audit_mail(engine: Engine, references: Counter[Frame]) -> int:
    """Count what waits in mailboxes; return the number of messages."""
    waiting = held_receives = 0
    for box in engine.mail.boxes:
        frames = [frame for letter in box.letters for frame in letter.frames]
        references.update(frames)
        notes = sum(letter.message is not None for letter in box.letters)
        _agree(f"mailbox {box.name.hex()}: messages", box.posted, len(frames))
        _agree(f"mailbox {box.name.hex()}: notifications", box.notes, notes)
        _agree(f"mailbox {box.name.hex()}: is in its inbox", box in box.inbox.boxes, True)
        waiting += box.posted + box.notes
    for inbox in {id(box.inbox): box.inbox for box in engine.mail.boxes}.values():
        held_receives += len(inbox.receivers)
        letters = any(box.letters for box in inbox.boxes)
        _agree("receives held though there is a message", bool(inbox.receivers) and letters, False)
    if engine.mail.held_receives < held_receives:
        raise AuditError(f"{held_receives} receives are held, {engine.mail.held_receives} counted")
    return waiting


def _audit_shares(engine: Engine) -> None:
    held = [
        len(frame.data)
        for box in engine.mail.boxes
        for letter in box.letters
        for frame in letter.frames
    ]
    shared_frames, shared_bytes = len(held), sum(held)
    for account in engine.shares.accounts.values():
        for each in account.opens:
            shared_frames += max(0, each.held_frames - account.guaranteed_frames)
            shared_bytes += max(0, each.held_bytes - account.guaranteed_bytes)
    _agree("shared frames", engine.shares.shared_frames, shared_frames)
    _agree("shared bytes", engine.shares.shared_bytes, shared_bytes)


def _agree(what: str, told: object, counted: object) -> None:
    if told != counted:
        raise AuditError(f"{what}: the books say {told}, counting says {counted}")


def _waiting(each: Open, copy: Copy | Lone) -> int | None:
    """Audit a copy that waits; return what tells its TX slot from others, None if it has none."""
    frame: Lone | TxFrame
    if isinstance(copy, Copy):
        frame = copy.tx
        _agree(f"{each}: a waiting copy's request", frame.copies > 0, True)
    else:
        frame = copy
        _agree(f"{each}: a lone copy's TX slot", copy.slotted, copy.frame is not None)
    return id(frame) if frame.slotted else None
