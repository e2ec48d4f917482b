"""Networks of containers: bridges, addresses, published ports, names.

What is where: `manager.py` is the part that others talk to; `bridge.py`,
`macvlan.py` and `plain.py` are the drivers; `ipam.py`, `rules.py`, `ports.py`,
`dns.py` and `files.py` decide and touch nothing; `netlink.py`,
`namespaces.py`, `firewall.py`, `proxies.py` and `resolver.py` do.
"""
