"""What ``--help`` says below the flags of each command; "" is the program itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

EXAMPLES: Final[Mapping[str, str]] = {
    "": """\
examples:
  pfinet-client run --address 10.0.0.1/24 -- bash      a shell with its own network stack
  pfinet-client attach --pid 4711 --address 10.0.0.2/24 an interface for a container
  pfinet-client ping --address 10.0.0.9/24 10.0.0.1    no namespace, no TAP, no privilege
  pfinet-client listen                                 watch frames
  pfinet-client status                                 the server and your devices

A server is started with 'hypervisor serve'. 'pfinet-client COMMAND --help' has more examples.
""",
    "run": """\
examples:
  pfinet-client run --address 10.0.0.1/24 -- python3 -m http.server
  pfinet-client run --address 10.0.0.2/24 --address fd00::2/64 -- curl http://10.0.0.1:8000/
  pfinet-client run --address 10.0.0.3/24 --gateway 10.0.0.254 --keep-uid
  pfinet-client run --device server.example:7331 --tls alice --address 10.0.0.4/24 -- sh

exit status: that of COMMAND, 128 + N if signal N killed it, 126 if it cannot be executed, 127 if
it is not there, 125 if run itself failed.
""",
    "attach": """\
examples:
  podman run -d --name web --network=none IMAGE
  pfinet-client attach --pid "$(podman inspect -f '{{.State.Pid}}' web)" --address 10.0.0.5/24
  pfinet-client attach --netns /proc/4711/ns/net --address 10.0.0.6/24 --ifname lan0
  pfinet-client attach --pid 4711 --address 10.0.0.7/24 --ready-fd 3 --exit-fd 4 3>ready 4<alive

exit status: 0 when it left in good order (the process ended, --exit-fd hung up, or a signal asked
for it), 1 if it could not do its work, 2 for a mistake in the command line.
""",
    "plug": """\
examples, after 'mkfifo back':
  pfinet-client plug <back | ssh host pfinet-client plug >back
  pfinet-client plug <back | pfinet-client plug --device /srv/other/veth0 >back

The device must be a trunk: in the server's configuration
  [[device]]
  owner = "alice"
  name = "plug"
  trunk = true

exit status: 0 when the other end hung up or a signal came, 1 if it could not do its work, 2 for a
mistake in the command line, 3 if the cable would have closed a loop.
""",
    "ping": """\
examples:
  pfinet-client ping --address 10.0.0.9/24 10.0.0.1
  pfinet-client ping -c 3 -i 0.2 --json --address fd00::9/64 fd00::1

exit status: 0 if there was an answer, 1 if not or on an error.
""",
    "arp": """\
examples:
  pfinet-client arp --address 10.0.0.9/24 10.0.0.1
  pfinet-client arp --address fd00::9/64 fd00::1       asks by neighbour discovery

exit status: 0 if somebody has the address, 1 if not or on an error.
""",
    "respond": """\
examples:
  pfinet-client respond --address 10.0.0.9/24          be there for others' ping, until Ctrl-C
""",
    "listen": """\
examples:
  pfinet-client listen                                 one line a frame
  pfinet-client listen --device-name eth0              what arrives for 'run' on eth0
  pfinet-client listen 'tcp port 80 and host 10.0.0.2' only these; the server filters
  pfinet-client listen -w - | tshark -r -              any tool that reads pcapng
  pfinet-client listen -c 100 -w capture.pcapng
""",
    "events": """\
examples:
  pfinet-client events                                 what happened lately
  pfinet-client events -f --reason source_ipv4         and what happens
""",
    "status": """\
examples:
  pfinet-client status
  pfinet-client status --json | jq '.devices[].addresses'
""",
}
