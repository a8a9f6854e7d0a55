"""Without AMX: `python no_amx.py COMMAND…` runs a command that cannot use AMX. It needs nothing but Python and Linux.

A process must ask Linux for the state of AMX's tiles (arch_prctl, ARCH_REQ_XCOMP_PERM). A system-call filter, which the
command and its children inherit, answers "operation not permitted", and libraries go on with what else the processor
has. ONNX Runtime has no switch of its own; that of oneDNN, which is in OpenVINO, is set too. So a figure of an engine
on a processor with AMX can be compared with those on the many processors that have VNNI alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

NO_AMX_SCRIPT = Path(__file__)

_ARCH_PRCTL, _GET_SUPPORTED, _REQUEST, _TILES = 158, 0x1021, 0x1023, 18
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_REFUSE, _ALLOW = 0x00050001, 0x7FFF0000
_X86_64 = 0xC000003E
_FILTER = (  # operation, steps to jump if true, if false, operand
    (_LOAD, 0, 0, 4),  # the caller's architecture
    (_JUMP_IF_EQUAL, 0, 5, _X86_64),
    (_LOAD, 0, 0, 0),  # the number of the call
    (_JUMP_IF_EQUAL, 0, 3, _ARCH_PRCTL),
    (_LOAD, 0, 0, 16),  # its first argument
    (_JUMP_IF_EQUAL, 0, 1, _REQUEST),
    (_RETURN, 0, 0, _REFUSE),
    (_RETURN, 0, 0, _ALLOW),
)
_SET_NO_NEW_PRIVILEGES, _SET_FILTER, _BY_PROGRAM = 38, 22, 2


def has_amx() -> bool:
    """Whether the processor has AMX and the system gives its state to processes."""
    supported = ctypes.c_ulong()
    known = platform.machine() == "x86_64" and sys.platform == "linux"
    asked = known and ctypes.CDLL(None).syscall(_ARCH_PRCTL, _GET_SUPPORTED, ctypes.byref(supported)) == 0
    return asked and bool(supported.value >> _TILES & 1)


def forbid_amx() -> None:
    """Take AMX from this process, and its children, for good. Raises OSError where the system has no such filters."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _FILTER))
    program = struct.pack("HP", len(_FILTER), ctypes.addressof(code))
    for call in ((_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_FILTER, _BY_PROGRAM, program, 0, 0)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"


def main() -> None:
    """Become the command of the arguments."""
    if not has_amx():
        sys.exit("this machine has no AMX: the figure is the one that is measured without this script")
    forbid_amx()
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
