"""An object file as one image of machine code, which lies ready to be copied into memory.

Done once, after compiling, it spares every later process LLVM, which takes longer to load than the code to run. Only
what the compiler writes here is understood: ELF for x86-64 in the large code model, without variables. Its references
are those of "System V ABI, AMD64 Architecture Processor Supplement", section 4.4.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_HEADER, _SECTION, _SYMBOL, _REFERENCE = "<16sHHIQQQIHHHHHH", "<IIQQQQIIQQ", "<IBBHQQ", "<QQq"
_MAGIC, _RELOCATABLE, _X86_64 = b"\x7fELF\x02\x01", 1, 62
_SYMBOLS, _REFERENCES, _PROGBITS, _UNWINDING = 2, 4, 1, 0x70000001
_WRITABLE, _LOADED = 1, 2
_CONSTANTS = ".data.rel.ro"  # written by who fills in addresses, and by no one else
_UNDEFINED, _FIRST_SPECIAL = 0, 0xFF00
# kinds of references, with S the symbol's address, A the addend, P the reference's own place
_ADDRESS = 1  # S + A
_DISTANCE = 24  # S + A − P
_FROM_TABLE = 25  # S + A − table
_SLOT = 27  # the place of S's slot in the table, + A
_TABLE = 29  # table + A − P


class LinkError(Exception):
    """An object file holds something that this module does not know; the message says what."""


@dataclass(frozen=True)
class Image:
    """Machine code that runs at any address.

    Attributes:
        entry: where the function begins.
        moved: places of words to which the image's address is to be added.
        imported: places of words that hold the address of a symbol of the process, by its name.
    """

    code: bytes
    entry: int
    moved: tuple[int, ...]
    imported: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Section:
    index: int
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    target: int
    alignment: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    section: int
    value: int


def link(content: bytes, symbol: str) -> Image:
    """The image of an object file, with the function of that name as its entry.

    Raises:
        LinkError: it is of another system, or holds what is not known here.
    """
    sections = _sections(content)
    symbols = list(_symbols(content, sections))
    linker = _Linker(content, sections, symbols)
    for section in sections:
        if section.kind == _REFERENCES and section.target in linker.places:
            linker.resolve(section)
    return linker.image(symbol)


class _Linker:
    """The image while it is filled in; the table of addresses follows the sections."""

    def __init__(self, content: bytes, sections: Sequence[_Section], symbols: Sequence[_Symbol]) -> None:
        self._content = content
        self._symbols = symbols
        self._code = bytearray()
        self.places: dict[int, int] = {}  # of the sections, by index
        for section in sections:
            if section.flags & _LOADED and section.size and section.kind != _UNWINDING:
                self._put(section)
        self._code += bytes(-len(self._code) % 8)
        self._table = len(self._code)
        self._slots: dict[int, int] = {}  # places in the table, by symbol
        self._moved: list[int] = []
        self._imported: dict[str, tuple[int, ...]] = {}

    def _put(self, section: _Section) -> None:
        is_variable = section.flags & _WRITABLE and section.name != _CONSTANTS
        if section.kind != _PROGBITS or is_variable:
            raise LinkError(f"section '{section.name}' is neither code nor constants")
        self._code += bytes(-len(self._code) % section.alignment)
        self.places[section.index] = len(self._code)
        self._code += self._content[section.offset : section.offset + section.size]

    def resolve(self, section: _Section) -> None:
        """Fill in the references of a section."""
        start = self.places[section.target]
        for offset, what, addend in struct.iter_unpack(_REFERENCE, _bytes(self._content, section)):
            place, symbol, kind = start + offset, what >> 32, what & 0xFFFFFFFF
            if kind == _ADDRESS:
                value = self._place(symbol) + addend
                self._moved.append(place)
            elif kind == _DISTANCE:
                value = self._place(symbol) + addend - place
            elif kind == _FROM_TABLE:
                value = self._place(symbol) + addend - self._table
            elif kind == _SLOT:
                value = self._slot(symbol) + addend - self._table
            elif kind == _TABLE:
                value = self._table + addend - place
            else:
                raise LinkError(f"a reference is of kind {kind}")
            struct.pack_into("<q", self._code, place, value)

    def _place(self, index: int) -> int:
        symbol = self._symbols[index]
        if symbol.section not in self.places:
            raise LinkError(f"'{symbol.name}' does not lie in the code")
        return self.places[symbol.section] + symbol.value

    def _slot(self, index: int) -> int:
        """The place in the table that holds a symbol's address."""
        if index not in self._slots:
            place = self._slots[index] = len(self._code)
            symbol = self._symbols[index]
            if symbol.section == _UNDEFINED:
                self._code += bytes(8)
                self._imported[symbol.name] = (*self._imported.get(symbol.name, ()), place)
            else:
                self._code += struct.pack("<q", self._place(index))
                self._moved.append(place)
        return self._slots[index]

    def image(self, name: str) -> Image:
        """What was filled in."""
        entries = [
            index
            for index, symbol in enumerate(self._symbols)
            if symbol.name == name and symbol.section != _UNDEFINED
        ]
        if len(entries) != 1:
            raise LinkError(f"'{name}' is there {len(entries)} times")
        return Image(bytes(self._code), self._place(entries[0]), tuple(self._moved), self._imported)


def _sections(content: bytes) -> list[_Section]:
    magic, kind, machine, _, _, _, start, *_, size, count, names = struct.unpack_from(_HEADER, content)
    if not magic.startswith(_MAGIC) or (kind, machine) != (_RELOCATABLE, _X86_64):
        raise LinkError("it is not an object file of ELF for x86-64")
    rows = [struct.unpack_from(_SECTION, content, start + index * size) for index in range(count)]
    texts = content[rows[names][4] :]
    return [
        _Section(index, _text(texts, name), kind, flags, offset, length, linked, target, max(alignment, 1))
        for index, (name, kind, flags, _, offset, length, linked, target, alignment, _) in enumerate(rows)
    ]


def _symbols(content: bytes, sections: Sequence[_Section]) -> Iterator[_Symbol]:
    for table in sections:
        if table.kind == _SYMBOLS:
            names = _bytes(content, sections[table.link])
            for name, _, _, section, value, _ in struct.iter_unpack(_SYMBOL, _bytes(content, table)):
                yield _Symbol(_text(names, name), section if section < _FIRST_SPECIAL else -1, value)


def _text(texts: bytes, start: int) -> str:
    return texts[start : texts.index(b"\0", start)].decode()


def _bytes(content: bytes, section: _Section) -> bytes:
    return content[section.offset : section.offset + section.size]
