"""The engine: slots, held requests and the poll cycle, as the MHVED note asks for.

Theory of operation
    Every *open* of a device has TX slots and RX slots. A write request is a vector of frames;
    each frame goes guard -> TX slot -> pool -> RX slots of its receivers, and the request
    completes when the last frame has left its TX slot. A frame whose receivers have room passes
    in one step: the TX slot's reference is handed to the RX slot and nothing is stored between.

    A unicast copy for a receiver without room *waits*: in a TX slot (at most a quarter of the
    sender's for one receiver), further ones unslotted in their request. Waiting copies are
    queued per (sender, receiver), so nothing overtakes within a pair and nothing blocks across
    pairs. Receivers that free room pull from their waiting senders by deficit round robin.

    A receiver that does not drain is given up: its window opens when it first makes somebody
    wait, and is renewed only by progress (64 frames, 64 KiB, or all its slots). When a window
    ends without progress the receiver is *stalled*: what waits for it is dropped, and so is
    what comes, until it has drained half its slots. Hence one bad reader costs its neighbours
    one hold_timeout, however cleverly it reads.

    The poll cycle works on ready lists, never on all devices: (1) sends, (2) reads, (3) sends
    again for what the reads freed, until nothing moves.

Modules, from the ground up
    drops     the named reasons and their counters
    quotas    shares of the pool, bounds of held requests
    opens     the state of one open and of what waits in it: plain data
    mail      queues of receive ports
    slots     RX slots: admission, draining, reclaiming, the books
    holding   what waits, for how long, and who pulls it
    taps      who looks at frames, and gets copies as messages
    sending   who is chosen gets it: at once, later, or not
    engine    submit, cancel, poll, tick
    audit     the census: proves that the books agree with the slots
The engine knows neither MAC addresses nor rules: the network hands it a classifier.
"""
