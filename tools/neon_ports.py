"""NEON ports: instruction counts of the NEON kernels' inner loops, compared with models of two processors.

python tools/neon_ports.py LIBRARY [--objdump aarch64-linux-gnu-objdump]

No time is measured: a multiply-add loop can go no faster than its busiest port. LIBRARY is not stripped.

A76-class, per cycle: 4 instructions, 2 on the vector units (multiply-adds and all other vector arithmetic), 2 loads,
stores or prefetches of at most 128 bits; out of order, so that the busiest of these is what counts.
A55-class, per cycle: 2 instructions in order, 1 vector multiply-add, 1 load; a 128-bit load pairs with no multiply-add.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

Functions = dict[str, list["Instruction"]]


@dataclass(frozen=True)
class Instruction:
    """One line of the disassembly."""

    address: int
    name: str
    operands: str

    def kinds(self) -> list[str]:
        """The kinds of work: fmla, wide (128-bit load), load (any other, or a prefetch), store, vector, scalar."""
        if self.name in ("fmla", "fmadd"):
            return ["fmla"]
        if self.name.startswith(("ld", "prfm")):
            if self.name == "ld1r" or "}[" in self.operands:
                return ["load", "vector"]  # into one lane, or a copy to all: the vector units have their part in it
            wide = re.match(r"q|\{.*\.(16b|8h|4s|2d)\}", self.operands)
            return ["wide" if wide else "load"] * (2 if self.name.startswith("ldp") else 1)
        if self.name.startswith("st"):
            return ["store"] * (2 if self.name.startswith("stp") else 1)
        return ["vector" if re.match(r"[vqds]\d", self.operands) else "scalar"]

    def target(self) -> int | None:
        """Address it may jump to."""
        jumps = self.name.startswith("b.") or self.name in ("b", "cbz", "cbnz", "tbz", "tbnz")
        found = re.search(r"([0-9a-f]+) <", self.operands) if jumps else None
        return int(found[1], 16) if found else None


def disassemble(objdump: str, library: str) -> Functions:
    """The functions of `library` by demangled name."""
    command = [objdump, "-dC", "--no-show-raw-insn", library]
    functions: Functions = {}
    body: list[Instruction] = []
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if header := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            body = functions.setdefault(header[1], [])
        elif found := re.match(r"\s+([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            body.append(Instruction(int(found[1], 16), found[2], found[3]))
    return functions


def inner_loop(body: list[Instruction]) -> list[Instruction]:
    """The loop without another inside that has the most multiply-adds."""
    places = {instruction.address: index for index, instruction in enumerate(body)}
    backward = [
        (places[target], index)
        for index, instruction in enumerate(body)
        if (target := instruction.target()) in places and target is not None and places[target] <= index
    ]
    innermost = [
        (begin, end) for begin, end in backward if not any(begin <= other[0] and other[1] < end for other in backward)
    ]
    loops = [body[begin : end + 1] for begin, end in innermost]
    return max(loops, key=multiply_adds, default=[])


def multiply_adds(loop: list[Instruction]) -> int:
    """The number of vector multiply-adds."""
    return sum(instruction.name == "fmla" for instruction in loop)


def listed(functions: Functions) -> Iterator[tuple[str, list[Instruction], float]]:
    """Each NEON kernel for 2-byte columns: its name, its inner loop, the multiply-adds of a block there.

    Of a gemv kernel it is the loop over the most vectors at once, and a block counts for each of them.
    """
    for function, body in functions.items():
        if not (found := re.search(r"::((?:spmm|gemv)_(\d+)(?:x(\d+))?_u16_neon)\(", function)):
            continue
        name, block_rows, vectors = found[1], int(found[2]), int(found[3] or 0)
        if vectors == 0:
            part = re.compile(rf"\bgemv_(?:streams|together)<.*::Rows<{block_rows}>, .*unsigned short, float>")
            loops = [inner_loop(body), *(inner_loop(other) for key, other in functions.items() if part.search(key))]
            yield name, max(loops, key=multiply_adds), block_rows / 4
            continue
        rows = min(block_rows, 4)
        tile = re.compile(rf"\bBlocks<.*::Neon, {block_rows}, {rows}, unsigned short>::run<{vectors}, ")
        loops = [inner_loop(other) for other_name, other in functions.items() if tile.search(other_name)]
        yield name, min(filter(None, loops), key=len, default=[]), rows * vectors


def memory(count: Counter[str]) -> int:
    """Loads, stores and prefetches."""
    return count["wide"] + count["load"] + count["store"]


def a76(count: Counter[str], instructions: int) -> tuple[float, str]:
    """Cycles of the busiest port, and its name."""
    ports = {"multiply-add": count["fmla"] + count["vector"], "load": memory(count)}
    return max([(used / 2, name) for name, used in ports.items()] + [(instructions / 4, "decode")])


def a55(count: Counter[str], instructions: int) -> float:
    """Cycles in order, loads and the rest issued beside multiply-adds where they may be."""
    return max(count["fmla"] + count["vector"] + count["wide"], memory(count), instructions / 2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library")
    parser.add_argument("--objdump", default="aarch64-linux-gnu-objdump")
    args = parser.parse_args()
    print("a block of V rows:         128-bit   other          other   other |  A76-class             |  A55-class")
    print(
        "                       fmla   loads   loads  stores  vector  scalar | cycles, limit, of peak | cycles, of peak"
    )
    kernels = sorted(listed(disassemble(args.objdump, args.library)), key=lambda kernel: (kernel[0][:4], kernel[2]))
    if not kernels:
        sys.exit(f"{args.library}: expected NEON kernels, found none; is it stripped, or built for another processor?")
    for name, loop, multiplies in kernels:
        count = Counter(kind for instruction in loop for kind in instruction.kinds())
        if count["fmla"] == 0 or count["fmla"] % multiplies != 0:
            sys.exit(f"{name}: expected a loop with {multiplies:g} multiply-adds a block, found {count['fmla']}")
        blocks = count["fmla"] / multiplies
        cells = "".join(
            f"{count[kind] / blocks:8.2f}" for kind in ("fmla", "wide", "load", "store", "vector", "scalar")
        )
        (fast, limit), slow = a76(count, len(loop)), a55(count, len(loop))
        print(
            f"{name:20s}{cells} |{fast / blocks:6.2f}  {limit:12s} {50 * count['fmla'] / fast:3.0f} % "
            f"|{slow / blocks:6.2f}  {100 * count['fmla'] / slow:3.0f} %"
        )


if __name__ == "__main__":
    main()
