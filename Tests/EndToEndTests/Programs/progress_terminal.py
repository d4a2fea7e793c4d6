# SPDX-License-Identifier: Apache-2.0
# Runs a command with a terminal as its standard error, and prints what came there, with \\r and \\e in place of the
# characters: progress_terminal.py NUMBER TEXT COMMAND... It has a server that answers nothing at the socket
# that --socket names, and ends the command by ^C when the text has come so many times, or never comes.

import os, pty, select, signal, socket, subprocess, sys, time

number, text, command = int(sys.argv[1]), sys.argv[2].encode(), sys.argv[3:]
server = socket.socket(socket.AF_UNIX)
server.bind(command[command.index("--socket") + 1])
server.listen(8)
main, terminal = pty.openpty()
child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=dict(os.environ, TERM="xterm"))
os.close(terminal)
end, shown = time.monotonic() + 120, b""
while shown.count(text) < number and time.monotonic() < end:
    if select.select([main], [], [], 0.1)[0]:
        shown += os.read(main, 4096)
child.send_signal(signal.SIGINT)
status = child.wait()
while select.select([main], [], [], 0.2)[0]:
    try:
        more = os.read(main, 4096)
    except OSError:
        break
    if not more:
        break
    shown += more
print(status, shown.decode().replace("\r", "\\r").replace("\x1b", "\\e"))
