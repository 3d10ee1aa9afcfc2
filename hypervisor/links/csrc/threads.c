/* What a thread of ours tells the kernel about itself. */

#include "burst.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* struct sched_attr as it was at first; C libraries have it under that name, or have none. */
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

void thread_name(const char *name)
{
    prctl(PR_SET_NAME, name);
}

void thread_want_slice(uint64_t slice_ns)
{
    struct attributes own = {.size = sizeof own};
    /* Nobody is told of a failure: a kernel before 6.12 takes no notice of the slice, a sandbox may
       forbid to ask, and then this thread only waits longer for its turn. Policy and nice value
       stay what they are; in a real-time class the same field would mean something else. */
    if (syscall(SYS_sched_getattr, 0, &own, sizeof own, 0) < 0
        || (own.policy != SCHED_OTHER && own.policy != SCHED_BATCH))
        return;
    own.runtime_ns = slice_ns;
    syscall(SYS_sched_setattr, 0, &own, 0);
}
