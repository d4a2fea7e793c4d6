# SPDX-License-Identifier: Apache-2.0
# A terminal for a program that fills the screen: screen.py COLUMNS ROWS COMMAND… runs the command on a pseudo-terminal
# and keeps its screen. It takes lines, and answers each with lines of which the last is "done":
#
#   until TEXT      waits until the screen has the text, and gives the screen; "late" before "done" if it never has
#   screen          gives the screen
#   keys TEXT       sends the text, with escapes of Python's in it
#   size C R        changes the size, which the program is told by SIGWINCH
#   signal N        sends a signal to the program
#   hang            closes the terminal
#   end             waits for the program's end: gives "exit N" or "signal N"; "settings same" or "settings changed",
#                   whether the terminal is as it was; "main" or "alternate", the screen that is shown; "cursor shown" or
#                   "cursor hidden"; "colours N", how many colours were set
#
# It knows the sequences that the command draws with, and fails upon any other: nothing from a target may act on it.
import fcntl, os, pty, re, select, signal, struct, sys, termios, time

columns, rows = int(sys.argv[1]), int(sys.argv[2])
master, slave = pty.openpty()
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
before = termios.tcgetattr(slave)
child = os.fork()
if child == 0:
    os.close(master)
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for descriptor in (0, 1, 2):
        os.dup2(slave, descriptor)
    os.execvp(sys.argv[3], sys.argv[3:])

lines = {}
row, column = 0, 0
alternate, cursor, colours = False, True, 0
pending = b""
faults = []


def take(data):
    global pending, row, column, alternate, cursor, colours
    text = pending + data
    place = 0
    while place < len(text):
        byte = text[place]
        if byte == 0x1B:
            match = re.match(rb"\x1b\[([?0-9;]*)([A-Za-z])", text[place:])
            if not match:
                if len(text) - place < 16:
                    break
                faults.append(repr(text[place:place + 16]))
                place += 1
                continue
            words, final = match.group(1).decode(), match.group(2).decode()
            place += match.end()
            if final == "H":
                numbers = [int(word) for word in words.split(";")]
                row, column = numbers[0] - 1, numbers[1] - 1
            elif final == "K":
                lines[row] = lines.get(row, "")[:column]
            elif final == "J" and words == "2":
                lines.clear()
            elif final == "m":
                if any(30 <= int(word or 0) < 48 for word in words.split(";")):
                    colours += 1
            elif final in "hl" and words == "?1049":
                alternate = final == "h"
            elif final in "hl" and words == "?25":
                cursor = final == "h"
            elif final in "hl" and words == "?7":
                pass
            else:
                faults.append(words + final)
            continue
        end = place
        while end < len(text) and text[end] != 0x1B:
            end += 1
        part = text[place:end]
        try:
            decoded = part.decode()
        except UnicodeDecodeError:
            if end == len(text) and len(part) < 65536:
                break
            decoded = part.decode(errors="replace")
            faults.append("no UTF-8")
        place = end
        for character in decoded:
            if character == "\r":
                column = 0
            elif character == "\n":
                row += 1
            elif ord(character) < 32 or 0x7F <= ord(character) < 0xA0:
                faults.append(repr(character))
            else:
                line = lines.get(row, "").ljust(column)
                lines[row] = line[:column] + character + line[column + 1:]
                column += 1
    pending = text[place:]


def pump(seconds):
    ready, _, _ = select.select([master], [], [], seconds)
    if not ready:
        return False
    try:
        data = os.read(master, 65536)
    except OSError:
        return False
    if data:
        take(data)
    return bool(data)


def show():
    for number in range(max([-1] + list(lines)) + 1):
        print("|" + lines.get(number, "").rstrip())


def done():
    for fault in faults:
        print("fault " + fault)
    print("done", flush=True)


# Not by readline, which would keep lines that select does not see.
asked = b""
while True:
    while b"\n" not in asked:
        ready, _, _ = select.select([0, master] if master >= 0 else [0], [], [])
        if master in ready:
            if not pump(0):
                time.sleep(0.02)
        if 0 in ready:
            more = os.read(0, 4096)
            if not more:
                os.kill(child, signal.SIGKILL)
                sys.exit(0)
            asked += more
    line, asked = asked.split(b"\n", 1)
    word, _, rest = line.decode().partition(" ")
    if word == "until":
        deadline = time.monotonic() + 120
        while not any(rest in line for line in lines.values()):
            if time.monotonic() > deadline:
                print("late")
                break
            pump(0.1)
        while pump(0.05):
            pass
        show()
    elif word == "screen":
        show()
    elif word == "keys":
        os.write(master, rest.encode().decode("unicode_escape").encode())
    elif word == "size":
        columns, rows = (int(number) for number in rest.split())
        lines.clear()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    elif word == "signal":
        os.kill(child, int(rest))
    elif word == "hang":
        os.close(slave)
        os.close(master)
        master = -1
    elif word == "end":
        deadline = time.monotonic() + 120
        status = None
        while time.monotonic() < deadline:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                break
            if master < 0 or not pump(0.05):
                time.sleep(0.02)
        while master >= 0 and pump(0.05):
            pass
        print("signal %d" % os.WTERMSIG(status) if os.WIFSIGNALED(status) else "exit %d" % os.WEXITSTATUS(status))
        if master >= 0:
            print("settings same" if termios.tcgetattr(slave) == before else "settings changed")
        print("alternate" if alternate else "main")
        print("cursor shown" if cursor else "cursor hidden")
        print("colours %d" % colours)
    done()
