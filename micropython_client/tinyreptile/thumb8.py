"""`thumb` for 8-bit weights: the same loops, where they touch weights; the others are `thumb`'s own.

Weights lie in bytes, so a row's offset counts in ones, and twice that where it is one of deltas. In addition to what
`thumb` says:

    ldrsb t, [n, m]   0x5600 | m << 6 | n << 3 | t       strb  t, [n, m]   0x5400 | m << 6 | n << 3 | t
"""

from micropython import const

from .thumb import list_patch, put_outputs

# The cells of the plan, in bytes; see `plan`.
_RANDOM = const(0 * 4)
_JOB = const(7 * 4)
_END = const(8 * 4)
_DITHER = const(9 * 4)
_CHANNELS = const(3 * 4)
_OUT_HEIGHT = const(4 * 4)
_OUT_WIDTH = const(5 * 4)
_OUT_CHANNELS = const(6 * 4)
_WEIGHTS = const(12 * 4)
_BIASES = const(13 * 4)
_X = const(14 * 4)
_Y = const(15 * 4)
_SHIFT = const(17 * 4)
_POST = const(18 * 4)
_BIAS_SHIFT = const(19 * 4)
_BACK = const(20 * 4)
_BACK_SHIFT = const(21 * 4)
_BACK_POST = const(22 * 4)
_STEP = const(24 * 4)
_BIAS_STEP = const(25 * 4)


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
    add(r1, r1, r4)  # r1: the end of the biases
    neg(r0, r0)
    ldr(r3, [r5, _BIAS_SHIFT])
    ldr(r4, [r5, _SHIFT])
    label(BIAS)  # [10]
    data(2, 0x5600 | 0 << 6 | 1 << 3 | 6)  # ldrsb r6, [r1, r0]
    lsl(r6, r3)
    asr(r6, r4)
    add(r6, r6, r7)
    data(2, 0xC000 | 2 << 8 | 1 << 6)  # stmia r2!, {r6}
    add(r0, 1)
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
    add(r2, r2, r5)
    mov(r11, r2)  # r11: the end of row 0
    mov(r12, r3)  # r12: the sums
    ldr(r6, [r0, _END])
    lsl(r6, r6, 2)
    add(r6, r6, r3)
    lsl(r5, r4, 2)
    add(r5, r5, r3)
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
    data(2, 0x5600 | 0 << 6 | 1 << 3 | 6)  # ldrsb r6, [r1, r0]
    mul(r6, r4)
    data(2, 0x5600 | 0 << 6 | 2 << 3 | 7)  # ldrsb r7, [r2, r0]
    mul(r7, r5)
    add(r6, r6, r7)
    data(2, 0x4400 | 8 << 3 | 6)  # add r6, r8
    mov(r7, r9)
    asr(r6, r7)
    ldr(r7, [r3, 0])
    add(r6, r6, r7)
    data(2, 0xC000 | 3 << 8 | 1 << 6)  # stmia r3!, {r6}
    add(r0, 1)
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
_DENSE_STEP = const(11)
_DENSE_DITHER = const(12)
_DENSE_FRAME = const(13)


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
    data(2, 0x9000 | 5 << 8 | _ROW_BYTES)  # str r5, [sp]
    lsl(r6, r5, 1)
    ldr(r7, [r1, _WEIGHTS])
    add(r7, r7, r2)
    add(r7, r7, r5)
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
    orr(r7, r4)
    mov(r10, r7)  # r10: the Weyl sequence, in the upper half; below it what refines it
    mov(r6, 0x9E)
    lsl(r6, r6, 8)
    add(r6, 0x37)
    lsl(r6, r6, 16)
    mov(r11, r6)  # r11: its step
    mul(r5, r6)
    data(2, 0x9000 | 5 << 8 | _ROW_RANDOM)  # str r5, [sp]
    ldr(r4, [r1, _STEP])
    data(2, 0x9000 | 4 << 8 | _DENSE_STEP)  # str r4, [sp]
    mov(r6, 32)
    sub(r6, r6, r4)
    mov(r14, r6)  # r14: 32 - step
    ldr(r4, [r1, _BACK_SHIFT])
    mov(r9, r4)  # r9: shift
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
    label(CELL)  # [30 for product and update]
    lsl(r5, r0, 1)
    data(2, 0x5E00 | 5 << 6 | 1 << 3 | 5)  # ldrsh r5, [r1, r5]: delta
    data(2, 0x5600 | 0 << 6 | 2 << 3 | 6)  # ldrsb r6, [r2, r0]: weight
    mov(r7, r5)
    mul(r7, r6)
    data(2, 0x4400 | 8 << 4 | 7 << 3 | 0)  # add r8, r7
    mov(r4, r9)
    asr(r7, r4)
    data(2, 0x4400 | 8 << 4 | 7 << 3 | 4)  # add r12, r7
    mul(r5, r3)
    data(2, 0x4400 | 8 << 4 | 11 << 3 | 2)  # add r10, r11
    mov(r7, r10)
    mov(r4, r14)
    lsr(r7, r4)
    add(r5, r5, r7)
    data(2, 0x9800 | 4 << 8 | _DENSE_STEP)  # ldr r4, [sp]
    asr(r5, r4)
    sub(r6, r6, r5)
    mov(r7, r6)
    add(r7, 127)
    cmp(r7, 254)
    bhi(TOO_LARGE)
    label(STORE)
    data(2, 0x5400 | 0 << 6 | 2 << 3 | 6)  # strb r6, [r2, r0]
    add(r0, 1)
    bne(CELL)
    data(2, 0x9800 | 7 << 8 | _PROPAGATE)  # ldr r7, [sp]
    cmp(r7, 0)
    beq(ROW)
    mov(r5, r12)
    mov(r4, r9)
    mov(r7, r5)
    lsl(r7, r4)
    mov(r6, r8)
    sub(r6, r6, r7)  # what the shifts have cut off
    lsr(r6, r4)
    add(r5, r5, r6)
    data(2, 0x9800 | 7 << 8 | _DENSE_POST)  # ldr r7, [sp]
    asr(r5, r7)
    mov(r7, 1)
    lsl(r7, r7, 15)
    sub(r7, 1)
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
    mov(r7, 127)
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
    ldr(r6, [r1, _BIAS_STEP])
    mov(r14, r6)  # r14: step
    mov(r7, 32)
    sub(r7, r7, r6)
    mov(r12, r7)  # r12: 32 - step
    ldr(r6, [r1, _BIASES])
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
    data(2, 0x5600 | 1 << 6 | 2 << 3 | 7)  # ldrsb r7, [r2, r1]: the bias
    sub(r7, r7, r5)
    mov(r6, r7)
    add(r6, 127)
    cmp(r6, 254)
    bhi(TOO_LARGE)
    label(STORE)
    strb(r7, [r2, 0])
    add(r2, 1)
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
    mov(r6, 127)
    mul(r7, r6)
    b(STORE)
    label(RETURN)
