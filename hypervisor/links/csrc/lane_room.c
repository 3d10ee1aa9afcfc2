/* Senders that wait in a lane until there is room at a socket. All of it under the lane's lock.

   A sender waits so long, and anew if that socket has taken so many frames meanwhile; then the loop
   has to see to it, where frames wait in RX slots, and he is not held up by who reads slowly. Only a
   socket's sender waits at all: behind a TAP or an uplink there may be a way out for everybody, who
   must not feel that one guest does not read. */

#include "lane.h"

#include <errno.h>
#include <sys/epoll.h>

static const int64_t patience_ns = 10 * 1000 * 1000;
enum { PROGRESS_FRAMES = 64, RECOVERY = 10 /* times his patience, and he has it again */ };

bool lane_await_room(struct lane *lane, struct slot *slot, const struct port *port)
{
    if (!port_is_patient(slot->burst->port))
        return false;
    int64_t at_ns = now_ns();
    if (slot->until_ns == 0 || at_ns - slot->until_ns > RECOVERY * patience_ns) {
        slot->until_ns = at_ns + patience_ns;
        slot->taken = 0;
    }
    /* Once: what is closed meanwhile cannot be taken out of the set any more, and says nothing. */
    struct epoll_event event = {.events = EPOLLOUT | EPOLLONESHOT, .data.fd = port->fd};
    if (at_ns >= slot->until_ns
        || (epoll_ctl(lane->room_fd, EPOLL_CTL_ADD, port->fd, &event) < 0
            && (errno != EEXIST || epoll_ctl(lane->room_fd, EPOLL_CTL_MOD, port->fd, &event) < 0)))
        return false;
    lane_stop_polling(lane, slot);
    slot->waits = true;
    slot->waits_fd = port->fd;
    lane->waiting++;
    return true;
}

void lane_note_taken(struct slot *slot, int fd)
{
    if (slot->until_ns != 0 && fd == slot->waits_fd && ++slot->taken >= PROGRESS_FRAMES)
        slot->until_ns = 0;
}

void lane_end_waits(struct lane *lane, int fd)
{
    int64_t at_ns = now_ns();
    for (int i = 0; lane->waiting > 0 && i < lane->slots_count; i++) {
        struct slot *slot = &lane->slots[i];
        if (!slot->waits || (slot->waits_fd != fd && at_ns < slot->until_ns))
            continue;
        slot->waits = false;
        lane->waiting--;
        if (lane_start_polling(lane, slot) < 0)
            lane_give_back(lane, slot, &(struct returned){.outcome = FULL});
        else
            lane_look_at(lane, slot);
    }
}

void lane_see_room(struct lane *lane)
{
    struct epoll_event events[16];
    int count = epoll_wait(lane->room_fd, events, 16, 0);
    for (int i = 0; i < count; i++)
        lane_end_waits(lane, events[i].data.fd);
}
