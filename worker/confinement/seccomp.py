"""A seccomp filter: system calls that a process that only computes never makes are answered with "not permitted".

What is denied: sockets, programs and processes, signals to others, the rights and times of files (Landlock does not
ask about those), mounts and namespaces, keys, tracing, and whatever changes the machine. `clone` stays for threads.
The numbers are those of ``asm/unistd_64.h`` and ``asm-generic/unistd.h``; tests compare them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

from worker.confinement.libc import system_call

#: By `os.uname().machine`: what the kernel calls the architecture (AUDIT_ARCH_…), and its own number of seccomp(2).
_ARCHITECTURES = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}

#: x86_64, aarch64; None: there is none.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "recvmsg": (47, 212), "recvmmsg": (299, 243),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272), "setpriority": (141, 140), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239), "setrlimit": (160, 164),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "truncate": (76, 45), "mknod": (133, None), "mknodat": (259, 33),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semctl": (66, 191),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161), "setdomainname": (171, 162),
    "personality": (135, 92), "iopl": (172, None), "ioperm": (173, None),
}  # fmt: skip

#: Those that stay in one form: threads, and asking for limits.
CLONE, CLONE3, PRLIMIT = (56, 220), (435, 435), (302, 261)

_CLONE_THREAD = 0x00010000
_X32 = 0x40000000  # calls of x86_64 by other numbers
_SET_MODE_FILTER, _ALL_THREADS = 1, 1

_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF: ld abs, jeq, jge, jset, ret
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # where in struct seccomp_data
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000

Instruction = tuple[int, int, int, int]


def restrict() -> None:
    """From now on, in all threads. Needs ``no_new_privs``. Raises OSError where the kernel takes no filter, ENOSYS on
    an architecture without one."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter for {machine}")
    instructions = b"".join(struct.pack("<HBBI", *each) for each in program(machine))
    code = ctypes.create_string_buffer(instructions, len(instructions))
    head = struct.pack("<HxxxxxxQ", len(instructions) // 8, ctypes.addressof(code))
    call = _ARCHITECTURES[machine][1]
    system_call(call, _SET_MODE_FILTER, _ALL_THREADS, ctypes.create_string_buffer(head, len(head)))


def program(machine: str) -> list[Instruction]:
    """In BPF, for `os.uname().machine`."""
    column = list(_ARCHITECTURES).index(machine)
    made: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _ARCHITECTURES[machine][0]), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]  # fmt: skip
    if machine == "x86_64":
        made += _unless((_AT_LEAST, _X32), errno.EPERM)
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            made += _unless((_EQUAL, number), errno.EPERM)
    # Its flags lie in memory, where no filter can look; the C library then uses `clone`.
    made += _unless((_EQUAL, CLONE3[column]), errno.ENOSYS)
    made += _only(CLONE[column], [(_ARGUMENTS, _BITS, _CLONE_THREAD)])
    asking_of_oneself = [(_ARGUMENTS, _EQUAL, 0), (_ARGUMENTS + 16, _EQUAL, 0), (_ARGUMENTS + 20, _EQUAL, 0)]
    made += _only(PRLIMIT[column], asking_of_oneself)
    return [*made, (_RETURN, 0, 0, _ALLOW)]


def _unless(test: tuple[int, int], error: int) -> Iterator[Instruction]:
    """Answered with ``error`` where the ``test`` of the call's number is true."""
    yield test[0], 0, 1, test[1]
    yield _RETURN, 0, 0, _ERROR | error


def _only(number: int, tests: list[tuple[int, int, int]]) -> Iterator[Instruction]:
    """The call ``number`` is allowed if all ``tests`` of its arguments (place, comparison, value) are true."""
    yield _EQUAL, 0, 3 * len(tests) + 1, number
    for place, comparison, value in tests:
        yield _LOAD, 0, 0, place
        yield comparison, 1, 0, value
        yield _RETURN, 0, 0, _ERROR | errno.EPERM
    yield _RETURN, 0, 0, _ALLOW
