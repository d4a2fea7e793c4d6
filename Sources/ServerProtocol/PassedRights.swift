// SPDX-License-Identifier: Apache-2.0
// Descriptors that come along with a client's bytes (SCM_RIGHTS, unix(7)). The server takes none, but they would be
// there: whoever closes a connection closes what lies in it unread. Of a socket with bytes that its other end doesn't
// take, the last descriptor closes only after the time that its owner chose (SO_LINGER, socket(7)), an hour if they
// like. The broker, which all users wait for, must not be the one that closes it.

import Glibc
import SystemAccess

public enum PassedRights {
  /// SO_PASSRIGHTS (asm-generic/socket.h, Linux 6.16 or later).
  private static let option: Int32 = 83

  /// Has the kernel refuse descriptors that are sent to `socket`, or to connections that are made to it from now on.
  /// Older kernels know no such option.
  public static func refuse(on socket: Int32) {
    var no: Int32 = 0
    setsockopt(socket, SOL_SOCKET, option, &no, socklen_t(MemoryLayout<Int32>.size))
  }

  /// Whether the kernel has refused descriptors that were sent to `connection` since it was made.
  private static func areRefused(on connection: Int32) -> Bool {
    var value: Int32 = 1
    var size = socklen_t(MemoryLayout<Int32>.size)
    return getsockopt(connection, SOL_SOCKET, option, &value, &size) == 0 && value == 0
  }

  /// A signal ends such a wait. The handler does nothing: a signal that is ignored ends none.
  private static let takesAlarms: Void = { signal(SIGALRM) { _ in } }()

  /// Closes a connection whose bytes nobody has read, and waits for nothing: after a fifth of a millisecond, and again,
  /// a signal comes, and while it is pending no other descriptor in the connection waits either. Takes SIGALRM and the
  /// timer of real time; to be called by a process that has one thread.
  ///
  /// `isUntouched`: no other process has had the connection, and so nobody can have let descriptors pass for a moment;
  /// where none pass, the timer isn't needed.
  public static func close(_ connection: consuming Descriptor, isUntouched: Bool = false) {
    guard !isUntouched || !areRefused(on: connection.number) else { return }
    _ = takesAlarms
    let realTime = __itimer_which_t(ITIMER_REAL.rawValue)
    let fifth = timeval(tv_sec: 0, tv_usec: 200)
    var timer = itimerval(it_interval: fifth, it_value: fifth)
    setitimer(realTime, &timer, nil)
    Glibc.close(connection.release())
    timer = itimerval()
    setitimer(realTime, &timer, nil)
  }
}
