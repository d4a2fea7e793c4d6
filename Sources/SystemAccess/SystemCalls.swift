// SPDX-License-Identifier: Apache-2.0
// Calls of the system that many parts make: words for its errors, its clocks, and writes of all bytes.

import Glibc

/// The system's own words for an `errno` value.
public func systemWords(_ code: Int32) -> String { String(cString: strerror(code)) }

/// Nanoseconds of a clock of clock_gettime(2), such as `CLOCK_MONOTONIC`. Zero for a clock that does not exist.
public func nanoseconds(of clock: clockid_t) -> UInt64 {
  var time = timespec()
  clock_gettime(clock, &time)
  return UInt64(truncatingIfNeeded: time.tv_sec) &* 1_000_000_000 &+ UInt64(truncatingIfNeeded: time.tv_nsec)
}

/// Seconds of a clock of clock_gettime(2).
public func seconds(of clock: clockid_t) -> Double { Double(nanoseconds(of: clock)) / 1e9 }

/// Writes all of `bytes` to `descriptor`, and waits where the descriptor is non-blocking and full. Returns 0, or the
/// `errno` value of the write that failed; the bytes before that write have been written then.
public func writeAll(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32) -> Int32 {
  var rest = bytes[...]
  while !rest.isEmpty {
    let written = write(descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
    if written >= 0 {
      rest = rest.dropFirst(max(0, written))
      continue
    }
    switch errno {
    case EINTR: continue
    case EAGAIN:
      // The parent of this program may have given it a non-blocking descriptor.
      var request = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
      poll(&request, 1, -1)
    default: return errno
    }
  }
  return 0
}

/// Writes all of `bytes` as above.
public func writeAll(_ bytes: [UInt8], to descriptor: Int32) -> Int32 {
  bytes.withUnsafeBytes { writeAll($0, to: descriptor) }
}
