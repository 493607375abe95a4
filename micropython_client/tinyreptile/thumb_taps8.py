"""`taps8` in Thumb assembly: bit for bit the same. `thumb` explains how it is written."""

from micropython import const

from .thumb_taps import add_gradients, list_reach, list_tap

# The cells of the plan, in bytes; see `plan`.
_RANDOM = const(0 * 4)
_JOB = const(7 * 4)
_END = const(8 * 4)
_DITHER = const(9 * 4)
_CHANNELS = const(3 * 4)
_OUT_CHANNELS = const(6 * 4)
_KERNEL_HEIGHT = const(7 * 4)
_KERNEL_WIDTH = const(8 * 4)
_WEIGHTS = const(12 * 4)
_X = const(14 * 4)
_Y = const(15 * 4)
_BACK_SHIFT = const(21 * 4)
_BACK_POST = const(22 * 4)
_SUM_SHIFT = const(23 * 4)
_STEP = const(24 * 4)


# Words of the frame of `put_deltas`.
_LIST = const(0)
_LIST_END = const(1)
_INPUTS = const(2)  # address of the channel's first input
_INPUT = const(3)  # bytes from one to the next
_ROW = const(4)  # the end of the channel's row of weights of tap 0
_TAP = const(5)  # bytes from one tap to the next
_DELTAS = const(6)  # the end of the deltas of position 0
_DELTAS_POST = const(7)
_NARROW = const(8)  # what leaves a part of a delta's unit of the Weyl sequence
_BEHIND = const(9)  # the end of the input's taps in the list
_PLACE = const(10)  # address of the input
_SEQUENCE = const(11)  # what a position adds to the Weyl sequence, in the upper half
_START = const(12)  # of position 0
_FRAME = const(13)


@micropython.asm_thumb
def put_deltas(r0, r1, r2, r3):  # plan, w, a, s
    mov(r4, r8)
    mov(r5, r9)
    mov(r6, r10)
    push({r4, r5, r6})
    data(2, 0xB080 | _FRAME)  # sub sp, _FRAME
    ldr(r4, [r0, _END])
    lsl(r4, r4, 2)
    add(r4, r4, r3)
    data(2, 0x9000 | 4 << 8 | _LIST_END)  # str r4, [sp]
    ldr(r4, [r0, _RANDOM])
    ldr(r5, [r0, _DITHER])
    add(r4, r4, r5)
    lsl(r4, r4, 16)
    data(2, 0x9000 | 4 << 8 | _START)  # str r4, [sp]
    mov(r4, 0x9E)
    lsl(r4, r4, 8)
    add(r4, 0x37)
    lsl(r4, r4, 16)
    data(2, 0x9000 | 4 << 8 | _SEQUENCE)  # str r4, [sp]
    ldr(r4, [r0, _JOB])
    data(2, 0xB280 | 4 << 3 | 5)  # uxth r5, r4
    lsr(r4, r4, 16)  # the channel
    lsl(r5, r5, 2)
    add(r0, r0, r5)  # the layer
    ldr(r5, [r0, _X])
    add(r5, r5, r4)
    lsl(r5, r5, 1)
    add(r5, r5, r2)
    data(2, 0x9000 | 5 << 8 | _INPUTS)  # str r5, [sp]
    ldr(r6, [r0, _CHANNELS])
    lsl(r6, r6, 1)
    data(2, 0x9000 | 6 << 8 | _INPUT)  # str r6, [sp]
    ldr(r7, [r0, _OUT_CHANNELS])
    mul(r6, r7)
    lsr(r6, r6, 1)
    data(2, 0x9000 | 6 << 8 | _TAP)  # str r6, [sp]
    ldr(r5, [r0, _WEIGHTS])
    add(r5, r5, r7)
    mul(r4, r7)
    add(r5, r5, r4)
    add(r5, r5, r1)
    data(2, 0x9000 | 5 << 8 | _ROW)  # str r5, [sp]
    ldr(r5, [r0, _Y])
    add(r5, r5, r7)
    lsl(r5, r5, 1)
    add(r5, r5, r2)
    data(2, 0x9000 | 5 << 8 | _DELTAS)  # str r5, [sp]
    ldr(r5, [r0, _KERNEL_HEIGHT])
    ldr(r6, [r0, _KERNEL_WIDTH])
    mul(r5, r6)
    mul(r5, r7)
    lsl(r5, r5, 2)
    add(r5, r5, r3)
    data(2, 0x9000 | 5 << 8 | _LIST)  # str r5, [sp]
    mov(r10, r7)  # r10: bytes of a row
    ldr(r5, [r0, _BACK_POST])
    data(2, 0x9000 | 5 << 8 | _DELTAS_POST)  # str r5, [sp]
    ldr(r6, [r0, _BACK_SHIFT])
    mov(r9, r6)  # r9: shift
    add(r5, r5, r6)
    mov(r6, 32)
    sub(r6, r6, r5)
    data(2, 0x9000 | 6 << 8 | _NARROW)  # str r6, [sp]
    b(NEXT)
    label(INPUT)  # r5: the list
    ldr(r4, [r5, 0])
    add(r5, 4)
    data(2, 0x9000 | 5 << 8 | _LIST)  # str r5, [sp]
    data(2, 0xB280 | 4 << 3 | 6)  # uxth r6, r4
    data(2, 0x9800 | 7 << 8 | _SEQUENCE)  # ldr r7, [sp]
    mul(r7, r6)
    data(2, 0x9800 | 3 << 8 | _START)  # ldr r3, [sp]
    add(r7, r7, r3)
    data(2, 0x9800 | 3 << 8 | _NARROW)  # ldr r3, [sp]
    lsr(r7, r3)
    mov(r8, r7)  # r8: what rounds the delta, and the sum of the products, of which the upper bits are lost
    data(2, 0x9800 | 7 << 8 | _INPUT)  # ldr r7, [sp]
    mul(r6, r7)
    data(2, 0x9800 | 7 << 8 | _INPUTS)  # ldr r7, [sp]
    add(r6, r6, r7)
    data(2, 0x9000 | 6 << 8 | _PLACE)  # str r6, [sp]
    lsr(r4, r4, 16)
    lsl(r4, r4, 2)
    add(r4, r4, r5)
    data(2, 0x9000 | 4 << 8 | _BEHIND)  # str r4, [sp]
    mov(r7, 0)
    mov(r12, r7)  # r12: the sum of the shifted products
    label(TAPS)  # r5: the list, r4: behind
    sub(r6, r4, r5)
    cmp(r6, 8)
    bcc(LAST)
    data(2, 0xC800 | 5 << 8 | 0b11000000)  # ldmia r5!, {r6, r7}
    data(2, 0x9000 | 5 << 8 | _LIST)  # str r5, [sp]
    lsr(r1, r6, 16)
    data(2, 0xB280 | 6 << 3 | 2)  # uxth r2, r6
    lsr(r3, r7, 16)
    data(2, 0xB280 | 7 << 3 | 4)  # uxth r4, r7
    data(2, 0x9800 | 5 << 8 | _TAP)  # ldr r5, [sp]
    mul(r1, r5)
    mul(r3, r5)
    mov(r5, r10)
    neg(r0, r5)
    lsl(r5, r5, 1)
    mul(r2, r5)
    mul(r4, r5)
    data(2, 0x9800 | 5 << 8 | _ROW)  # ldr r5, [sp]
    add(r1, r1, r5)
    add(r3, r3, r5)
    data(2, 0x9800 | 5 << 8 | _DELTAS)  # ldr r5, [sp]
    add(r2, r2, r5)
    add(r4, r4, r5)
    label(CELL)  # [19 for two products]
    lsl(r7, r0, 1)
    data(2, 0x5E00 | 7 << 6 | 2 << 3 | 6)  # ldrsh r6, [r2, r7]
    data(2, 0x5E00 | 7 << 6 | 4 << 3 | 7)  # ldrsh r7, [r4, r7]
    data(2, 0x5600 | 0 << 6 | 1 << 3 | 5)  # ldrsb r5, [r1, r0]
    mul(r5, r6)
    data(2, 0x5600 | 0 << 6 | 3 << 3 | 6)  # ldrsb r6, [r3, r0]
    mul(r6, r7)
    add(r5, r5, r6)
    data(2, 0x4400 | 8 << 4 | 5 << 3 | 0)  # add r8, r5
    mov(r7, r9)
    asr(r5, r7)
    data(2, 0x4400 | 8 << 4 | 5 << 3 | 4)  # add r12, r5
    add(r0, 1)
    bne(CELL)
    data(2, 0x9800 | 5 << 8 | _LIST)  # ldr r5, [sp]
    data(2, 0x9800 | 4 << 8 | _BEHIND)  # ldr r4, [sp]
    b(TAPS)
    label(LAST)  # r6: what is left of the taps, 4 bytes or none
    cmp(r6, 0)
    beq(PUT)
    ldr(r6, [r5, 0])
    add(r5, 4)
    data(2, 0x9000 | 5 << 8 | _LIST)  # str r5, [sp]
    lsr(r1, r6, 16)
    data(2, 0xB280 | 6 << 3 | 2)  # uxth r2, r6
    data(2, 0x9800 | 5 << 8 | _TAP)  # ldr r5, [sp]
    mul(r1, r5)
    mov(r5, r10)
    neg(r0, r5)
    lsl(r5, r5, 1)
    mul(r2, r5)
    data(2, 0x9800 | 5 << 8 | _ROW)  # ldr r5, [sp]
    add(r1, r1, r5)
    data(2, 0x9800 | 5 << 8 | _DELTAS)  # ldr r5, [sp]
    add(r2, r2, r5)
    mov(r7, r9)
    label(SINGLE)  # [12 for one product]
    lsl(r6, r0, 1)
    data(2, 0x5E00 | 6 << 6 | 2 << 3 | 6)  # ldrsh r6, [r2, r6]
    data(2, 0x5600 | 0 << 6 | 1 << 3 | 5)  # ldrsb r5, [r1, r0]
    mul(r5, r6)
    data(2, 0x4400 | 8 << 4 | 5 << 3 | 0)  # add r8, r5
    asr(r5, r7)
    data(2, 0x4400 | 8 << 4 | 5 << 3 | 4)  # add r12, r5
    add(r0, 1)
    bne(SINGLE)
    label(PUT)
    mov(r5, r12)
    mov(r4, r9)
    mov(r7, r5)
    lsl(r7, r4)
    mov(r6, r8)
    sub(r6, r6, r7)  # what the shifts have cut off
    lsr(r6, r4)
    add(r5, r5, r6)
    data(2, 0x9800 | 6 << 8 | _DELTAS_POST)  # ldr r6, [sp]
    asr(r5, r6)
    mov(r6, 1)
    lsl(r6, r6, 15)
    sub(r6, 1)
    cmp(r5, r6)
    ble(BELOW)
    mov(r5, r6)
    label(BELOW)
    neg(r6, r6)
    cmp(r5, r6)
    bge(ABOVE)
    mov(r5, r6)
    label(ABOVE)
    data(2, 0x9800 | 6 << 8 | _PLACE)  # ldr r6, [sp]
    strh(r5, [r6, 0])
    label(NEXT)
    data(2, 0x9800 | 5 << 8 | _LIST)  # ldr r5, [sp]
    data(2, 0x9800 | 6 << 8 | _LIST_END)  # ldr r6, [sp]
    cmp(r5, r6)
    bcc(INPUT)
    data(2, 0xB000 | _FRAME)  # add sp, _FRAME
    pop({r4, r5, r6})
    mov(r8, r4)
    mov(r9, r5)
    mov(r10, r6)
    mov(r0, 0)


@micropython.asm_thumb
def update_channel(r0, r1, r2):  # plan, u, s
    mov(r4, r8)
    mov(r5, r9)
    mov(r6, r10)
    mov(r7, r11)
    push({r4, r5, r6, r7})
    ldr(r4, [r0, _JOB])
    data(2, 0xB280 | 4 << 3 | 5)  # uxth r5, r4
    lsr(r4, r4, 16)  # the channel
    lsl(r5, r5, 2)
    add(r5, r5, r0)  # the layer
    ldr(r7, [r0, _RANDOM])
    lsl(r7, r7, 16)
    ldr(r6, [r0, _DITHER])
    orr(r7, r6)
    mov(r10, r7)  # r10: the Weyl sequence, in the upper half; below it what refines it
    mov(r6, 0x9E)
    lsl(r6, r6, 8)
    add(r6, 0x37)
    lsl(r6, r6, 16)
    mov(r11, r6)  # r11: its step
    ldr(r6, [r5, _OUT_CHANNELS])
    ldr(r7, [r5, _WEIGHTS])
    add(r7, r7, r6)
    mul(r4, r6)
    add(r7, r7, r4)
    add(r1, r1, r7)  # the end of the row of tap 0
    ldr(r7, [r5, _CHANNELS])
    mul(r7, r6)  # bytes from one tap to the next
    mov(r12, r6)  # r12: bytes of a row
    ldr(r6, [r5, _KERNEL_HEIGHT])
    ldr(r3, [r5, _KERNEL_WIDTH])
    mul(r6, r3)  # taps
    push({r0, r6, r7})
    ldr(r3, [r5, _SUM_SHIFT])
    ldr(r4, [r5, _STEP])
    sub(r4, r4, r3)  # r4: step
    mov(r3, 32)
    sub(r3, r3, r4)  # r3: what brings the sequence to the gradient's format
    label(TAP)
    mov(r0, r12)
    neg(r0, r0)
    label(CELL)  # [18]
    data(2, 0xC800 | 2 << 8 | 1 << 5)  # ldmia r2!, {r5}: the gradient
    data(2, 0x4400 | 8 << 4 | 11 << 3 | 2)  # add r10, r11
    mov(r7, r10)
    lsr(r7, r3)
    add(r5, r5, r7)
    asr(r5, r4)
    data(2, 0x5600 | 0 << 6 | 1 << 3 | 6)  # ldrsb r6, [r1, r0]: the weight
    sub(r6, r6, r5)
    mov(r7, r6)
    add(r7, 127)
    cmp(r7, 254)
    bhi(TOO_LARGE)
    label(STORE)
    data(2, 0x5400 | 0 << 6 | 1 << 3 | 6)  # strb r6, [r1, r0]
    add(r0, 1)
    bne(CELL)
    data(2, 0x9800 | 6 << 8 | 2)  # ldr r6, [sp]
    add(r1, r1, r6)
    data(2, 0x9800 | 6 << 8 | 1)  # ldr r6, [sp]
    sub(r6, 1)
    data(2, 0x9000 | 6 << 8 | 1)  # str r6, [sp]
    bne(TAP)
    pop({r0, r6, r7})
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
    asr(r6, r6, 31)
    lsl(r6, r6, 1)
    add(r6, 1)  # its sign
    mov(r7, 127)
    mul(r6, r7)
    b(STORE)
    label(RETURN)
