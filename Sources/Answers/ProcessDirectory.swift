// /proc/PID of one process, kept open: what is read through it is about that process, even if its id is used again.

import Glibc
import IndexReader
import SharedLayout

/// An open /proc/PID. Everything read through it fails once the process is gone.
struct ProcessDirectory: ~Copyable {
  let processID: Int32
  private let descriptor: Int32

  /// Throws the error number of `open`: ENOENT if there is no such process.
  init(processID: Int32) throws(ProcError) {
    let descriptor = open("/proc/\(processID)", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw ProcError(number: errno) }
    self.processID = processID
    self.descriptor = descriptor
  }

  deinit { close(descriptor) }

  /// All of the file `name`, such as "maps" or "task/4242/comm"; at most `limit` bytes.
  func read(_ name: String, limit: Int = 256 << 20) throws(ProcError) -> [UInt8] {
    let file = openat(descriptor, name, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw ProcError(number: errno) }
    defer { close(file) }
    // Files of /proc have no size; the kernel hands out whole lines, as many as fit.
    var bytes: [UInt8] = []
    var failure: Int32 = 0
    var chunk = 16 << 10
    while bytes.count < limit {
      let wanted = chunk
      let piece = [UInt8](unsafeUninitializedCapacity: wanted) { buffer, size in
        var got: Int
        repeat { got = Glibc.read(file, buffer.baseAddress!, wanted) } while got < 0 && errno == EINTR
        if got < 0 { failure = errno }
        size = max(got, 0)
      }
      if failure != 0 { throw ProcError(number: failure) }
      if piece.isEmpty { break }
      if bytes.isEmpty { bytes = piece } else { bytes += piece }
      chunk = min(chunk * 4, 1 << 20)
    }
    return bytes
  }

  /// The file `name` of one line, as far as a page holds it.
  func line(_ name: String) throws(ProcError) -> [UInt8] {
    let file = openat(descriptor, name, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw ProcError(number: errno) }
    defer { close(file) }
    var failure: Int32 = 0
    // The kernel makes such a file up at once, so one read gets all of it.
    let bytes = [UInt8](unsafeUninitializedCapacity: 4096) { buffer, size in
      var got: Int
      repeat { got = Glibc.read(file, buffer.baseAddress!, buffer.count) } while got < 0 && errno == EINTR
      if got < 0 { failure = errno }
      size = max(got, 0)
    }
    guard failure == 0 else { throw ProcError(number: failure) }
    return bytes
  }

  /// Up to `count` bytes of the process's memory, as many as are mapped; nil if the caller may not trace it.
  func memory(at address: UInt64, count: Int) -> [UInt8]? {
    let file = openat(descriptor, "mem", O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var isRead = false
    let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, size in
      let got = pread(file, buffer.baseAddress!, count, off_t(truncatingIfNeeded: address))
      isRead = got > 0
      size = max(got, 0)
    }
    return isRead ? bytes : nil
  }

  /// Words of the process's memory, as `memory(at:count:)` has it.
  func words(at address: UInt64, count: Int) -> [UInt64]? {
    guard let bytes = memory(at: address, count: count * 8) else { return nil }
    return bytes.withUnsafeBytes { buffer in
      (0..<buffer.count / 8).map { UInt64(littleEndian: buffer.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self)) }
    }
  }

  /// The threads that exist, by the kernel's ids.
  func threadIDs() throws(ProcError) -> [UInt32] {
    let tasks = openat(descriptor, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard tasks >= 0 else { throw ProcError(number: errno) }
    guard let stream = fdopendir(tasks) else {
      let number = errno
      close(tasks)
      throw ProcError(number: number)
    }
    defer { closedir(stream) }
    var ids: [UInt32] = []
    while let entry = readdir(stream) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      if let id = UInt32(name) { ids.append(id) }
    }
    return ids
  }

  /// Where the stack of thread `id` has its top; nil while the thread runs, or if the caller may not know.
  func stackPointer(ofThread id: UInt32) -> UInt64? {
    // proc(5): a number and six arguments of a system call, or -1, then stack pointer and program counter; or "running".
    guard let line = try? line("task/\(id)/syscall") else { return nil }
    let fields = line.split(whereSeparator: { $0 == 0x20 || $0 == 0x0A })
    guard fields.count >= 3 else { return nil }
    return try? parseAddress(String(decoding: fields[fields.count - 2], as: UTF8.self))
  }

  /// What "stat", or "task/TID/stat", says of the process or thread.
  func stat(_ name: String = "stat") throws(ProcError) -> ProcessStat {
    guard let stat = ProcessStat(try line(name)) else { throw ProcError(number: EINVAL) }
    return stat
  }
}

/// The error number of a system call on a file of /proc.
struct ProcError: Error, Hashable {
  var number: Int32

  var isPermission: Bool { number == EACCES || number == EPERM }
  /// Descriptors or memory of whoever looks, or of the machine, are short.
  var isShortage: Bool { IndexReader.isShortage(number) }
  /// There is no such process or thread, or it ended meanwhile.
  var isGone: Bool { number == ENOENT || number == ESRCH }
}

/// A line of /proc/PID/stat, as far as it matters here (proc(5)).
struct ProcessStat: Hashable {
  /// `R`, `S`, … ; `Z` is a zombie, `X` a dead process.
  var state: UInt8
  /// Clock ticks since boot.
  var startTime: UInt64

  /// Threads that run; also the first one of a process may end before the others.
  var threadCount: UInt64

  /// The first thread has ended, and with it what /proc says of the memory.
  var isEnded: Bool { state == UInt8(ascii: "Z") || state == UInt8(ascii: "X") }

  init?(_ bytes: [UInt8]) {
    // The second field is the command in parentheses, which may itself contain blanks and parentheses.
    guard let end = bytes.lastIndex(of: UInt8(ascii: ")")) else { return nil }
    let fields = bytes[(end + 1)...].split(whereSeparator: { $0 == 0x20 || $0 == 0x0A })
    // Field 3, the state, is the first one after the command; field 22 is the start time.
    guard fields.count > 19, let state = fields[0].first else { return nil }
    // Field 20 is the number of threads.
    guard let startTime = Self.number(fields[19]), let threadCount = Self.number(fields[17]) else { return nil }
    self.state = state
    self.startTime = startTime
    self.threadCount = threadCount
  }

  private static func number(_ digits: ArraySlice<UInt8>) -> UInt64? {
    var value: UInt64 = 0
    for byte in digits {
      guard byte &- 0x30 < 10, value < UInt64.max / 16 else { return nil }
      value = value * 10 + UInt64(byte & 15)
    }
    return value
  }
}

/// The machine's clocks, as /proc counts.
enum SystemClock {
  /// Clock ticks of /proc a second (USER_HZ).
  static let ticksPerSecond = Double(max(1, sysconf(Int32(_SC_CLK_TCK))))

  /// Ticks of now, as the agent would record them (allocs_clock.h): by the same clock, and so never ahead of its records.
  static func ticks() -> UInt32 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time)
    return allocs_ticks(UInt64(time.tv_sec), UInt64(time.tv_nsec))
  }

  /// Seconds since boot, sleep included.
  static func sinceBoot() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_BOOTTIME, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  /// Seconds since 1970-01-01 UTC.
  static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }
}
