"""MicroPython's raw prompt, which boards have and the unix port has not: what mpremote talks to."""

import io
import sys

read = sys.stdin.buffer.read
write = sys.stdout.buffer.write
names = {"__name__": "__main__"}
raw = False
code = b""


def run(text):
    try:
        exec(text, names)
    except Exception as error:
        told = io.StringIO()
        sys.print_exception(error, told)
        return told.getvalue().encode()
    return b""


while True:
    c = read(1)
    if not c:
        break
    if c == b"\x01":
        raw = True
        code = b""
        write(b"raw REPL; CTRL-B to exit\r\n>")
    elif c == b"\x02":
        raw = False
        write(b"\r\n>>> ")
    elif c == b"\x03":
        code = b""
    elif raw and c == b"\x05":
        read(2)
        write(b"R\x01\xff\xff")  # it takes 65,535 bytes at once
        pasted = bytearray()
        while True:
            c = read(1)
            if c in (b"\x03", b"\x04"):
                break
            pasted += c
        write(b"\x04")
        write(b"\x04" + (run(bytes(pasted)) if c == b"\x04" else b"KeyboardInterrupt") + b"\x04>")
    elif raw and c == b"\x04":
        write(b"OK")
        problem = run(code)
        write(b"\x04" + problem + b"\x04>")
        code = b""
    else:
        code += c
