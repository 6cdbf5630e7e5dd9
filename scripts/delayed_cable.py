"""A cable between two network namespaces that takes its time: two TAP devices, and this process between them.

    python scripts/delayed_cable.py --peer PID [--device eth0] [--delay 5ms] [--rate 200mbit]

Makes a device of that name in its own network namespace and in that of process PID, prints "ready", and forwards frames
between them until it is ended: a frame arrives when all before it in its direction have been sent at the rate, it has
been sent itself, and the delay (one way) is over. What waits is bounded as in a switch: the rate times (delay + 50 ms);
frames beyond are dropped, and TCP sends them again. Kernels without netem (sch_netem) need nothing but /dev/net/tun.

Delays are kept to about 0.1 ms where a core is free for this process; `ping` from host to host shows what came of them.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import re
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CLONE_NEWNET = 0x40000000
PR_SET_TIMERSLACK = 29
FRAME = 1 << 16  # bytes that a frame may have
WAITING = 0.05  # seconds of traffic that may wait besides what is under way
RATES = {"": 1.0, "bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
TIMES = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}


def number(text: str, units: dict[str, float]) -> float:
    """200mbit, 5ms or 0.5ms as a number."""
    match = re.fullmatch(r"([0-9.]+)([a-z]*)", text.strip().lower())
    if match is None or match[2] not in units:
        raise SystemExit(f"delayed_cable: {text}: a number and one of {', '.join(filter(None, units))} is needed")
    return float(match[1]) * units[match[2]]


def tap(name: str) -> int:
    """A new Ethernet device in the current network namespace; its file descriptor."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def enter(process: int) -> None:
    """Go into the network namespace of a process."""
    library = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{process}/ns/net") as namespace:
        if library.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace of process {process}")


class Direction:
    """Frames from one device to the other."""

    def __init__(self, source: int, target: int, delay: float, rate: float) -> None:
        self.source, self._target = source, target
        self._delay, self._rate = delay, rate / 8
        self._limit = self._rate * (delay + WAITING)
        self._frames: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._free = 0.0  # when the last frame will have been sent

    @property
    def due(self) -> float | None:
        """When the next frame arrives."""
        return self._frames[0][0] if self._frames else None

    def take(self) -> None:
        """All frames that the source has."""
        while True:
            try:
                frame = os.read(self.source, FRAME)
            except BlockingIOError:
                return
            now = time.monotonic()
            if self._bytes + len(frame) > max(self._limit, FRAME):
                continue
            self._free = max(self._free, now) + len(frame) / self._rate
            self._bytes += len(frame)
            self._frames.append((self._free + self._delay, frame))

    def give(self) -> None:
        """The frames whose time has come."""
        now = time.monotonic()
        while self._frames and self._frames[0][0] <= now:
            frame = self._frames.popleft()[1]
            self._bytes -= len(frame)
            try:
                os.write(self._target, frame)
            except OSError:  # the device is down, or takes no more: lost, as on a cable
                continue


def forward(a: int, b: int, delay: float, rate: float) -> None:
    """Until this process is ended."""
    directions = [Direction(a, b, delay, rate), Direction(b, a, delay, rate)]
    while True:
        due = [d.due for d in directions if d.due is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        ready, _, _ = select.select([a, b], [], [], timeout)
        for direction in directions:
            if direction.source in ready:
                direction.take()
            direction.give()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=int, required=True, help="a process in the other network namespace")
    parser.add_argument("--device", default="eth0")
    parser.add_argument("--delay", default="0", help="one way: 5ms, 500us")
    parser.add_argument("--rate", default="10gbit", help="of each direction: 200mbit, 1gbit")
    args = parser.parse_args()
    delay, rate = number(args.delay, TIMES), number(args.rate, RATES)
    if rate <= 0:
        raise SystemExit("delayed_cable: --rate: above 0 is needed")
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.nice(-20)  # it must not wait for the ranks
    except OSError as error:
        print(f"delayed_cable: delays may be longer than asked for: {error}", file=sys.stderr)
    own = tap(args.device)
    enter(args.peer)
    other = tap(args.device)
    print("ready", flush=True)
    forward(own, other, delay, rate)


if __name__ == "__main__":
    main()
