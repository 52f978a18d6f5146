#!/usr/bin/python3
"""Hold back packets for a while, on kernels without netem: an NFQUEUE consumer in the standard library alone.

usage: delay.py MILLISECONDS [QUEUE]   with, for instance:
       iptables -t mangle -A INPUT -i eth0 -j NFQUEUE --queue-num 5 --queue-bypass

The kernel sends a netlink message for each packet; the answer (a verdict) lets it go on. Answering late is the delay.
Delay the way in only: the sender's own queue limits then stay out of it, and throughput is hardly touched.
Message layouts: linux/netfilter/nfnetlink.h and nfnetlink_queue.h.
"""

import heapq
import select
import socket
import struct
import sys
import time

NETLINK_NETFILTER = 12
SOL_NETLINK, NETLINK_NO_ENOBUFS = 270, 5
SO_RCVBUFFORCE = 33
NLM_F_REQUEST = 1
NFNL_SUBSYS_QUEUE = 3

# Message types of the queue subsystem, and the attributes used with each.
MSG_PACKET, MSG_VERDICT, MSG_CONFIG = 0, 1, 2
CFG_CMD, CFG_PARAMS, CFG_QUEUE_MAXLEN, CFG_MASK, CFG_FLAGS = 1, 2, 3, 4, 5
CMD_BIND = 1
COPY_META = 1
FLAG_FAIL_OPEN, FLAG_GSO = 1, 4
ATTR_PACKET_HDR, ATTR_VERDICT_HDR = 1, 2
NF_ACCEPT = 1

NLMSG_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
NFGEN_HEADER = struct.Struct(">BBH")  # family, version, resource id (the queue)
NLA_HEADER = struct.Struct("=HH")  # length, type


def attribute(kind: int, data: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    length = NLA_HEADER.size + len(data)
    return NLA_HEADER.pack(length, kind) + data + b"\0" * (-length % 4)


def message(kind: int, queue: int, body: bytes) -> bytes:
    """One message to the queue subsystem."""
    payload = NFGEN_HEADER.pack(socket.AF_UNSPEC, 0, queue) + body
    header = NLMSG_HEADER.pack(NLMSG_HEADER.size + len(payload), NFNL_SUBSYS_QUEUE << 8 | kind, NLM_F_REQUEST, 0, 0)
    return header + payload


def packet_ids(data: bytes) -> list[int]:
    """The ids of the packets announced in one read; other messages (acknowledgements) are passed over."""
    found = []
    while len(data) >= NLMSG_HEADER.size:
        length, kind, *_ = NLMSG_HEADER.unpack_from(data)
        if length < NLMSG_HEADER.size:
            break
        if kind == NFNL_SUBSYS_QUEUE << 8 | MSG_PACKET:
            attributes = data[NLMSG_HEADER.size + NFGEN_HEADER.size : length]
            while len(attributes) >= NLA_HEADER.size:
                size, name = NLA_HEADER.unpack_from(attributes)
                if name & 0x7FFF == ATTR_PACKET_HDR:
                    found.append(struct.unpack_from(">I", attributes, NLA_HEADER.size)[0])
                    break
                attributes = attributes[(size + 3) & ~3 :]
        data = data[(length + 3) & ~3 :]
    return found


def open_queue(queue: int) -> socket.socket:
    """A bound queue that asks for packet headers only and lets packets through when it is full."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    sock.bind((0, 0))
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    sock.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
    bind = attribute(CFG_CMD, struct.pack(">BBH", CMD_BIND, 0, 0))
    copy = attribute(CFG_PARAMS, struct.pack(">IB", 0, COPY_META))
    # GSO: without it the kernel splits and checksums every large segment before queueing it.
    flags = FLAG_FAIL_OPEN | FLAG_GSO
    limits = (
        attribute(CFG_QUEUE_MAXLEN, struct.pack(">I", 65535))
        + attribute(CFG_MASK, struct.pack(">I", flags))
        + attribute(CFG_FLAGS, struct.pack(">I", flags))
    )
    for body in (bind, copy, limits):
        sock.send(message(MSG_CONFIG, queue, body))
    sock.setblocking(False)
    return sock


def run(milliseconds: float, queue: int) -> None:
    sock = open_queue(queue)
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    waiting: list[tuple[float, int]] = []  # (when to release, packet id), earliest first
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            packet = heapq.heappop(waiting)[1]
            verdict = attribute(ATTR_VERDICT_HDR, struct.pack(">II", NF_ACCEPT, packet))
            sock.send(message(MSG_VERDICT, queue, verdict))
        poller.poll(max(0.0, (waiting[0][0] - now) * 1000) if waiting else None)
        while True:
            try:
                data = sock.recv(1 << 20)
            except BlockingIOError:
                break
            due = time.monotonic() + milliseconds / 1000
            for packet in packet_ids(data):
                heapq.heappush(waiting, (due, packet))


if __name__ == "__main__":
    run(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
