"""`taps` in Thumb assembly: bit for bit the same. `thumb` explains how it is written."""

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
_X = const(14 * 4)
_Y = const(15 * 4)
_BACK = const(20 * 4)
_BACK_SHIFT = const(21 * 4)
_BACK_POST = const(22 * 4)
_SUM_SHIFT = const(23 * 4)
_STEP = const(24 * 4)


# Words of the frame of `list_tap`.
_TAP_PLAN = const(0)
_TAP_SUMS = const(1)
_TAP_INPUTS = const(2)  # address of the channel's first input
_TAP_INPUT = const(3)  # bytes from one to the next
_TAP_HEIGHT = const(4)  # of the inputs
_TAP_LEFT = const(5)  # the first output's ix
_TAP_OUT_WIDTH = const(6)
_TAP_ROWS = const(7)  # of outputs that are left
_TAP_FRAME = const(8)


@micropython.asm_thumb
def list_tap(r0, r1, r2, r3):  # plan, tap, a, s
    mov(r4, r8)
    mov(r5, r9)
    mov(r6, r10)
    mov(r7, r11)
    push({r4, r5, r6, r7})
    data(2, 0xB080 | _TAP_FRAME)  # sub sp
    data(2, 0x9000 | 0 << 8 | _TAP_PLAN)  # str r0, [sp]
    data(2, 0x9000 | 3 << 8 | _TAP_SUMS)  # str r3, [sp]
    ldr(r4, [r0, _JOB])
    data(2, 0xB280 | 4 << 3 | 5)  # uxth r5, r4
    lsl(r5, r5, 2)
    add(r5, r5, r0)  # the layer
    lsr(r4, r4, 16)  # the channel
    ldr(r6, [r5, _X])
    add(r4, r4, r6)
    lsl(r4, r4, 1)
    add(r4, r4, r2)
    data(2, 0x9000 | 4 << 8 | _TAP_INPUTS)  # str r4, [sp]
    ldr(r6, [r5, _CHANNELS])
    lsl(r6, r6, 1)
    data(2, 0x9000 | 6 << 8 | _TAP_INPUT)  # str r6, [sp]
    ldr(r7, [r5, _STRIDE])
    mov(r9, r7)  # r9: stride
    mul(r6, r7)
    mov(r8, r6)  # r8: bytes from an input to the next one that the tap meets
    ldr(r4, [r5, _HEIGHT])
    data(2, 0x9000 | 4 << 8 | _TAP_HEIGHT)  # str r4, [sp]
    ldr(r4, [r5, _OUT_WIDTH])
    data(2, 0x9000 | 4 << 8 | _TAP_OUT_WIDTH)  # str r4, [sp]
    ldr(r4, [r5, _OUT_HEIGHT])
    data(2, 0x9000 | 4 << 8 | _TAP_ROWS)  # str r4, [sp]
    data(2, 0xB280 | 1 << 3 | 4)  # uxth r4, r1: kx
    lsr(r1, r1, 16)  # ky
    ldr(r6, [r5, _PAD_X])
    sub(r6, r4, r6)
    data(2, 0x9000 | 6 << 8 | _TAP_LEFT)  # str r6, [sp]
    ldr(r6, [r5, _PAD_Y])
    sub(r6, r1, r6)
    mov(r10, r6)  # r10: iy
    ldr(r6, [r5, _KERNEL_WIDTH])
    mul(r1, r6)
    add(r1, r1, r4)  # the tap's number
    ldr(r4, [r5, _OUT_CHANNELS])
    lsl(r4, r4, 2)
    mul(r1, r4)
    add(r1, r1, r3)  # its gradients
    ldr(r7, [r5, _KERNEL_HEIGHT])
    mul(r6, r7)
    mul(r6, r4)
    add(r3, r3, r6)  # r3: the list
    mov(r7, 0)
    label(GRADIENT)
    data(2, 0xC000 | 1 << 8 | 1 << 7)  # stmia r1!, {r7}
    sub(r4, 4)
    bne(GRADIENT)
    mov(r2, 0)  # r2: the position, in the upper half
    mov(r6, 1)
    lsl(r6, r6, 16)  # r6: one position
    ldr(r4, [r5, _WIDTH])  # r4: width
    label(ROW)
    mov(r7, r10)
    data(2, 0x9800 | 5 << 8 | _TAP_HEIGHT)  # ldr r5, [sp]
    cmp(r7, r5)
    bcs(OUTSIDE)  # above too, where iy is negative
    mul(r7, r4)
    data(2, 0x9800 | 1 << 8 | _TAP_LEFT)  # ldr r1, [sp]: r1: ix
    add(r7, r7, r1)
    data(2, 0x9800 | 5 << 8 | _TAP_INPUT)  # ldr r5, [sp]
    mul(r7, r5)
    data(2, 0x9800 | 0 << 8 | _TAP_INPUTS)  # ldr r0, [sp]
    add(r0, r0, r7)  # r0: the input's address
    data(2, 0x9800 | 5 << 8 | _TAP_OUT_WIDTH)  # ldr r5, [sp]
    label(COLUMN)  # [15]
    cmp(r1, r4)
    bcs(ZERO)
    ldrh(r7, [r0, 0])
    cmp(r7, 0)
    beq(ZERO)
    orr(r7, r2)
    data(2, 0xC000 | 3 << 8 | 1 << 7)  # stmia r3!, {r7}
    label(ZERO)
    add(r2, r2, r6)
    data(2, 0x4400 | 8 << 3 | 0)  # add r0, r8
    data(2, 0x4400 | 9 << 3 | 1)  # add r1, r9
    sub(r5, 1)
    bne(COLUMN)
    b(NEXT)
    label(OUTSIDE)
    data(2, 0x9800 | 5 << 8 | _TAP_OUT_WIDTH)  # ldr r5, [sp]
    lsl(r5, r5, 16)
    add(r2, r2, r5)
    label(NEXT)
    data(2, 0x4400 | 8 << 4 | 9 << 3 | 2)  # add r10, r9
    data(2, 0x9800 | 5 << 8 | _TAP_ROWS)  # ldr r5, [sp]
    sub(r5, 1)
    data(2, 0x9000 | 5 << 8 | _TAP_ROWS)  # str r5, [sp]
    bne(ROW)
    str(r5, [r3, 0])  # makes the last pair whole
    data(2, 0x9800 | 6 << 8 | _TAP_SUMS)  # ldr r6, [sp]
    sub(r3, r3, r6)
    lsr(r3, r3, 2)
    data(2, 0x9800 | 0 << 8 | _TAP_PLAN)  # ldr r0, [sp]
    str(r3, [r0, _END])
    data(2, 0xB000 | _TAP_FRAME)  # add sp
    pop({r4, r5, r6, r7})
    mov(r8, r4)
    mov(r9, r5)
    mov(r10, r6)
    mov(r11, r7)
    mov(r0, 0)


@micropython.asm_thumb
def add_gradients(r0, r1, r2, r3):  # plan, sums, a, s
    mov(r4, r8)
    mov(r5, r9)
    mov(r6, r10)
    mov(r7, r11)
    push({r4, r5, r6, r7})
    mov(r7, 0x9E)
    lsl(r7, r7, 8)
    add(r7, 0x37)
    lsl(r7, r7, 16)
    mov(r6, r1)
    mul(r6, r7)
    ldr(r5, [r0, _RANDOM])
    ldr(r4, [r0, _DITHER])
    add(r5, r5, r4)
    lsl(r5, r5, 16)
    add(r6, r6, r5)
    mov(r14, r6)  # r14: the Weyl sequence that rounds pairs, in the upper half
    lsl(r1, r1, 2)
    add(r1, r1, r3)
    mov(r12, r1)  # r12: the tap's gradients
    ldr(r4, [r0, _JOB])
    data(2, 0xB280 | 4 << 3 | 1)  # uxth r1, r4
    lsl(r1, r1, 2)
    add(r1, r1, r0)  # the layer
    ldr(r4, [r1, _SUM_SHIFT])
    mov(r9, r4)  # r9: shift
    mov(r6, 32)
    sub(r6, r6, r4)
    push({r6, r7})  # what leaves a part of a unit of the sequence, its step
    ldr(r4, [r1, _OUT_CHANNELS])
    ldr(r5, [r1, _Y])
    add(r5, r5, r4)
    lsl(r5, r5, 1)
    add(r2, r2, r5)
    mov(r11, r2)  # r11: the end of position 0
    ldr(r6, [r0, _END])
    lsl(r6, r6, 2)
    add(r6, r6, r3)
    ldr(r5, [r1, _KERNEL_HEIGHT])
    ldr(r7, [r1, _KERNEL_WIDTH])
    mul(r5, r7)
    mul(r5, r4)
    lsl(r5, r5, 2)
    add(r5, r5, r3)
    lsl(r4, r4, 1)
    mov(r10, r4)  # r10: bytes of a position
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
    label(CELL)  # [18 for two products]
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
    bne(CELL)
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


# Words of the frame of `list_reach`.
_REACH_PLAN = const(0)
_REACH_SUMS = const(1)
_IY = const(2)
_IX = const(3)
_POSITION = const(4)  # number of the input
_TOP_KY = const(5)  # the first tap that meets the row
_TOP_OY = const(6)  # and its output
_LEFT_KX = const(7)  # the same of the column
_LEFT_OX = const(8)
_KY = const(9)
_OY = const(10)
_CORNER = const(11)  # the list's cell for the first tap in row ky
_DOWN = const(12)  # what the next such row adds to it
_HEAD = const(13)  # of the input's taps in the list
_REACH_HEIGHT = const(14)  # of the inputs
_REACH_WIDTH = const(15)
_REACH_INPUT = const(16)  # bytes from one to the next
_REACH_PAD = const(17)
_REACH_EVERY = const(18)
_KERNEL_ROWS = const(19)
_KERNEL_COLUMNS = const(20)
_OUT_ROWS = const(21)
_OUT_COLUMNS = const(22)
_REACH_FRAME = const(23)


@micropython.asm_thumb
def list_reach(r0, r1, r2, r3):  # plan, start, a, s
    mov(r4, r8)
    mov(r5, r9)
    mov(r6, r10)
    mov(r7, r11)
    push({r4, r5, r6, r7})
    data(2, 0xB080 | _REACH_FRAME)  # sub sp
    data(2, 0x9000 | 0 << 8 | _REACH_PLAN)  # str r0, [sp]
    data(2, 0x9000 | 3 << 8 | _REACH_SUMS)  # str r3, [sp]
    ldr(r4, [r0, _JOB])
    data(2, 0xB280 | 4 << 3 | 5)  # uxth r5, r4
    lsl(r5, r5, 2)
    add(r5, r5, r0)  # the layer
    lsr(r4, r4, 16)  # the channel
    data(2, 0xB280 | 1 << 3 | 6)  # uxth r6, r1
    data(2, 0x9000 | 6 << 8 | _IX)  # str r6, [sp]
    lsr(r1, r1, 16)
    data(2, 0x9000 | 1 << 8 | _IY)  # str r1, [sp]
    ldr(r7, [r5, _WIDTH])
    data(2, 0x9000 | 7 << 8 | _REACH_WIDTH)  # str r7, [sp]
    mul(r7, r1)
    add(r7, r7, r6)
    data(2, 0x9000 | 7 << 8 | _POSITION)  # str r7, [sp]
    ldr(r0, [r5, _CHANNELS])
    lsl(r6, r0, 1)
    data(2, 0x9000 | 6 << 8 | _REACH_INPUT)  # str r6, [sp]
    mul(r0, r7)
    add(r0, r0, r4)
    ldr(r6, [r5, _X])
    add(r0, r0, r6)
    lsl(r0, r0, 1)
    add(r0, r0, r2)  # r0: the input's address
    ldr(r6, [r5, _HEIGHT])
    data(2, 0x9000 | 6 << 8 | _REACH_HEIGHT)  # str r6, [sp]
    ldr(r6, [r5, _PAD_X])
    data(2, 0x9000 | 6 << 8 | _REACH_PAD)  # str r6, [sp]
    ldr(r7, [r5, _STRIDE])
    mov(r9, r7)  # r9: stride
    ldr(r6, [r5, _BACK])
    mov(r4, 2)  # LINEAR
    and_(r6, r4)
    data(2, 0x9000 | 6 << 8 | _REACH_EVERY)  # str r6, [sp]
    ldr(r4, [r5, _KERNEL_WIDTH])
    data(2, 0x9000 | 4 << 8 | _KERNEL_COLUMNS)  # str r4, [sp]
    ldr(r6, [r5, _KERNEL_HEIGHT])
    data(2, 0x9000 | 6 << 8 | _KERNEL_ROWS)  # str r6, [sp]
    mul(r6, r4)
    ldr(r2, [r5, _OUT_CHANNELS])
    mul(r6, r2)
    lsl(r6, r6, 2)
    add(r3, r3, r6)  # r3: the end of the list
    mul(r4, r7)
    lsl(r4, r4, 16)
    ldr(r6, [r5, _OUT_WIDTH])
    data(2, 0x9000 | 6 << 8 | _OUT_COLUMNS)  # str r6, [sp]
    sub(r4, r4, r6)
    data(2, 0x9000 | 4 << 8 | _DOWN)  # str r4, [sp]
    ldr(r4, [r5, _OUT_HEIGHT])
    data(2, 0x9000 | 4 << 8 | _OUT_ROWS)  # str r4, [sp]
    mul(r4, r6)
    add(r4, 1)
    lsl(r4, r4, 2)
    add(r4, r4, r3)
    mov(r10, r4)  # r10: the end of the room
    lsl(r4, r7, 16)
    sub(r4, 1)
    mov(r8, r4)  # r8: what the next tap in a row adds to a cell of the list
    ldr(r4, [r5, _PAD_Y])
    add(r4, r4, r1)
    mov(r6, 0)
    b(TOPS)
    label(TOP)
    sub(r4, r4, r7)
    add(r6, 1)
    label(TOPS)
    cmp(r4, r7)
    bge(TOP)
    data(2, 0x9000 | 4 << 8 | _TOP_KY)  # str r4, [sp]
    data(2, 0x9000 | 6 << 8 | _TOP_OY)  # str r6, [sp]
    label(ROW)
    data(2, 0x9800 | 5 << 8 | _IX)  # ldr r5, [sp]
    data(2, 0x9800 | 4 << 8 | _REACH_PAD)  # ldr r4, [sp]
    add(r4, r4, r5)
    mov(r7, r9)
    mov(r6, 0)
    b(LEFTS)
    label(LEFT)
    sub(r4, r4, r7)
    add(r6, 1)
    label(LEFTS)
    cmp(r4, r7)
    bge(LEFT)
    data(2, 0x9000 | 4 << 8 | _LEFT_KX)  # str r4, [sp]
    data(2, 0x9000 | 6 << 8 | _LEFT_OX)  # str r6, [sp]
    label(COLUMN)
    ldrh(r7, [r0, 0])
    data(2, 0x9800 | 6 << 8 | _REACH_EVERY)  # ldr r6, [sp]
    orr(r7, r6)
    beq(NEXT)
    data(2, 0x9000 | 3 << 8 | _HEAD)  # str r3, [sp]
    add(r3, 4)
    data(2, 0x9800 | 1 << 8 | _TOP_KY)  # ldr r1, [sp]
    data(2, 0x9000 | 1 << 8 | _KY)  # str r1, [sp]
    data(2, 0x9800 | 2 << 8 | _TOP_OY)  # ldr r2, [sp]
    data(2, 0x9000 | 2 << 8 | _OY)  # str r2, [sp]
    data(2, 0x9800 | 5 << 8 | _KERNEL_COLUMNS)  # ldr r5, [sp]
    mul(r1, r5)
    data(2, 0x9800 | 4 << 8 | _LEFT_KX)  # ldr r4, [sp]
    add(r1, r1, r4)
    lsl(r1, r1, 16)
    data(2, 0x9800 | 6 << 8 | _OUT_COLUMNS)  # ldr r6, [sp]
    mul(r2, r6)
    add(r1, r1, r2)
    data(2, 0x9800 | 4 << 8 | _LEFT_OX)  # ldr r4, [sp]
    add(r1, r1, r4)
    data(2, 0x9000 | 1 << 8 | _CORNER)  # str r1, [sp]
    label(TAPS)  # r5: the kernel's columns, r6: the outputs'
    data(2, 0x9800 | 7 << 8 | _KERNEL_ROWS)  # ldr r7, [sp]
    data(2, 0x9800 | 4 << 8 | _KY)  # ldr r4, [sp]
    cmp(r4, r7)
    bge(LISTED)
    data(2, 0x4400 | 9 << 3 | 4)  # add r4, r9
    data(2, 0x9000 | 4 << 8 | _KY)  # str r4, [sp]
    data(2, 0x9800 | 4 << 8 | _OY)  # ldr r4, [sp]
    cmp(r4, 0)
    blt(LISTED)
    sub(r7, r4, 1)
    data(2, 0x9000 | 7 << 8 | _OY)  # str r7, [sp]
    data(2, 0x9800 | 1 << 8 | _CORNER)  # ldr r1, [sp]
    data(2, 0x9800 | 7 << 8 | _DOWN)  # ldr r7, [sp]
    add(r7, r7, r1)
    data(2, 0x9000 | 7 << 8 | _CORNER)  # str r7, [sp]
    data(2, 0x9800 | 7 << 8 | _OUT_ROWS)  # ldr r7, [sp]
    cmp(r4, r7)
    bge(TAPS)
    data(2, 0x9800 | 2 << 8 | _LEFT_KX)  # ldr r2, [sp]
    data(2, 0x9800 | 4 << 8 | _LEFT_OX)  # ldr r4, [sp]
    b(TAPS_OF_ROW)
    label(TAP)
    cmp(r4, r6)
    bge(BEHIND)
    data(2, 0x4500 | 10 << 3 | 3)  # cmp r3, r10
    bcs(NO_ROOM)
    str(r1, [r3, 0])
    label(NO_ROOM)
    add(r3, 4)
    label(BEHIND)
    data(2, 0x4400 | 8 << 3 | 1)  # add r1, r8
    data(2, 0x4400 | 9 << 3 | 2)  # add r2, r9
    sub(r4, 1)
    label(TAPS_OF_ROW)
    cmp(r2, r5)
    bge(TAPS)
    cmp(r4, 0)
    bge(TAP)
    b(TAPS)
    label(LISTED)
    data(2, 0x9800 | 6 << 8 | _HEAD)  # ldr r6, [sp]
    data(2, 0x4500 | 10 << 3 | 3)  # cmp r3, r10
    bhi(FULL)
    sub(r7, r3, r6)
    sub(r7, 4)
    lsl(r7, r7, 14)  # from bytes to cells, in the upper half
    data(2, 0x9800 | 5 << 8 | _POSITION)  # ldr r5, [sp]
    orr(r7, r5)
    str(r7, [r6, 0])
    label(NEXT)
    data(2, 0x9800 | 5 << 8 | _POSITION)  # ldr r5, [sp]
    add(r5, 1)
    data(2, 0x9000 | 5 << 8 | _POSITION)  # str r5, [sp]
    data(2, 0x9800 | 5 << 8 | _REACH_INPUT)  # ldr r5, [sp]
    add(r0, r0, r5)
    data(2, 0x9800 | 4 << 8 | _LEFT_KX)  # ldr r4, [sp]
    add(r4, 1)
    data(2, 0x4500 | 9 << 3 | 4)  # cmp r4, r9
    bne(SAME_OUTPUT)
    mov(r4, 0)
    data(2, 0x9800 | 5 << 8 | _LEFT_OX)  # ldr r5, [sp]
    add(r5, 1)
    data(2, 0x9000 | 5 << 8 | _LEFT_OX)  # str r5, [sp]
    label(SAME_OUTPUT)
    data(2, 0x9000 | 4 << 8 | _LEFT_KX)  # str r4, [sp]
    data(2, 0x9800 | 5 << 8 | _IX)  # ldr r5, [sp]
    add(r5, 1)
    data(2, 0x9000 | 5 << 8 | _IX)  # str r5, [sp]
    data(2, 0x9800 | 6 << 8 | _REACH_WIDTH)  # ldr r6, [sp]
    cmp(r5, r6)
    blt(COLUMN)
    mov(r5, 0)
    data(2, 0x9000 | 5 << 8 | _IX)  # str r5, [sp]
    data(2, 0x9800 | 4 << 8 | _TOP_KY)  # ldr r4, [sp]
    add(r4, 1)
    data(2, 0x4500 | 9 << 3 | 4)  # cmp r4, r9
    bne(SAME_ROW)
    mov(r4, 0)
    data(2, 0x9800 | 5 << 8 | _TOP_OY)  # ldr r5, [sp]
    add(r5, 1)
    data(2, 0x9000 | 5 << 8 | _TOP_OY)  # str r5, [sp]
    label(SAME_ROW)
    data(2, 0x9000 | 4 << 8 | _TOP_KY)  # str r4, [sp]
    data(2, 0x9800 | 5 << 8 | _IY)  # ldr r5, [sp]
    add(r5, 1)
    data(2, 0x9000 | 5 << 8 | _IY)  # str r5, [sp]
    data(2, 0x9800 | 6 << 8 | _REACH_HEIGHT)  # ldr r6, [sp]
    cmp(r5, r6)
    blt(ROW)
    mov(r6, r3)
    mov(r3, 0)
    b(RETURN)
    label(FULL)  # r6: the head of what there is no room for
    data(2, 0x9800 | 3 << 8 | _IY)  # ldr r3, [sp]
    lsl(r3, r3, 16)
    data(2, 0x9800 | 5 << 8 | _IX)  # ldr r5, [sp]
    orr(r3, r5)
    label(RETURN)
    data(2, 0x9800 | 7 << 8 | _REACH_SUMS)  # ldr r7, [sp]
    sub(r6, r6, r7)
    lsr(r6, r6, 2)
    data(2, 0x9800 | 0 << 8 | _REACH_PLAN)  # ldr r0, [sp]
    str(r6, [r0, _END])
    data(2, 0xB000 | _REACH_FRAME)  # add sp
    pop({r4, r5, r6, r7})
    mov(r8, r4)
    mov(r9, r5)
    mov(r10, r6)
    mov(r11, r7)
    mov(r0, r3)


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
    data(2, 0x9000 | 6 << 8 | _TAP)  # str r6, [sp]
    ldr(r5, [r0, _WEIGHTS])
    add(r5, r5, r7)
    mul(r4, r7)
    add(r5, r5, r4)
    lsl(r5, r5, 1)
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
    lsl(r7, r7, 1)
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
    mul(r2, r5)
    mul(r4, r5)
    neg(r0, r5)
    data(2, 0x9800 | 5 << 8 | _ROW)  # ldr r5, [sp]
    add(r1, r1, r5)
    add(r3, r3, r5)
    data(2, 0x9800 | 5 << 8 | _DELTAS)  # ldr r5, [sp]
    add(r2, r2, r5)
    add(r4, r4, r5)
    label(CELL)  # [18 for two products]
    data(2, 0x5E00 | 0 << 6 | 1 << 3 | 5)  # ldrsh r5, [r1, r0]
    data(2, 0x5E00 | 0 << 6 | 2 << 3 | 6)  # ldrsh r6, [r2, r0]
    mul(r5, r6)
    data(2, 0x5E00 | 0 << 6 | 3 << 3 | 6)  # ldrsh r6, [r3, r0]
    data(2, 0x5E00 | 0 << 6 | 4 << 3 | 7)  # ldrsh r7, [r4, r0]
    mul(r6, r7)
    add(r5, r5, r6)
    data(2, 0x4400 | 8 << 4 | 5 << 3 | 0)  # add r8, r5
    mov(r7, r9)
    asr(r5, r7)
    data(2, 0x4400 | 8 << 4 | 5 << 3 | 4)  # add r12, r5
    add(r0, 2)
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
    mul(r2, r5)
    neg(r0, r5)
    data(2, 0x9800 | 5 << 8 | _ROW)  # ldr r5, [sp]
    add(r1, r1, r5)
    data(2, 0x9800 | 5 << 8 | _DELTAS)  # ldr r5, [sp]
    add(r2, r2, r5)
    mov(r7, r9)
    label(SINGLE)  # [11 for one product]
    data(2, 0x5E00 | 0 << 6 | 1 << 3 | 5)  # ldrsh r5, [r1, r0]
    data(2, 0x5E00 | 0 << 6 | 2 << 3 | 6)  # ldrsh r6, [r2, r0]
    mul(r5, r6)
    data(2, 0x4400 | 8 << 4 | 5 << 3 | 0)  # add r8, r5
    asr(r5, r7)
    data(2, 0x4400 | 8 << 4 | 5 << 3 | 4)  # add r12, r5
    add(r0, 2)
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
    mov(r10, r7)  # r10: the Weyl sequence, in the upper half
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
    lsl(r7, r7, 1)
    add(r1, r1, r7)  # the end of the row of tap 0
    ldr(r7, [r5, _CHANNELS])
    lsl(r6, r6, 1)
    mul(r7, r6)  # bytes from one tap to the next
    mov(r12, r6)  # r12: bytes of a row
    ldr(r6, [r5, _KERNEL_HEIGHT])
    ldr(r3, [r5, _KERNEL_WIDTH])
    mul(r6, r3)  # taps
    push({r0, r6, r7})
    mov(r6, 1)
    lsl(r6, r6, 15)
    sub(r6, 1)
    mov(r8, r6)  # r8: the largest weight
    lsl(r6, r6, 1)
    mov(r9, r6)  # r9: twice that
    ldr(r3, [r5, _SUM_SHIFT])
    ldr(r4, [r5, _STEP])
    sub(r4, r4, r3)
    label(TAP)
    mov(r0, r12)
    neg(r0, r0)
    label(CELL)  # [20]
    data(2, 0xC800 | 2 << 8 | 1 << 5)  # ldmia r2!, {r5}: the gradient
    data(2, 0x4400 | 8 << 4 | 11 << 3 | 2)  # add r10, r11
    mov(r7, r10)
    lsr(r7, r7, 16)
    lsr(r7, r3)
    add(r5, r5, r7)
    asr(r5, r4)
    data(2, 0x5E00 | 0 << 6 | 1 << 3 | 6)  # ldrsh r6, [r1, r0]: the weight
    sub(r6, r6, r5)
    mov(r7, r6)
    data(2, 0x4400 | 8 << 3 | 7)  # add r7, r8
    data(2, 0x4500 | 9 << 3 | 7)  # cmp r7, r9
    bhi(TOO_LARGE)
    label(STORE)
    data(2, 0x5200 | 0 << 6 | 1 << 3 | 6)  # strh r6, [r1, r0]
    add(r0, 2)
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
    mov(r7, r8)
    mul(r6, r7)
    b(STORE)
    label(RETURN)
