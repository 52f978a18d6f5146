"""What ssh's last words mean: real ones, most as OpenSSH 9.2 said them of a lab host, the others as its users report
them."""

from __future__ import annotations

from itertools import islice

import pytest

from pantheon.tunnel import Refusal, pauses, refusal, span, understand

VIA_GATEWAY = [
    "kex_exchange_identification: Connection closed by remote host",
    "Connection closed by UNKNOWN port 65535",
]

TAKEN = [
    [
        "bind [127.0.0.1]:23457: Address already in use",
        "channel_setup_fwd_listener_tcpip: cannot listen to port: 23457",
        "Could not request local forwarding.",
    ],
    ["bind [127.0.0.1]:80: Permission denied", "channel_setup_fwd_listener_tcpip: cannot listen to port: 80"],
]

UNTRUSTED = [
    [
        "No ED25519 host key is known for pantheon-0 and you have requested strict checking.",
        "Host key verification failed.",
    ],
    [
        "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@",
        "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @",
        "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@",
        "IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!",
        "Host key for pantheon-0 has changed and you have requested strict checking.",
        "Host key verification failed.",
    ],
    [
        "@       WARNING: REVOKED HOST KEY DETECTED!               @",
        "The ED25519 host key for pantheon-0 is marked as revoked.",
        "ED25519 host key for pantheon-0 was revoked and you have requested strict checking.",
        "Host key verification failed.",
    ],
    [
        "No ED25519 host key is known for pantheon-0 and you have requested strict checking.",
        "Host key verification failed.",
        *VIA_GATEWAY,
    ],
]

REFUSED = [
    ["ops@172.17.0.4: Permission denied (publickey)."],
    ["ops@172.17.0.4: Permission denied (publickey,password,keyboard-interactive)."],
    [
        "Warning: Identity file /nowhere/id not accessible: No such file or directory.",
        "ops@fe80::1%eth0: Permission denied (publickey).",
    ],
    ["nobody@gate: Permission denied (publickey).", *VIA_GATEWAY],
    [
        "Received disconnect from 172.17.0.4 port 22:2: Too many authentication failures",
        "Disconnected from 172.17.0.4 port 22",
    ],
    [
        "Your account has expired; please contact your system administrator.",
        "Connection closed by 172.17.0.4 port 22",
    ],
]

# What passes, and what a status line has for it.
UNREACHED = [
    ("connection refused: no SSH server there", ["ssh: connect to host 172.17.0.4 port 22: Connection refused"]),
    ("connection refused: no SSH server there", ["ssh: connect to host gate port 9: Connection refused", *VIA_GATEWAY]),
    ("no answer", ["ssh: connect to host 172.17.0.4 port 22: Connection timed out"]),
    ("no answer", ["ssh: connect to host box port 22: Operation timed out"]),
    ("no route to host", ["ssh: connect to host 172.17.0.250 port 22: No route to host"]),
    ("network is unreachable", ["ssh: connect to host 10.0.0.1 port 22: Network is unreachable"]),
    ("host is down", ["ssh: connect to host 10.0.0.1 port 22: Host is down"]),
    ("DNS: name or service not known", ["ssh: Could not resolve hostname nowhere.invalid: Name or service not known"]),
    (
        "DNS: temporary failure in name resolution",
        ["ssh: Could not resolve hostname box: Temporary failure in name resolution"],
    ),
    (
        "it accepts connections but says nothing",
        ["Connection timed out during banner exchange", "Connection to 172.17.0.4 port 22 timed out"],
    ),
    (
        "it hung up before a word was said",
        [
            "kex_exchange_identification: read: Connection reset by peer",
            "Connection reset by 172.17.0.4 port 22",
        ],
    ),
    ("it hung up before a word was said", VIA_GATEWAY),
    (
        "it takes no more connections at the moment",
        [
            "kex_exchange_identification: banner line 0: Not allowed at this time",
            "kex_exchange_identification: Connection closed by remote host",
        ],
    ),
    (
        "it is starting or going down (no logins)",
        [
            '"System is booting up. Unprivileged users are not permitted to log in yet. Please come back later."',
            "Connection closed by 172.17.0.4 port 22",
        ],
    ),
    (
        "it is starting or going down (no logins)",
        [
            '"The system is going down. Unprivileged users are not permitted to log in anymore."',
            "Connection closed by 10.0.0.1 port 22",
        ],
    ),
    # Access denied by PAM account configuration: sshd's log says so, a client hears no more than this.
    ("the host hung up", ["Connection closed by 172.17.0.4 port 22"]),
    (
        "the gateway cannot connect to it: connection refused",
        ["channel 0: open failed: connect failed: Connection refused", "stdio forwarding failed", *VIA_GATEWAY],
    ),
    (
        "the gateway does not forward connections",
        ["channel 0: open failed: administratively prohibited: open failed", "stdio forwarding failed", *VIA_GATEWAY],
    ),
    (
        "no matching host key type",
        ["Unable to negotiate with 172.17.0.4 port 22: no matching host key type found. Their offer: ssh-ed25519"],
    ),
    # A link that was there.
    ("no answer for 8 s", ["Timeout, server 172.17.0.4 not responding."]),
    ("the host ended it", ["Connection to 172.17.0.4 closed by remote host."]),
    ("the connection was reset", ["client_loop: send disconnect: Broken pipe"]),
    ("the connection was reset", ["Read from remote host 172.17.0.4: Connection reset by peer"]),
    (
        "no route to host",
        ["Read from remote host 172.17.0.4: No route to host", "client_loop: send disconnect: Broken pipe"],
    ),
    (
        "the host ended it: shutting down",
        ["Received disconnect from 10.0.0.1 port 22:11: shutting down", "Disconnected from 10.0.0.1 port 22"],
    ),
    ("garbled on the way", ["Corrupted MAC on input.", "Disconnecting 10.0.0.1 port 22: Corrupted MAC"]),
]

UNKNOWN = [
    ["command-line: line 0: Bad configuration option: nonsense"],
    ["ssh: symbol lookup error: ssh: undefined symbol: EVP_foo"],
    [],
]


@pytest.mark.parametrize(
    ("meaning", "words"),
    [
        *(("taken", words) for words in TAKEN),
        *(("untrusted", words) for words in UNTRUSTED),
        *(("refused", words) for words in REFUSED),
        *(("unreached", words) for _, words in UNREACHED),
        *(("unknown", words) for words in UNKNOWN),
    ],
)
def test_an_ending(meaning: str, words: list[str]) -> None:
    assert understand(words).ending == meaning


@pytest.mark.parametrize(("text", "words"), UNREACHED)
def test_an_ending_that_passes_in_a_few_words(text: str, words: list[str]) -> None:
    assert understand(words).text == text


@pytest.mark.parametrize(
    "words",
    [
        ["Unauthorized access is prohibited. Permission denied to everybody else.", "Your account has been logged."],
        ["/bin/sh: 1: exec: /usr/local/bin/way: Permission denied"],
        ["nc: connect to 10.0.0.1 port 22 (tcp) failed: Permission denied"],
    ],
)
def test_a_banner_or_a_proxy_command_refuses_no_login(words: list[str]) -> None:
    assert understand([*words, "kex_exchange_identification: Connection closed by remote host"]).ending == "unreached"
    assert understand([*words, "ssh: connect to host box port 22: No route to host"]).ending == "unreached"


def test_what_is_not_known_is_said_as_ssh_says_it() -> None:
    assert understand(UNKNOWN[0]).text == "command-line: line 0: Bad configuration option: nonsense"
    assert understand([]).text == "ssh ended without a word"


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("channel 2: open failed: connect failed: Connection refused", "nothing"),
        ("channel 12: open failed: connect failed: open failed", "other"),
        ("channel 3: open failed: administratively prohibited: open failed", "forbidden"),
        ("channel 3: open failed: resource shortage: ", "other"),
        ("Timeout, server 172.17.0.4 not responding.", ""),
        ("the banner says: channel 2: open failed: administratively prohibited", ""),
        ("", ""),
    ],
)
def test_a_client_that_was_turned_away(line: str, meaning: Refusal) -> None:
    assert refusal(line) == meaning


def test_the_pauses_begin_at_once_and_never_end() -> None:
    first = list(islice(pauses(), 2000))
    assert first[0] == 0
    assert first == sorted(first)
    assert first[-1] == 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (21.4, "21 s"), (119, "119 s"), (240, "4 min"), (11520, "3 h 12 min"), (7199, "2 h 0 min")],
)
def test_a_span(seconds: float, text: str) -> None:
    assert span(seconds) == text
