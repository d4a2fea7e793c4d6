// SPDX-License-Identifier: Apache-2.0
// The frames of a thread of another process, seen while it was stopped for a moment.

import Glibc
import StoppedThread

/// The frames that were found in a thread's stack.
public struct StoppedStack: Sendable {
  public struct Frame: Hashable, Sendable {
    /// The return address, or the instruction to run next in the innermost frame and where a signal interrupted.
    public var pc: UInt64
    public var isExact: Bool
    public var registers: FrameRegisters
    /// Where the caller's frame begins is not known: unwinding ended here.
    public var isLast: Bool
  }

  /// Innermost first, up to the one that holds the address.
  public var frames: [Frame]
  /// How long the thread was stopped, at most.
  public var seconds: Double

  public enum Failure: Error, Hashable, Sendable {
    case notSupported
    /// The error number of ptrace.
    case notPermitted(Int32)
    case didNotStop
    case gone
    case notReadable(Int32)
  }

  /// Most of a stack that is copied, in bytes, and most frames that are looked at.
  private static let copyLimit: UInt64 = 32 << 20
  private static let frameLimit: Int32 = 20_000

  /// Stops `thread` for as long as it takes to copy its stack up to `stackEnd`, lets it go, and finds the frame that
  /// holds `address`. A thread that is stopped may see a system call end with EINTR, as after SIGSTOP and SIGCONT.
  public init(thread: UInt32, stackEnd: UInt64, address: UInt64) throws(Failure) {
    var copy = stopped_thread()
    // Memory and modules, too, are read by the thread's own id: the process's first thread may have ended, and has none
    // then.
    let thread = Int32(bitPattern: thread)
    stopped_thread_copy(thread, thread, stackEnd, Self.copyLimit, &copy)
    defer { stopped_thread_free(&copy) }
    switch copy.failure {
    case STOPPED_THREAD_OK: break
    case STOPPED_THREAD_NOT_SUPPORTED: throw .notSupported
    case STOPPED_THREAD_SEIZE: throw .notPermitted(copy.number)
    case STOPPED_THREAD_WAIT: throw .didNotStop
    case STOPPED_THREAD_GONE: throw .gone
    default: throw .notReadable(copy.number)
    }
    seconds = Double(copy.nanoseconds) / 1e9
    let found = [stopped_frame](unsafeUninitializedCapacity: Int(Self.frameLimit)) { buffer, count in
      guard let start = buffer.baseAddress else { return }
      let frames = stopped_thread_unwind(&copy, thread, thread, address, start, Self.frameLimit)
      count = Int(clamping: max(0, frames))
    }
    frames = found.map { frame in
      Frame(
        pc: frame.pc, isExact: frame.is_activation,
        registers: FrameRegisters(cfa: frame.cfa, stackPointer: frame.sp, framePointer: frame.fp),
        isLast: frame.cfa == 0)
    }
  }
}
