"""How a kernel is called: one block of 64-bit integers, which numba and Python both read.

A piece of every input goes in, tile by tile; what comes out depends on the kernel.
"""

TILE = 1024  # elements of a tile; pieces start at multiples of it
PITCH = (
    TILE + 16
)  # float32 numbers from a row of scratch to the next, so that rows do not share the places of cache lines
EIGHTH = TILE // 8
SPARE_ROWS = 8  # tiles of scratch beside one for each expert

# places in the block
INPUTS = 0  # address of the addresses of the inputs' bytes: the base, then each expert
CODES = 1  # address of their element types; NO_BASE where there is none
EXPERTS = 2
FIRST = 3  # the piece's offset in the tensor, in elements
COUNT = 4  # elements of the piece
NUMBERS = 5  # address of float32 coefficients
WORDS = 6  # address of int64 settings and results
OUT = 7  # address of the result's bytes, or of float64 partial sums, [tiles, columns]
OUT_CODE = 8
SCRATCH = 9  # address of float32 [EXPERTS + SPARE_ROWS, PITCH]
ROUNDING = 10  # element type to which every operation rounds; F32 for none beyond it
SIZE = 11

NO_BASE = -1
BF16, F16, F32 = 0, 1, 2
CODE_OF = {"BF16": BF16, "F16": F16, "F32": F32}
NOT_FINITE = 0x7F800000  # bits from which a float32 magnitude is infinite or not a number

# how the weighted_sum kernel adds; NUMBERS are the divisor, 0 for none, then a weight for each expert
SUM, FOLD, RUNNING, PICK = 0, 1, 2, 3

# how the task_vectors kernel thins and combines; WORDS begin with these settings
THIN, COMBINE, NORMALIZE, USE_WEIGHTS, HAS_SCALE, MASKS, BITS = 0, 1, 2, 3, 4, 5, 6
HEAD_WORDS = 8
ALL, BAND, DRAWN, MASKED, VARIED, RECALLED = 0, 1, 2, 3, 4, 5
# MASKS is the address of bytes, [experts, COUNT]; BITS that of masks that are kept between passes, 0 for none:
# [tiles, experts, EIGHTH] bytes, whose bit j of byte b is the entry b + j · EIGHTH of the tile
ADD, LARGEST, ELECT_COUNTED, ELECT_WEIGHTED, ELECT_PLAIN = 0, 1, 2, 3, 4
# then, for each expert
LOW, LOW_CUT, LOW_KEEPS_LATER, HIGH, HIGH_CUT, KEY, KEY_STREAM, LIMIT = 0, 1, 2, 3, 4, 5, 6, 7
EXPERT_WORDS = 8
# NUMBERS are the scale, then for each expert
WEIGHT, DIVISOR, FACTOR = 0, 1, 2
EXPERT_NUMBERS = 3

# the histogram kernel: WORDS are the number of rows and the kind of key, then for each row
ROW_EXPERT, ROW_LOW, ROW_HIGH, ROW_SHIFT, ROW_COUNTS, ROW_ABOVE, ROW_ZEROS = 0, 1, 2, 3, 4, 5, 6
ROW_WORDS = 7
MAGNITUDE, VARIANCE = 0, 1
# the find_cut kernel has the same rows: of those with the bits ROW_LOW the place after the ROW_ABOVE-th
# from the start goes to ROW_HIGH, which is −1 until it is found
