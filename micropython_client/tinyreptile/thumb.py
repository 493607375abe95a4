"""`loops` in Thumb assembly, for the RP2040 and all Cortex-M: bit for bit the same.

Only instructions of ARMv6-M are used. In brackets, the cycles of a loop's turn on a Cortex-M0+.

The assembler lacks some instructions, which are put together here, as 0x5E00 | m << 6 | n << 3 | t:

    ldrsh t, [n, m]   0x5E00 | m << 6 | n << 3 | t       ldmia n!, {list}   0xC800 | n << 8 | list
    strh  t, [n, m]   0x5200 | m << 6 | n << 3 | t       stmia n!, {list}   0xC000 | n << 8 | list
    sxth  d, m        0xB200 | m << 3 | d                ldr   t, [sp, i]   0x9800 | t << 8 | i   (i in words)
    uxth  d, m        0xB280 | m << 3 | d                str   t, [sp, i]   0x9000 | t << 8 | i
    add   d, m        0x4400 | (d & 8) << 4 | m << 3 | d & 7, with r8 to r15, too
    cmp   n, m        0x4500 | (n & 8) << 4 | m << 3 | n & 7, with r8 to r15, too
    add   sp, i       0xB000 | i                         sub   sp, i        0xB080 | i

A loop over cells counts an offset from minus a row's bytes up to zero, from pointers to the rows' ends.
"""

from micropython import const

# The cells of the plan, in bytes; see `plan`.
_RANDOM = const(0 * 4)
_JOB = const(7 * 4)
_END = const(8 * 4)
_DITHER = const(9 * 4)

_HEIGHT = const(1 * 4)
_WIDTH = const(2 * 4)
_CHANNELS = const(3 * 4)
_OUT_HEIGHT = const(4 * 4)
_OUT_WIDTH = const(5 * 4)
_OUT_CHANNELS = const(6 * 4)
_KERNEL_HEIGHT = const(7 * 4)
_KERNEL_WIDTH = const(8 * 4)
_STRIDE = const(9 * 4)
_PAD_Y = const(10 * 4)
_PAD_X = const(11 * 4)
_WEIGHTS = const(12 * 4)
_BIASES = const(13 * 4)
_X = const(14 * 4)
_Y = const(15 * 4)
_RELU = const(16 * 4)
_SHIFT = const(17 * 4)
_POST = const(18 * 4)
_BIAS_SHIFT = const(19 * 4)
_BACK = const(20 * 4)
_BACK_SHIFT = const(21 * 4)
_BACK_POST = const(22 * 4)
_BIAS_STEP = const(25 * 4)


# Words of the frame of `list_patch`.
_PATCH_PLAN = const(0)
_PATCH_SUMS = const(1)
_LEFT = const(2)  # the first column of the patch, which may be outside
_RIGHT = const(3)  # behind the last one
_BOTTOM = const(4)  # below the last row
_PATCH_HEIGHT = const(5)  # of the inputs
_PATCH_WIDTH = const(6)
_PATCH_CHANNELS = const(7)
_PATCH_INPUT = const(8)  # bytes from one position to the next
_PATCH_ROW = const(9)  # what a row of the kernel adds to the number
_PATCH_FRAME = const(10)


@micropython.asm_thumb
def list_patch(r0, r1, r2, r3):  # plan, position, a, s
    mov(r4, r8)
    mov(r5, r9)
    mov(r6, r10)
    mov(r7, r11)
    push({r4, r5, r6, r7})
    data(2, 0xB080 | _PATCH_FRAME)  # sub sp
    data(2, 0x9000 | 0 << 8 | _PATCH_PLAN)  # str r0, [sp]
    data(2, 0x9000 | 3 << 8 | _PATCH_SUMS)  # str r3, [sp]
    ldr(r4, [r0, _JOB])
    data(2, 0xB280 | 4 << 3 | 5)  # uxth r5, r4
    lsl(r5, r5, 2)
    add(r5, r5, r0)  # the layer
    ldr(r6, [r5, _STRIDE])
    data(2, 0xB280 | 1 << 3 | 7)  # uxth r7, r1
    mul(r7, r6)
    ldr(r4, [r5, _PAD_X])
    sub(r7, r7, r4)
    data(2, 0x9000 | 7 << 8 | _LEFT)  # str r7, [sp]
    ldr(r4, [r5, _KERNEL_WIDTH])
    add(r7, r7, r4)
    data(2, 0x9000 | 7 << 8 | _RIGHT)  # str r7, [sp]
    ldr(r7, [r5, _CHANNELS])
    data(2, 0x9000 | 7 << 8 | _PATCH_CHANNELS)  # str r7, [sp]
    mul(r4, r7)
    lsl(r4, r4, 16)
    data(2, 0x9000 | 4 << 8 | _PATCH_ROW)  # str r4, [sp]
    lsl(r4, r7, 16)
    mov(r8, r4)  # r8: what a position adds to a row's number
    lsl(r7, r7, 1)
    data(2, 0x9000 | 7 << 8 | _PATCH_INPUT)  # str r7, [sp]
    lsr(r1, r1, 16)
    mul(r1, r6)
    ldr(r4, [r5, _PAD_Y])
    sub(r1, r1, r4)  # r1: iy
    ldr(r4, [r5, _KERNEL_HEIGHT])
    add(r4, r4, r1)
    data(2, 0x9000 | 4 << 8 | _BOTTOM)  # str r4, [sp]
    ldr(r4, [r5, _HEIGHT])
    data(2, 0x9000 | 4 << 8 | _PATCH_HEIGHT)  # str r4, [sp]
    ldr(r4, [r5, _WIDTH])
    data(2, 0x9000 | 4 << 8 | _PATCH_WIDTH)  # str r4, [sp]
    ldr(r4, [r5, _X])
    lsl(r4, r4, 1)
    add(r2, r2, r4)  # r2: the inputs
    ldr(r4, [r5, _OUT_CHANNELS])
    lsl(r4, r4, 2)
    add(r3, r3, r4)  # r3: the list
    mov(r4, 1)
    lsl(r4, r4, 16)
    mov(r9, r4)  # r9: what an input adds to it
    mov(r4, 0)  # r4: the row's number, in the upper half
    b(ROWS)
    label(ROW)
    data(2, 0x9800 | 5 << 8 | _LEFT)  # ldr r5, [sp]: ix
    data(2, 0x9800 | 6 << 8 | _PATCH_HEIGHT)  # ldr r6, [sp]
    cmp(r1, r6)
    bcs(OUTSIDE)  # above too, where iy is negative
    data(2, 0x9800 | 6 << 8 | _PATCH_WIDTH)  # ldr r6, [sp]
    mov(r0, r1)
    mul(r0, r6)
    add(r0, r0, r5)
    data(2, 0x9800 | 7 << 8 | _PATCH_INPUT)  # ldr r7, [sp]
    mul(r0, r7)
    add(r0, r0, r2)
    b(COLUMNS)
    label(COLUMN)
    data(2, 0x9800 | 6 << 8 | _PATCH_WIDTH)  # ldr r6, [sp]
    cmp(r5, r6)
    bcs(BESIDE)
    data(2, 0x9800 | 7 << 8 | _PATCH_CHANNELS)  # ldr r7, [sp]
    label(CELL)  # [12]
    ldrh(r6, [r0, 0])
    add(r0, 2)
    cmp(r6, 0)
    beq(ZERO)
    orr(r6, r4)
    data(2, 0xC000 | 3 << 8 | 1 << 6)  # stmia r3!, {r6}
    label(ZERO)
    data(2, 0x4400 | 9 << 3 | 4)  # add r4, r9
    sub(r7, 1)
    bne(CELL)
    add(r5, 1)
    b(COLUMNS)
    label(BESIDE)
    data(2, 0x4400 | 8 << 3 | 4)  # add r4, r8
    data(2, 0x9800 | 7 << 8 | _PATCH_INPUT)  # ldr r7, [sp]
    add(r0, r0, r7)
    add(r5, 1)
    label(COLUMNS)
    data(2, 0x9800 | 6 << 8 | _RIGHT)  # ldr r6, [sp]
    cmp(r5, r6)
    blt(COLUMN)
    b(NEXT)
    label(OUTSIDE)
    data(2, 0x9800 | 7 << 8 | _PATCH_ROW)  # ldr r7, [sp]
    add(r4, r4, r7)
    label(NEXT)
    add(r1, 1)
    label(ROWS)
    data(2, 0x9800 | 6 << 8 | _BOTTOM)  # ldr r6, [sp]
    cmp(r1, r6)
    blt(ROW)
    mov(r6, 0)
    str(r6, [r3, 0])  # makes the last pair whole
    data(2, 0x9800 | 6 << 8 | _PATCH_SUMS)  # ldr r6, [sp]
    sub(r3, r3, r6)
    lsr(r3, r3, 2)
    data(2, 0x9800 | 0 << 8 | _PATCH_PLAN)  # ldr r0, [sp]
    str(r3, [r0, _END])
    data(2, 0xB000 | _PATCH_FRAME)  # add sp
    pop({r4, r5, r6, r7})
    mov(r8, r4)
    mov(r9, r5)
    mov(r10, r6)
    mov(r11, r7)
    mov(r0, 0)


@micropython.asm_thumb
def add_rows(r0, r1, r2):  # plan, w, s
    mov(r4, r8)
    mov(r5, r9)
    mov(r6, r10)
    mov(r7, r11)
    push({r4, r5, r6, r7})
    ldr(r4, [r0, _JOB])
    data(2, 0xB280 | 4 << 3 | 5)  # uxth r5, r4
    lsl(r5, r5, 2)
    add(r5, r5, r0)  # the layer
    push({r0, r1, r2, r5})
    ldr(r4, [r5, _POST])
    mov(r7, 1)
    lsl(r7, r4)
    lsr(r7, r7, 1)  # r7: rounding
    ldr(r0, [r5, _OUT_CHANNELS])
    ldr(r4, [r5, _BIASES])
    add(r4, r4, r0)
    lsl(r4, r4, 1)
    add(r1, r1, r4)  # r1: the end of the biases
    lsl(r0, r0, 1)
    neg(r0, r0)
    ldr(r3, [r5, _BIAS_SHIFT])
    ldr(r4, [r5, _SHIFT])
    label(BIAS)  # [10]
    data(2, 0x5E00 | 0 << 6 | 1 << 3 | 6)  # ldrsh r6, [r1, r0]
    lsl(r6, r3)
    asr(r6, r4)
    add(r6, r6, r7)
    data(2, 0xC000 | 2 << 8 | 1 << 6)  # stmia r2!, {r6}
    add(r0, 2)
    bne(BIAS)
    pop({r0, r2, r3, r5})
    mov(r1, r5)  # the layer
    ldr(r4, [r1, _SHIFT])
    mov(r9, r4)  # r9: shift
    mov(r7, 0x9E)
    lsl(r7, r7, 8)
    add(r7, 0x37)
    lsl(r7, r7, 16)
    mov(r6, 32)
    sub(r6, r6, r4)
    push({r6, r7})  # what leaves a part of a unit of the sequence, its step
    mov(r5, 1)
    lsl(r5, r5, 31)
    mov(r14, r5)  # r14: the Weyl sequence that rounds pairs, in the upper half
    ldr(r4, [r1, _OUT_CHANNELS])
    ldr(r5, [r1, _WEIGHTS])
    add(r5, r5, r4)
    lsl(r5, r5, 1)
    add(r2, r2, r5)
    mov(r11, r2)  # r11: the end of row 0
    mov(r12, r3)  # r12: the sums
    ldr(r6, [r0, _END])
    lsl(r6, r6, 2)
    add(r6, r6, r3)
    lsl(r5, r4, 2)
    add(r5, r5, r3)
    lsl(r4, r4, 1)
    mov(r10, r4)  # r10: bytes of a row
    push({r5, r6})  # the list, its end
    b(NEXT)
    label(PAIR)
    data(2, 0xC800 | 5 << 8 | 0b110)  # ldmia r5!, {r1, r2}
    data(2, 0x9000 | 5 << 8 | 0)  # str r5, [sp]
    data(2, 0xB200 | 1 << 3 | 4)  # sxth r4, r1: value
    data(2, 0xB200 | 2 << 3 | 5)  # sxth r5, r2: other
    lsr(r1, r1, 16)
    lsr(r2, r2, 16)
    mov(r6, r10)
    mul(r1, r6)
    mul(r2, r6)
    data(2, 0x4400 | 11 << 3 | 1)  # add r1, r11: the end of first
    data(2, 0x4400 | 11 << 3 | 2)  # add r2, r11: the end of second
    mov(r3, r12)
    neg(r0, r6)
    mov(r7, r14)
    data(2, 0x9800 | 6 << 8 | 2)  # ldr r6, [sp]
    lsr(r7, r6)
    mov(r8, r7)  # r8: what rounds the pair
    data(2, 0x9800 | 6 << 8 | 3)  # ldr r6, [sp]
    data(2, 0x4400 | 8 << 4 | 6 << 3 | 6)  # add r14, r6
    label(PRODUCTS)  # [18 for two products]
    data(2, 0x5E00 | 0 << 6 | 1 << 3 | 6)  # ldrsh r6, [r1, r0]
    mul(r6, r4)
    data(2, 0x5E00 | 0 << 6 | 2 << 3 | 7)  # ldrsh r7, [r2, r0]
    mul(r7, r5)
    add(r6, r6, r7)
    data(2, 0x4400 | 8 << 3 | 6)  # add r6, r8
    mov(r7, r9)
    asr(r6, r7)
    ldr(r7, [r3, 0])
    add(r6, r6, r7)
    data(2, 0xC000 | 3 << 8 | 1 << 6)  # stmia r3!, {r6}
    add(r0, 2)
    bne(PRODUCTS)
    label(NEXT)
    data(2, 0x9800 | 5 << 8 | 0)  # ldr r5, [sp]
    data(2, 0x9800 | 6 << 8 | 1)  # ldr r6, [sp]
    cmp(r5, r6)
    bcc(PAIR)
    data(2, 0xB000 | 4)  # add sp, 4
    pop({r4, r5, r6, r7})
    mov(r8, r4)
    mov(r9, r5)
    mov(r10, r6)
    mov(r11, r7)
    mov(r0, 0)


@micropython.asm_thumb
def put_outputs(r0, r1, r2, r3):  # plan, place, a, s
    ldr(r4, [r0, _JOB])
    data(2, 0xB280 | 4 << 3 | 5)  # uxth r5, r4
    lsl(r5, r5, 2)
    add(r5, r5, r0)  # the layer
    ldr(r0, [r5, _OUT_CHANNELS])
    add(r1, r1, r0)
    lsl(r1, r1, 1)
    add(r2, r2, r1)  # r2: the end of the outputs
    lsl(r0, r0, 1)
    neg(r0, r0)
    ldr(r4, [r5, _POST])
    mov(r6, 1)
    lsl(r6, r6, 15)
    sub(r6, 1)  # r6: the largest output
    mov(r1, 0)  # r1: the least
    ldr(r7, [r5, _RELU])
    cmp(r7, 0)
    bne(CELL)
    sub(r1, r1, r6)
    label(CELL)  # [14]
    data(2, 0xC800 | 3 << 8 | 1 << 7)  # ldmia r3!, {r7}
    asr(r7, r4)
    cmp(r7, r6)
    ble(BELOW)
    mov(r7, r6)
    label(BELOW)
    cmp(r7, r1)
    bge(ABOVE)
    mov(r7, r1)
    label(ABOVE)
    data(2, 0x5200 | 0 << 6 | 2 << 3 | 7)  # strh r7, [r2, r0]
    add(r0, 2)
    bne(CELL)


# Words of the frame of `dense_backward`.
_AT_INPUT = const(0)  # address
_INPUTS_END = const(1)
_ROW_END = const(2)
_ROW_BYTES = const(3)
_OUTPUTS_END = const(4)  # address
_EVERY = const(5)
_PROPAGATE = const(6)
_DENSE_POST = const(7)
_DENSE_NARROW = const(8)  # what leaves a part of a delta's unit of the Weyl sequence
_ROW_RANDOM = const(9)  # what a row adds to the Weyl sequence
_PLAN = const(10)
_DENSE_DITHER = const(11)
_DENSE_FRAME = const(12)


@micropython.asm_thumb
def dense_backward(r0, r1, r2, r3):  # plan, at, w, a
    mov(r4, r8)
    mov(r5, r9)
    mov(r6, r10)
    mov(r7, r11)
    push({r4, r5, r6, r7})
    data(2, 0xB080 | _DENSE_FRAME)  # sub sp, _DENSE_FRAME
    data(2, 0x9000 | 0 << 8 | _PLAN)  # str r0, [sp]
    lsl(r1, r1, 2)
    add(r1, r1, r0)  # the layer
    ldr(r5, [r1, _OUT_CHANNELS])
    lsl(r6, r5, 1)
    data(2, 0x9000 | 6 << 8 | _ROW_BYTES)  # str r6, [sp]
    ldr(r7, [r1, _WEIGHTS])
    lsl(r7, r7, 1)
    add(r7, r7, r2)
    add(r7, r7, r6)
    data(2, 0x9000 | 7 << 8 | _ROW_END)  # str r7, [sp]
    ldr(r7, [r1, _Y])
    lsl(r7, r7, 1)
    add(r7, r7, r3)
    add(r7, r7, r6)
    data(2, 0x9000 | 7 << 8 | _OUTPUTS_END)  # str r7, [sp]
    ldr(r7, [r1, _X])
    lsl(r7, r7, 1)
    add(r7, r7, r3)
    data(2, 0x9000 | 7 << 8 | _AT_INPUT)  # str r7, [sp]
    ldr(r4, [r1, _CHANNELS])
    lsl(r4, r4, 1)
    add(r7, r7, r4)
    data(2, 0x9000 | 7 << 8 | _INPUTS_END)  # str r7, [sp]
    ldr(r7, [r1, _BACK])
    data(2, 0x9000 | 7 << 8 | _PROPAGATE)  # str r7, [sp]
    mov(r4, 2)  # LINEAR
    and_(r7, r4)
    data(2, 0x9000 | 7 << 8 | _EVERY)  # str r7, [sp]
    ldr(r7, [r1, _BACK_POST])
    data(2, 0x9000 | 7 << 8 | _DENSE_POST)  # str r7, [sp]
    ldr(r4, [r1, _BACK_SHIFT])
    add(r7, r7, r4)
    mov(r4, 32)
    sub(r4, r4, r7)
    data(2, 0x9000 | 4 << 8 | _DENSE_NARROW)  # str r4, [sp]
    ldr(r4, [r0, _DITHER])
    lsl(r7, r4, 16)
    data(2, 0x9000 | 7 << 8 | _DENSE_DITHER)  # str r7, [sp]
    ldr(r7, [r0, _RANDOM])
    lsl(r7, r7, 16)
    mov(r10, r7)  # r10: the Weyl sequence, in the upper half
    mov(r6, 0x9E)
    lsl(r6, r6, 8)
    add(r6, 0x37)
    lsl(r6, r6, 16)
    mov(r11, r6)  # r11: its step
    mul(r5, r6)
    data(2, 0x9000 | 5 << 8 | _ROW_RANDOM)  # str r5, [sp]
    mov(r6, 1)
    lsl(r6, r6, 15)
    sub(r6, 1)
    mov(r9, r6)  # r9: the largest weight
    lsl(r6, r6, 1)
    mov(r14, r6)  # r14: twice that
    ldr(r4, [r1, _BACK_SHIFT])  # r4: shift
    b(NEXT)
    label(INPUT)  # r6: its address
    mov(r0, 0)
    data(2, 0x5E00 | 0 << 6 | 6 << 3 | 3)  # ldrsh r3, [r6, r0]: value
    data(2, 0x9800 | 7 << 8 | _EVERY)  # ldr r7, [sp]
    orr(r7, r3)
    beq(PASSED_OVER)
    mov(r7, r10)
    data(2, 0x9800 | 1 << 8 | _DENSE_DITHER)  # ldr r1, [sp]
    add(r7, r7, r1)
    data(2, 0x9800 | 1 << 8 | _DENSE_NARROW)  # ldr r1, [sp]
    lsr(r7, r1)
    mov(r8, r7)  # r8: what rounds the delta, and the sum of the products, of which the upper bits are lost
    mov(r7, 0)
    mov(r12, r7)  # r12: the sum of the shifted products
    data(2, 0x9800 | 1 << 8 | _OUTPUTS_END)  # ldr r1, [sp]
    data(2, 0x9800 | 2 << 8 | _ROW_END)  # ldr r2, [sp]
    data(2, 0x9800 | 0 << 8 | _ROW_BYTES)  # ldr r0, [sp]
    neg(r0, r0)
    label(CELL)  # [25 for product and update]
    data(2, 0x5E00 | 0 << 6 | 1 << 3 | 5)  # ldrsh r5, [r1, r0]: delta
    data(2, 0x5E00 | 0 << 6 | 2 << 3 | 6)  # ldrsh r6, [r2, r0]: weight
    mov(r7, r5)
    mul(r7, r6)
    data(2, 0x4400 | 8 << 4 | 7 << 3 | 0)  # add r8, r7
    asr(r7, r4)
    data(2, 0x4400 | 8 << 4 | 7 << 3 | 4)  # add r12, r7
    mul(r5, r3)
    data(2, 0x4400 | 8 << 4 | 11 << 3 | 2)  # add r10, r11
    mov(r7, r10)
    lsr(r7, r7, 16)
    add(r5, r5, r7)
    asr(r5, r5, 16)
    sub(r6, r6, r5)
    mov(r7, r6)
    data(2, 0x4400 | 9 << 3 | 7)  # add r7, r9
    data(2, 0x4500 | 14 << 3 | 7)  # cmp r7, r14
    bhi(TOO_LARGE)
    label(STORE)
    data(2, 0x5200 | 0 << 6 | 2 << 3 | 6)  # strh r6, [r2, r0]
    add(r0, 2)
    bne(CELL)
    data(2, 0x9800 | 7 << 8 | _PROPAGATE)  # ldr r7, [sp]
    cmp(r7, 0)
    beq(ROW)
    mov(r5, r12)
    mov(r7, r5)
    lsl(r7, r4)
    mov(r6, r8)
    sub(r6, r6, r7)  # what the shifts have cut off
    lsr(r6, r4)
    add(r5, r5, r6)
    data(2, 0x9800 | 7 << 8 | _DENSE_POST)  # ldr r7, [sp]
    asr(r5, r7)
    mov(r7, r9)
    cmp(r5, r7)
    ble(BELOW)
    mov(r5, r7)
    label(BELOW)
    neg(r7, r7)
    cmp(r5, r7)
    bge(ABOVE)
    mov(r5, r7)
    label(ABOVE)
    data(2, 0x9800 | 6 << 8 | _AT_INPUT)  # ldr r6, [sp]
    strh(r5, [r6, 0])
    b(ROW)
    label(TOO_LARGE)
    asr(r6, r6, 31)
    lsl(r6, r6, 1)
    add(r6, 1)  # its sign
    mov(r7, r9)
    mul(r6, r7)
    b(STORE)
    label(PASSED_OVER)
    data(2, 0x9800 | 7 << 8 | _ROW_RANDOM)  # ldr r7, [sp]
    data(2, 0x4400 | 8 << 4 | 7 << 3 | 2)  # add r10, r7
    label(ROW)
    data(2, 0x9800 | 6 << 8 | _ROW_END)  # ldr r6, [sp]
    data(2, 0x9800 | 7 << 8 | _ROW_BYTES)  # ldr r7, [sp]
    add(r6, r6, r7)
    data(2, 0x9000 | 6 << 8 | _ROW_END)  # str r6, [sp]
    data(2, 0x9800 | 6 << 8 | _AT_INPUT)  # ldr r6, [sp]
    add(r6, 2)
    data(2, 0x9000 | 6 << 8 | _AT_INPUT)  # str r6, [sp]
    label(NEXT)
    data(2, 0x9800 | 6 << 8 | _AT_INPUT)  # ldr r6, [sp]
    data(2, 0x9800 | 7 << 8 | _INPUTS_END)  # ldr r7, [sp]
    cmp(r6, r7)
    bcc(INPUT)
    mov(r7, r10)
    lsr(r7, r7, 16)
    data(2, 0x9800 | 6 << 8 | _PLAN)  # ldr r6, [sp]
    str(r7, [r6, _RANDOM])
    data(2, 0xB000 | _DENSE_FRAME)  # add sp, _DENSE_FRAME
    pop({r4, r5, r6, r7})
    mov(r8, r4)
    mov(r9, r5)
    mov(r10, r6)
    mov(r11, r7)
    mov(r0, 0)


@micropython.asm_thumb
def bias_backward(r0, r1, r2, r3):  # plan, at, u, a
    mov(r4, r8)
    mov(r5, r9)
    mov(r6, r10)
    mov(r7, r11)
    push({r4, r5, r6, r7})
    lsl(r1, r1, 2)
    add(r1, r1, r0)  # the layer
    ldr(r5, [r0, _RANDOM])
    lsl(r5, r5, 16)
    mov(r10, r5)  # r10: the Weyl sequence, in the upper half
    mov(r6, 0x9E)
    lsl(r6, r6, 8)
    add(r6, 0x37)
    lsl(r6, r6, 16)
    mov(r11, r6)  # r11: its step
    mov(r6, 1)
    lsl(r6, r6, 15)
    sub(r6, 1)
    mov(r8, r6)  # r8: the largest bias
    lsl(r6, r6, 1)
    mov(r9, r6)  # r9: twice that
    ldr(r6, [r1, _BIAS_STEP])
    mov(r14, r6)  # r14: step
    mov(r7, 32)
    sub(r7, r7, r6)
    mov(r12, r7)  # r12: 32 - step
    ldr(r6, [r1, _BIASES])
    lsl(r6, r6, 1)
    add(r2, r2, r6)  # r2: the bias's address
    ldr(r6, [r1, _Y])
    lsl(r6, r6, 1)
    add(r6, r6, r3)
    ldr(r3, [r1, _OUT_CHANNELS])
    lsl(r3, r3, 1)  # r3: bytes of a position
    ldr(r4, [r1, _OUT_HEIGHT])
    ldr(r7, [r1, _OUT_WIDTH])
    mul(r4, r7)
    mul(r4, r3)
    add(r4, r4, r6)  # r4: the end of the deltas
    add(r7, r6, r3)  # the end of the first position's
    push({r0, r7})
    mov(r0, r6)  # r0: the output's first delta
    mov(r1, 0)
    label(OUTPUT)
    mov(r5, 0)  # r5: the sum
    mov(r6, r0)
    label(POSITION)  # [7]
    data(2, 0x5E00 | 1 << 6 | 6 << 3 | 7)  # ldrsh r7, [r6, r1]
    add(r5, r5, r7)
    add(r6, r6, r3)
    cmp(r6, r4)
    bcc(POSITION)
    data(2, 0x4400 | 8 << 4 | 11 << 3 | 2)  # add r10, r11
    mov(r7, r10)
    mov(r6, r12)
    lsr(r7, r6)
    add(r5, r5, r7)
    mov(r6, r14)
    asr(r5, r6)
    data(2, 0x5E00 | 1 << 6 | 2 << 3 | 7)  # ldrsh r7, [r2, r1]: the bias
    sub(r7, r7, r5)
    mov(r6, r7)
    data(2, 0x4400 | 8 << 3 | 6)  # add r6, r8
    data(2, 0x4500 | 9 << 3 | 6)  # cmp r6, r9
    bhi(TOO_LARGE)
    label(STORE)
    strh(r7, [r2, 0])
    add(r2, 2)
    add(r0, 2)
    data(2, 0x9800 | 6 << 8 | 1)  # ldr r6, [sp]
    cmp(r0, r6)
    bcc(OUTPUT)
    pop({r0, r7})
    mov(r7, r10)
    lsr(r7, r7, 16)
    str(r7, [r0, _RANDOM])
    pop({r4, r5, r6, r7})
    mov(r8, r4)
    mov(r9, r5)
    mov(r10, r6)
    mov(r11, r7)
    mov(r0, 0)
    b(RETURN)
    label(TOO_LARGE)
    asr(r7, r7, 31)
    lsl(r7, r7, 1)
    add(r7, 1)  # its sign
    mov(r6, r8)
    mul(r7, r6)
    b(STORE)
    label(RETURN)
