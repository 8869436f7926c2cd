"""Networks for experiments: traces, loss models, one link model, and three drivers that carry packets over it.

    loss.py, traces.py, rate.py   what a network does to packets: loses them, and how fast it forwards them
    link.py                       LinkSpec (a description) -> Link: `link.transmit(to_node, now, ip_bytes) -> arrival | None`
    loop.py                       driver 1: a pure-Python event loop in virtual time (UDP, and TCP through tcp_model.py)
    ns3.py, ns3_bridge/           driver 2: ns-3's own UDP and TCP over the same Link, in virtual time (optional, GPL-2.0-only)
    real.py, namespaces.py        driver 3: real sockets over the same Link, in real time
    presets.py                    named networks

Nodes are numbered 0 (server) and 1 (client). A Link is a random process with state: build a new one from its spec per run.
"""
