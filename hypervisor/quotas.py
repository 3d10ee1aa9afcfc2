"""Whose quota is whose: the buckets of one network's devices and owners, and what they discard.

A device has buckets of its own, and with limits on its owner those of the owner too, which all his
devices share. Whoever closes a device and opens it again finds its buckets as he left them: they
are kept until they are full, and so as good as new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hypervisor.engine.drops import BROADCAST_RATE, BYTE_RATE, FRAME_RATE
from hypervisor.guard import Discard, Quota, Rates, room, spend
from hypervisor.mach.policy import Identity, OwnerPolicy
from hypervisor.nic import Nic

#: Group frames that a device under the full guard may send in a second, unless policy says more.
BROADCASTS_PER_S: Final = 2_000
#: Buckets of closed devices, and of owners without devices, that are not full yet.
MAX_COOLING: Final = 4_096

Key = tuple[str, str]


class Quotas:
    """See the module. ``owner_policy`` says what is allowed to an owner."""

    def __init__(self, owner_policy: Callable[[Identity], OwnerPolicy]) -> None:
        self._owner_policy = owner_policy
        #: By owner and device; "" stands for all devices of the owner.
        self._quotas: dict[Key, Quota] = {}
        self._users: dict[Key, int] = {}
        self._cooling: dict[Key, Quota] = {}

    def assign(self, nic: Nic) -> None:
        """Give a device its buckets, or other rates to those that it has."""
        policy, device = nic.device.policy, nic.device
        groups = policy.broadcasts_per_s
        if groups is None:
            groups = BROADCASTS_PER_S if nic.guard.full else 0
        owner = self._owner_policy(device.who)
        wanted = {
            (device.owner, device.name): Rates(policy.frames_per_s, policy.bytes_per_s, groups),
            (device.owner, ""): Rates(
                owner.owner_frames_per_s, owner.owner_bytes_per_s, owner.owner_broadcasts_per_s
            ),
        }
        if device.uplink:
            wanted = {}
        before, nic.quota_keys = nic.quota_keys, tuple(key for key in wanted if wanted[key])
        nic.quotas = tuple(self._enter(key, wanted[key]) for key in nic.quota_keys)
        nic.metered = any(one.rates.frames_per_s or one.rates.bytes_per_s for one in nic.quotas)
        self._leave(before, None)

    def release(self, nic: Nic, now: float) -> None:
        """The device is gone."""
        keys, nic.quota_keys, nic.quotas = nic.quota_keys, (), ()
        self._leave(keys, now)

    def _enter(self, key: Key, rates: Rates) -> Quota:
        quota = self._quotas.get(key) or self._cooling.pop(key, None)
        if quota is None:
            quota = Quota(rates)
        elif quota.rates != rates:
            quota.change(rates)
        self._quotas[key] = quota
        self._users[key] = self._users.get(key, 0) + 1
        return quota

    def _leave(self, keys: Sequence[Key], now: float | None) -> None:
        """Give buckets up; at ``now`` they are kept until they are full."""
        for key in keys:
            self._users[key] -= 1
            if self._users[key]:
                continue
            del self._users[key]
            quota = self._quotas.pop(key)
            if now is not None and not quota.is_full(now):
                self._cooling = {
                    other: each for other, each in self._cooling.items() if not each.is_full(now)
                }
                if len(self._cooling) >= MAX_COOLING:
                    del self._cooling[next(iter(self._cooling))]
                self._cooling[key] = quota

    def limit(
        self,
        nic: Nic,
        frames: Sequence[bytes],
        looked_at: Sequence[int],
        header_bytes: int,
        found: dict[int, Discard],
        now: float,
    ) -> None:
        """Add to ``found``, by index, the frames that are more than the device's or owner's due.

        Those that are in it already have not passed, and cost nothing. All group frames are among
        those ``looked_at``.
        """
        self._limit_groups(nic, frames, looked_at, header_bytes, found, now)
        if not nic.metered:
            return
        left_frames, left_bytes = room(nic.quotas, now)
        passed = passed_bytes = 0
        for index, frame in enumerate(frames):
            if index in found:
                continue
            if passed >= left_frames:
                found[index] = Discard(FRAME_RATE, "frames", "more than the quota", "at most that")
            elif passed_bytes >= left_bytes:
                found[index] = Discard(BYTE_RATE, "bytes", "more than the quota", "at most that")
            else:
                passed += 1
                passed_bytes += len(frame) - header_bytes
        spend(nic.quotas, passed, passed_bytes)

    @staticmethod
    def _limit_groups(
        nic: Nic,
        frames: Sequence[bytes],
        looked_at: Sequence[int],
        header_bytes: int,
        found: dict[int, Discard],
        now: float,
    ) -> None:
        groups = [
            index for index in looked_at if frames[index][header_bytes] & 1 and index not in found
        ]
        for quota in nic.quotas if groups else ():
            granted = quota.groups(len(groups), now)
            much = f"more than {quota.rates.groups_per_s} a second"
            for index in groups[granted:]:
                found[index] = Discard(BROADCAST_RATE, "group frames", much, "at most that")
            del groups[granted:]
