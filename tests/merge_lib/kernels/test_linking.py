"""Machine code as images; that they do what LLVM makes of the same object files is tested with merges."""

import llvmlite.binding as llvm
import pytest

from merge_lib.kernels.linking import LinkError, link

TRIPLE = "x86_64-unknown-linux-gnu"  # of the object files, whatever machine the tests run on
CALLS = """
declare i64 @labs(i64)
define i64 @twice(i64 %x) { %y = add i64 %x, %x
  ret i64 %y }
define i64 @entry(i64 %x) { %y = call i64 @labs(i64 %x)
  %z = call i64 @twice(i64 %y)
  ret i64 %z }
"""
COUNTS = """
@counter = global i64 1
define i64 @entry() { %x = load i64, ptr @counter
  store i64 3, ptr @counter
  ret i64 %x }
"""


def object_of(text: str, codemodel: str = "large") -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(reloc="pic", codemodel=codemodel, opt=0)
    return machine.emit_object(llvm.parse_assembly(text))


def test_an_image_names_its_entry_and_what_it_takes_from_the_process():
    image = link(object_of(CALLS), "entry")
    assert set(image.imported) == {"labs"}
    places = [*image.moved, *image.imported["labs"]]
    assert len(set(places)) == len(places)
    assert all(0 <= place <= len(image.code) - 8 for place in places)
    assert 0 < image.entry < min(places)  # after `twice`, before the table


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: object_of(COUNTS), "is neither code nor constants"),
        (lambda: object_of(CALLS, "small"), "a reference is of kind"),
        (
            lambda: object_of(CALLS)[:18] + b"\xb7" + object_of(CALLS)[19:],
            "not an object file of ELF for x86-64",
        ),
        (lambda: b"\x7fELF\x01" + object_of(CALLS)[5:], "not an object file of ELF for x86-64"),
    ],
)
def test_what_is_not_known_is_refused(content, said):
    with pytest.raises(LinkError, match=said):
        link(content(), "entry")


def test_a_function_that_is_not_there_is_refused():
    with pytest.raises(LinkError, match="'exit' is there 0 times"):
        link(object_of(CALLS), "exit")
