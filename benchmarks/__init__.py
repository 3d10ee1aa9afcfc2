"""Benchmarks: ours and its peers, side by side, in one run.

Absolute figures drift by tens of per cent between hours of one machine, so nothing here is quoted
alone. Every run alternates between ours and its peers for several rounds, takes each round's ratio
of figures measured within seconds of each other, and reports the median ratio and its spread.

``python -m benchmarks rpc`` compares calls and vectors with a bare gRPC echo and with vde_switch;
``python -m benchmarks tcp`` compares two joined namespaces with a veth pair and with vde_switch.

Whatever could share a core with what it measures is a process of its own (:mod:`.workers`), told
what to do over its standard input (:mod:`.processes`). They all die with the run.
"""
