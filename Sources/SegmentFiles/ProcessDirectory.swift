// SPDX-License-Identifier: Apache-2.0
// /proc/PID of one process, kept open: every file that is read through it is about that process,
// even if its id is used again.
//
// The first thread of a process may end before the others (pthread_exit in main). The process lives
// on, but the kernel then says nothing of its memory under /proc/PID: no mappings, no memory, no
// arguments. Any other thread has the same memory, so what /proc/PID doesn't tell is read under
// /proc/PID/task/TID of a thread that lives.

import Glibc
import SharedLayout
import SystemAccess

/// An open /proc/PID. Everything read through it fails once the process is gone. Outside of this
/// module it can only be made for a segment's process (ProcessIdentity.swift).
package struct ProcessDirectory: ~Copyable {
  package let processID: Int32
  private let descriptor: Int32
  /// The line "stat" by which it was found to be a segment's process.
  package let found: ProcessStat?

  /// Throws the error number of `open`: ENOENT if there is no such process.
  init(processID: Int32) throws(ProcError) {
    let descriptor = open("/proc/\(processID)", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw ProcError(number: errno) }
    self.processID = processID
    self.descriptor = descriptor
    found = nil
  }

  /// /proc/PID of the segment's process, in the pid namespace of this reader. Throws ESRCH if no
  /// process of that number, start time and user runs here.
  package init(of identity: ProcessIdentity) throws(ProcError) {
    let opened = try ProcessDirectory(processID: identity.processID)
    let stat = try opened.stat()
    guard identity.isStart(asRead: stat.startTime, opened), opened.stranger(to: identity.ownerID) == nil else {
      throw ProcError(number: ESRCH)
    }
    processID = identity.processID
    descriptor = opened.release()
    found = stat
  }

  /// /proc/PID of a process in another pid namespace than this reader's, in which its number is
  /// another one: of the process that has the segment mapped. Nil if none is found, or it may not
  /// be seen. Looks at every process.
  package init?(elsewhere identity: ProcessIdentity) {
    guard let id = ProcessLiveness.processID(ofInner: identity.processID, writing: identity.file),
      let opened = try? ProcessDirectory(processID: id)
    else { return nil }
    guard opened.stranger(to: identity.ownerID) == nil,
      RunningProcesses.writtenFiles(of: opened)?.contains(identity.file) == true
    else { return nil }
    processID = id
    found = try? opened.stat()
    descriptor = opened.release()
  }

  /// Gives the descriptor to a caller that closes it from now on.
  private consuming func release() -> Int32 {
    let descriptor = descriptor
    discard self
    return descriptor
  }

  /// The owner of the directory: the process's effective user, or root if it may not be traced.
  var effectiveUser: UInt32? {
    var status = Glibc.stat()
    return fstat(descriptor, &status) == 0 ? status.st_uid : nil
  }

  deinit { close(descriptor) }

  // MARK: files

  /// All of the file `name`, such as "maps" or "task/4242/comm"; at most `limit` bytes. A file that
  /// is the process's, and not a thread's, is read through any thread that lives.
  package func read(_ name: String, limit: Int = 256 << 20) throws(ProcError) -> [UInt8] {
    try throughLiveTask(name) { (name) throws(ProcError) in try contents(name, limit) }
  }

  private func contents(_ name: String, _ limit: Int) throws(ProcError) -> [UInt8] {
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
        repeat { got = Glibc.read(file, buffer.baseAddress, wanted) } while got < 0 && errno == EINTR
        if got < 0 { failure = errno }
        size = max(got, 0)
      }
      if failure != 0 { throw ProcError(number: failure) }
      if piece.isEmpty { break }
      if bytes.isEmpty { bytes = piece } else { bytes += piece }
      chunk = min(chunk &* 4, 1 << 20)
    }
    return bytes
  }

  /// The process's mappings, to be asked one by one. Of a process whose first thread has ended, no
  /// mapping can be asked.
  package func mappingQuery() throws(ProcError) -> MappingQuery {
    let file = openat(descriptor, "maps", O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw ProcError(number: errno) }
    return MappingQuery(taking: file)
  }

  /// The file `name` of one line, as far as a page holds it.
  package func line(_ name: String) throws(ProcError) -> [UInt8] {
    let file = openat(descriptor, name, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw ProcError(number: errno) }
    defer { close(file) }
    var failure: Int32 = 0
    // The kernel makes such a file up at once, so one read gets all of it.
    let bytes = [UInt8](unsafeUninitializedCapacity: 4096) { buffer, size in
      var got: Int
      repeat { got = Glibc.read(file, buffer.baseAddress, buffer.count) } while got < 0 && errno == EINTR
      if got < 0 { failure = errno }
      size = max(got, 0)
    }
    guard failure == 0 else { throw ProcError(number: failure) }
    return bytes
  }

  /// The line "stat" of a thread that has the process's memory: the first one, or where that has
  /// ended, another.
  package func memoryStatistics() throws(ProcError) -> [UInt8] {
    let own = try line("stat")
    guard ProcessStat(own)?.isEnded == true else { return own }
    guard let task = liveTask() else { throw ProcError(number: ESRCH) }
    return try line("task/\(task)/stat")
  }

  /// Up to `count` bytes of the process's memory, as many as are mapped; nil if the caller may not
  /// trace it. Room for `count` bytes is taken: the caller bounds them.
  package func memory(at address: UInt64, count: Int) -> [UInt8]? {
    let bytes = piece(of: "mem", at: address, count: count)
    return bytes?.isEmpty == false ? bytes : nil
  }

  /// Up to `count` bytes of a file of the process's; nil if it can't be opened.
  private func piece(of file: String, at offset: UInt64, count: Int) -> [UInt8]? {
    try? throughLiveTask(file) { (name) throws(ProcError) in
      let file = openat(descriptor, name, O_RDONLY | O_CLOEXEC)
      guard file >= 0 else { throw ProcError(number: errno) }
      defer { close(file) }
      return [UInt8](unsafeUninitializedCapacity: count) { buffer, size in
        let got = pread(file, buffer.baseAddress, count, off_t(truncatingIfNeeded: offset))
        size = max(got, 0)
      }
    }
  }

  /// Words of the process's memory, as `memory(at:count:)` has it.
  package func words(at address: UInt64, count: Int) -> [UInt64]? {
    memory(at: address, count: count &* 8).map(Self.words(in:))
  }

  private static func words(in bytes: [UInt8]) -> [UInt64] {
    bytes.withUnsafeBytes { buffer in
      stride(from: 0, to: buffer.count & ~7, by: 8).map {
        UInt64(littleEndian: buffer.loadUnaligned(fromByteOffset: $0, as: UInt64.self))
      }
    }
  }

  /// For each of `count` pages of 4 KiB from `address` on, the word that /proc/PID/pagemap has
  /// (proc(5)); fewer if the kernel gives fewer, nil if the caller may not know.
  package func pageWords(from address: UInt64, count: Int) -> [UInt64]? {
    piece(of: "pagemap", at: (address >> 12) &* 8, count: count &* 8).map(Self.words(in:))
  }

  // MARK: threads

  /// The threads that exist, by the kernel's ids.
  package func threadIDs() throws(ProcError) -> [UInt32] {
    var ids: [UInt32] = []
    try forEachThread { id in
      ids.append(id)
      return true
    }
    return ids
  }

  private func forEachThread(_ goesOn: (UInt32) -> Bool) throws(ProcError) {
    let tasks = openat(descriptor, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard tasks >= 0 else { throw ProcError(number: errno) }
    guard let stream = fdopendir(tasks) else {
      let number = errno
      close(tasks)
      throw ProcError(number: number)
    }
    defer { closedir(stream) }
    while let entry = readdir(stream) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      if let id = UInt32(name), !goesOn(id) { return }
    }
  }

  /// A thread that lives; nil if all have ended. The first one, if it lives.
  package func liveTask() -> UInt32? {
    let first = UInt32(bitPattern: processID)
    if isLive(first) { return first }
    var found: UInt32?
    try? forEachThread { id in
      if id != first, isLive(id) { found = id }
      return found == nil
    }
    return found
  }

  private func isLive(_ task: UInt32) -> Bool { (try? stat("task/\(task)/stat"))?.isEnded == false }

  /// The bytes that `body` reads of the file `name`. If it reads nothing and the first thread has
  /// ended, it reads that file of a thread that lives; which may end, too, while it is asked.
  private func throughLiveTask(
    _ name: String, _ body: (String) throws(ProcError) -> [UInt8]
  ) throws(ProcError) -> [UInt8] {
    var failure: ProcError?
    do throws(ProcError) {
      let bytes = try body(name)
      if !bytes.isEmpty { return bytes }
    } catch {
      guard error.isGone else { throw error }
      failure = error
    }
    if !name.hasPrefix("task/"), (try? stat())?.isEnded == true {
      for _ in 0..<8 {
        guard let task = liveTask() else { break }
        do throws(ProcError) {
          let bytes = try body("task/\(task)/\(name)")
          // The thread may have ended before it was asked; else there is nothing there.
          if !bytes.isEmpty || isLive(task) { return bytes }
        } catch {
          guard error.isGone else { throw error }
        }
      }
    }
    if let failure { throw failure }
    return []
  }

  /// The stack pointer of thread `id`; nil while the thread runs, or if the caller may not know it.
  package func stackPointer(ofThread id: UInt32) -> UInt64? {
    // proc(5): a number and six arguments of a system call, or -1, then stack pointer and program
    // counter; or "running".
    guard let line = try? line("task/\(id)/syscall") else { return nil }
    let fields = line.split(whereSeparator: { $0 == 0x20 || $0 == 0x0A })
    guard fields.count >= 3 else { return nil }
    let text = fields[fields.count - 2]
    guard text.starts(with: "0x".utf8) else { return nil }
    return UInt64(String(decoding: text.dropFirst(2), as: UTF8.self), radix: 16)
  }

  /// The line "stat", or "task/TID/stat", of the process or thread.
  package func stat(_ name: String = "stat") throws(ProcError) -> ProcessStat {
    guard let stat = ProcessStat(try line(name)) else { throw ProcError(number: EINVAL) }
    return stat
  }
}

/// The error number of a system call on a file of /proc.
package struct ProcError: Error, Hashable {
  package var number: Int32

  package init(number: Int32) { self.number = number }

  package var isPermission: Bool { number == EACCES || number == EPERM }
  /// Descriptors or memory are short: the caller's, or the machine's.
  package var isShortage: Bool { SegmentFiles.isShortage(number) }
  /// There is no such process or thread, or it ended meanwhile.
  package var isGone: Bool { number == ENOENT || number == ESRCH }
}

/// A line of /proc/PID/stat, as far as it matters here (proc(5)).
package struct ProcessStat: Hashable, Sendable {
  /// `R`, `S`, … ; `Z` is a zombie, `X` a dead process.
  package var state: UInt8
  /// The process's parent, as the caller's pid namespace numbers it; 0 if it is not in there.
  package var parentID: UInt64
  /// Clock ticks since boot, as the caller's time namespace counts them.
  package var startTime: UInt64

  /// Threads that run; also the first one of a process may end before the others.
  package var threadCount: UInt64

  /// Its exit status, or the number of the signal that ended it, as wait(2) has it. Nil unless it
  /// has ended, and the caller may know.
  package var waitStatus: Int32?

  /// The thread's name, as "comm" has it; nil where the line has it in another way, as it has a
  /// newline or a backslash, or the name is longer than that of any program's thread.
  package var name: [UInt8]? {
    guard let nameLength else { return nil }
    var name: [UInt8] = []
    var (low, high) = (nameLow, nameHigh)
    while name.count < nameLength {
      name.append(UInt8(truncatingIfNeeded: low))
      (low, high) = (low &>> 8 | high &<< 56, high &>> 8)
    }
    return name
  }
  /// Up to 15 bytes, the first one lowest: without a reference, as a directory holds the value.
  private var (nameLow, nameHigh): (UInt64, UInt64) = (0, 0)
  private var nameLength: Int?

  /// The thread has ended; its process may go on with others.
  package var isEnded: Bool { state == UInt8(ascii: "Z") || state == UInt8(ascii: "X") }

  package init?(_ bytes: [UInt8]) {
    // The second field is the command in parentheses, which may itself contain blanks and
    // parentheses.
    guard let end = bytes.lastIndex(of: UInt8(ascii: ")")) else { return nil }
    let name = bytes[..<end].drop { $0 != UInt8(ascii: "(") }.dropFirst()
    if name.count <= 15, !name.contains(UInt8(ascii: "\\")) {
      nameLength = name.count
      for byte in name.reversed() {
        nameHigh = nameHigh &<< 8 | nameLow &>> 56
        nameLow = nameLow &<< 8 | UInt64(truncatingIfNeeded: byte)
      }
    }
    let fields = bytes[end...].dropFirst().split(whereSeparator: { $0 == 0x20 || $0 == 0x0A })
    // Field 3, the state, is the first one after the command; field 22 is the start time.
    guard fields.count > 19, let state = fields[0].first, let parentID = Self.number(fields[1]) else { return nil }
    // Field 20 is the number of threads.
    guard let startTime = Self.number(fields[19]), let threadCount = Self.number(fields[17]) else { return nil }
    self.state = state
    self.parentID = parentID
    self.startTime = startTime
    self.threadCount = threadCount
    // Field 52 is 0 for those who may not trace the process.
    if isEnded, fields.count > 49, let status = Self.number(fields[49]), status != 0 {
      waitStatus = Int32(exactly: status)
    }
  }

  private static func number(_ digits: ArraySlice<UInt8>) -> UInt64? {
    var value: UInt64 = 0
    for byte in digits {
      guard byte &- 0x30 < 10, value < UInt64.max / 16 else { return nil }
      value = value &* 10 &+ UInt64(byte & 15)
    }
    return value
  }
}

/// The machine's clocks, as /proc counts.
package enum SystemClock {
  /// Clock ticks of /proc a second (USER_HZ).
  package static let ticksPerSecond = Double(max(1, sysconf(Int32(_SC_CLK_TCK))))

  /// Seconds since boot, sleep included.
  package static func sinceBoot() -> Double { seconds(of: CLOCK_BOOTTIME) }

  /// Seconds since 1970-01-01 UTC.
  package static func now() -> Double { seconds(of: CLOCK_REALTIME) }
}
