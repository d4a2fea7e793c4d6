// SPDX-License-Identifier: Apache-2.0
// Writes to the last byte, clocks, and errors in words.

import Foundation
import Synchronization
import SystemAccess
import TestSupport
import Testing

@Suite("Calls of the system", .bounded)
struct SystemCallTests {
  /// The ends of a pipe, non-blocking. It holds 64 KiB (pipe(7)), far less than the test writes.
  private static func pipe() throws -> (read: Int32, write: Int32) {
    let ends = try makePipe()
    for end in [ends.read, ends.write] { try #require(fcntl(end, F_SETFL, O_NONBLOCK) == 0) }
    return ends
  }

  @Test("all bytes are written, also where the reader is slower and the descriptor doesn't wait")
  func slowReader() throws {
    let (input, output) = try Self.pipe()
    let bytes = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
    let code = Atomic<Int32>(-1)
    // A thread of its own: a task might wait for the thread that waits for it here.
    let writer = Thread {
      code.store(writeAll(bytes, to: output), ordering: .releasing)
      close(output)
    }
    writer.start()
    var received: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1500)
    while true {
      var request = pollfd(fd: input, events: Int16(POLLIN), revents: 0)
      poll(&request, 1, -1)
      let count = read(input, &buffer, buffer.count)
      if count == 0 { break }
      if count > 0 { received += buffer[..<count] }
    }
    #expect(code.load(ordering: .acquiring) == 0)
    #expect(received == bytes)
    close(input)
  }

  @Test("a write that fails ends with the system's number")
  func failure() {
    #expect(writeAll([1], to: -1) == EBADF)
    let full = open("/dev/full", O_WRONLY | O_CLOEXEC)
    #expect(writeAll([1, 2, 3], to: full) == ENOSPC)
    close(full)
    #expect(writeAll([], to: -1) == 0)
  }

  @Test("a monotonic clock goes on, in nanoseconds and in seconds")
  func clocks() {
    let before = nanoseconds(of: CLOCK_MONOTONIC)
    let after = seconds(of: CLOCK_MONOTONIC)
    #expect(after >= Double(before) / 1e9 && after - Double(before) / 1e9 < 60)
    #expect(seconds(of: CLOCK_REALTIME) > 1_700_000_000)
  }

  @Test("a complaint is printed as what failed and what to do; what is not known is left out")
  func words() {
    #expect(Complaint(.usage, what: "no — such", advice: "do").description == "no — such — do")
    #expect(Complaint(.obstacle, what: "failed").description == "failed")
  }

  @Test("a complaint's words are one line that does nothing to a terminal, however they come into it")
  func hostileComplaint() {
    let hostile = "a\u{1B}]0;x\u{7}\n\u{9B}\u{202E}\u{2028}\u{E0041}"
    let escaped = "a\\u{1b}]0;x\\u{7}\\u{a}\\u{9b}\\u{202e}\\u{2028}\\u{e0041}"
    var complaint = Complaint(.usage, what: "\(hostile): é", advice: hostile)
    #expect(complaint.what == "\(escaped): é" && complaint.advice == escaped)
    #expect(complaint.description == "\(escaped): é — \(escaped)")
    complaint.what = "line 1: \(complaint.what)"
    #expect(complaint.what == "line 1: \(escaped): é")
    complaint.what = hostile
    complaint.advice = hostile
    #expect(complaint.what == escaped && complaint.advice == escaped)
    #expect(systemWords(ENOENT) == "No such file or directory")
  }

  @Test("the agent's places are tried in their order")
  func directories() {
    #expect(
      SharedDirectories.tried(byUser: 7).map(\.path) == [
        "/run/allocs/7", "/run/allocs", "/run/user/7/allocs", "/dev/shm/allocs-7",
      ])
    #expect(SharedDirectories.searched(byUser: 7).last?.path == "/dev/shm/allocs")
  }
}
