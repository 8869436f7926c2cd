"""Driver 3b: the kernel's own TCP, UDP and QUIC over a Link, between two network namespaces (Linux).

    process in namespace A --[TUN]--> this process: Link.transmit, wait --> [TUN]-- process in namespace B

Works without netem. Needs root, or user namespaces and a /dev/net/tun that the user may open. Nothing outside the two namespaces
is changed, and both vanish with their processes.
"""

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable

from common.errors import DataUnavailable
from common.net.link import Link

ADDRESSES = ("10.9.0.1", "10.9.0.2")
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFFLAGS, _SIOCSIFMTU = 0x8916, 0x891C, 0x8914, 0x8922
_IFF_UP_RUNNING = 0x1 | 0x40
_MTU = 1500


class NamespacesUnavailable(DataUnavailable):
    """This machine does not let us make network namespaces or TUN devices."""


def enter_new_namespace() -> None:
    """Move this process into a network namespace of its own.

    Raises:
        NamespacesUnavailable: not permitted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) == 0:
        return
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise NamespacesUnavailable(f"no network namespace can be made here ({reason}); run as root on Linux.")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def make_tun(address: str) -> int:
    """A TUN device with this address in the present namespace: its file descriptor.

    Raises:
        NamespacesUnavailable: not permitted.
    """
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        raise NamespacesUnavailable(f"/dev/net/tun cannot be used here ({error.strerror}); run as root.") from error

    def inet(text: str) -> bytes:
        return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFADDR, struct.pack("16s16s8x", b"tun0", inet(address)))
        fcntl.ioctl(control, _SIOCSIFNETMASK, struct.pack("16s16s8x", b"tun0", inet("255.255.255.0")))
        fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", b"tun0", _MTU))
        for name in (b"tun0", b"lo"):
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name, _IFF_UP_RUNNING))
    return tun


def _spawn(address: str, work: Callable[[], None]) -> tuple[int, int, socket.socket]:
    """Fork a child into a namespace of its own: (process id, the descriptor of its TUN device, a socket that starts it)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ours.close()
            enter_new_namespace()
            tun = make_tun(address)
            socket.send_fds(theirs, [b"ready"], [tun])
            if theirs.recv(1):
                work()
                code = 0
        except NamespacesUnavailable as error:
            with contextlib.suppress(OSError):
                theirs.send(b"!" + str(error).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    theirs.close()
    message, descriptors, _, _ = socket.recv_fds(ours, 500, 1)
    if not descriptors:
        os.waitpid(child, 0)
        ours.close()
        raise NamespacesUnavailable(message[1:].decode() or "a process in a network namespace did not start.")
    return child, descriptors[0], ours


def run_pair(
    server: Callable[[], None], client: Callable[[], None], link: Link, *, limit_s: float = 120.0
) -> tuple[int, int]:
    """Run two functions in two namespaces joined by a link, until the client returns.

    Args:
        server: runs at `ADDRESSES[0]` (node 0), in a process of its own; killed when the client is done.
        client: runs at `ADDRESSES[1]` (node 1), in a process of its own.
        link: carries every IPv4 packet between them.
        limit_s: both are killed after this long.

    Returns:
        Exit codes of server (-9 if it was killed) and client: 0 unless the function raised.

    Raises:
        NamespacesUnavailable: this machine does not permit it.
    """
    children: list[tuple[int, int, socket.socket]] = []
    codes: dict[int, int] = {}
    try:
        for address, work in zip(ADDRESSES, (server, client), strict=True):
            children.append(_spawn(address, work))
        for _, _, start in children:
            start.send(b"go")
        _carry(link, (children[0][1], children[1][1]), children[1][0], codes, time.monotonic() + limit_s)
    finally:
        for child, tun, start in children:
            if child not in codes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                codes[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.close(tun)
            start.close()
    return codes[children[0][0]], codes[children[1][0]]


def _carry(link: Link, tuns: tuple[int, int], client: int, codes: dict[int, int], end_s: float) -> None:
    """Move packets until the client process ends."""
    poll = select.poll()
    for tun in tuns:
        poll.register(tun, select.POLLIN)
    queue: list[tuple[float, int, int, bytes]] = []
    numbers = itertools.count()
    start_s = time.monotonic()
    while time.monotonic() < end_s:
        done, status = os.waitpid(client, os.WNOHANG)
        if done:
            codes[client] = os.waitstatus_to_exitcode(status)
            return
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            _, _, tun, packet = heapq.heappop(queue)
            with contextlib.suppress(OSError):  # the reader has gone
                os.write(tun, packet)
        wait_s = min(0.05, max(0.0, queue[0][0] - time.monotonic())) if queue else 0.05
        for ready, _ in poll.poll(wait_s * 1000):
            try:
                packet = os.read(ready, 65536)
            except OSError:
                continue
            if packet[:1] and packet[0] >> 4 == 4:  # the kernel sends IPv6 router solicitations on its own
                node = tuns.index(ready)
                now = time.monotonic()
                arrival_s = link.transmit(1 - node, now - start_s, len(packet))
                if arrival_s is not None:
                    heapq.heappush(queue, (arrival_s + start_s, next(numbers), tuns[1 - node], packet))
