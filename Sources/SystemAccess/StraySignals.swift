// SPDX-License-Identifier: Apache-2.0
// Signals that mean nothing to any part of the server, and would end it.

import Glibc

public enum StraySignals {
  /// Lets no signal end this process but SIGQUIT, the signals of faults, and those that a program is stopped by
  /// (SIGHUP, SIGINT, SIGTERM) unless they are among `others`: a stray signal, or a script that has the wrong process,
  /// must do no harm. To be called before there are other threads.
  public static func ignore(_ others: [Int32] = []) {
    // bounded: libc's own constants
    let realTime = Array(__libc_current_sigrtmin()...__libc_current_sigrtmax())
    let named = [SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGSTKFLT]
    for number in named + realTime + others { signal(number, SIG_IGN) }
  }
}
