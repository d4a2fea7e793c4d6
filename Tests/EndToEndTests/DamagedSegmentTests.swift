// SPDX-License-Identifier: Apache-2.0
// Segments and control files that somebody cuts and writes over while allocsd and allocsctl read them.

import Foundation
import Synchronization
import TestSupport
import Testing

/// A file with its first content: bytes of it are changed, it is cut, put in another's place, and made whole again.
private struct Victim {
  let path: String
  let size: off_t
  /// Linux's values of lseek, which the C library names for GNU programs only.
  private static let seekData: Int32 = 3, seekHole: Int32 = 4
  /// Its contents, the holes left out.
  private let extents: [(offset: off_t, bytes: [UInt8])]

  init(_ path: String) throws {
    self.path = path
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw HarnessError("cannot open \(path)") }
    defer { close(descriptor) }
    size = lseek(descriptor, 0, SEEK_END)
    var extents: [(off_t, [UInt8])] = []
    var place: off_t = 0
    while case let begin = lseek(descriptor, place, Self.seekData), begin >= 0 {
      place = lseek(descriptor, begin, Self.seekHole)
      var bytes = [UInt8](repeating: 0, count: Int(place - begin))
      guard pread(descriptor, &bytes, bytes.count, begin) == bytes.count else {
        throw HarnessError("cannot read \(path)")
      }
      extents.append((begin, bytes))
    }
    self.extents = extents
  }

  func restore() {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { return }
    defer { close(descriptor) }
    ftruncate(descriptor, size)
    for extent in extents { pwrite(descriptor, extent.bytes, extent.bytes.count, extent.offset) }
  }

  /// One change of those that whoever may write to the file can make.
  func damage(_ random: inout some RandomNumberGenerator) {
    switch UInt32.random(in: 0..<16, using: &random) {
    case 0:
      truncate(path, off_t(UInt64.random(in: 0..<(1 << UInt64.random(in: 0...40, using: &random)), using: &random)))
    case 1: truncate(path, size)
    case 2: restore()
    case 3:
      unlink(path)
      restore()
    default: overwrite(&random)
    }
  }

  /// Writes a few bytes where there are some: as often into the first pages as anywhere else.
  private func overwrite(_ random: inout some RandomNumberGenerator) {
    guard let extent = Bool.random(using: &random) ? extents.first : extents.randomElement(using: &random) else {
      return
    }
    let descriptor = open(path, O_WRONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    defer { close(descriptor) }
    let room = Bool.random(using: &random) ? min(extent.bytes.count, 8192) : extent.bytes.count
    let offset = off_t(Int.random(in: 0..<room, using: &random) & ~7)
    var bytes: [UInt8]
    switch UInt32.random(in: 0..<4, using: &random) {
    case 0: bytes = (0..<Int.random(in: 1...64, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
    case 1: bytes = [UInt8](repeating: Bool.random(using: &random) ? 0 : 0xFF, count: 8)
    case 2:
      // A number that was somewhere else.
      let other = Int.random(in: 0..<extent.bytes.count, using: &random) & ~7
      bytes = Array(extent.bytes[other..<min(other + 8, extent.bytes.count)])
    default: bytes = [extent.bytes[Int(offset)] ^ 1 << UInt8.random(in: 0..<8, using: &random)]
    }
    pwrite(descriptor, bytes, bytes.count, extent.offset + offset)
  }
}

extension EndToEnd {
  @Suite("damaged segments")
  struct DamagedSegments {
    @Test(
      "files that are cut and written over at random while they are read: allocsd lives, and answers for others"
    )
    func underReaders() throws {
      let directory = try TestDirectory()
      let server = try Server(directory)
      let intact = try Stationary(in: directory)
      let block = try intact.place("block")
      // Two that have ended, and two that are stopped and never go on, so that only readers meet the damage.
      var programs: [Eventful] = []
      for _ in 0..<4 {
        let program = try Eventful(in: directory, environment: ["ALLOCS_EVENTS": "1"])
        try program.tell("pairs 2000 4321")
        try program.tell("thread 50 777")
        programs.append(program)
      }
      for program in programs[..<2] { program.process.signal(SIGSTOP) }
      for program in programs[2...] {
        try program.process.send("end\n")
        _ = try program.process.wait()
      }
      let names = try FileManager.default.contentsOfDirectory(atPath: directory.path).filter { name in
        (name.hasSuffix(".seg") || name.hasSuffix(".ctl")) && programs.contains { name.hasPrefix("\($0.pid).") }
      }
      let victims = try names.map { try Victim(directory.file($0)) }
      #expect(victims.count >= 6)
      let before = try (memory: server.memory(), descriptors: server.descriptors())

      let isOver = Mutex(false)
      let numbers = RandomNumbers()
      let damager = Thread {
        var random = numbers
        while !isOver.withLock({ $0 }) {
          if let victim = victims.randomElement(using: &random) { victim.damage(&random) }
          // Readers get some of each damage to read: how much is what is tried.
          letRun(microseconds: UInt32.random(in: 0..<400, using: &random))
        }
      }
      damager.start()
      defer { isOver.withLock { $0 = true } }

      let requests = programs.map { "/v1/processes/\($0.pid)" }.flatMap {
        [$0, "\($0)/top", "\($0)/query?address=\(block.address)"]
      }
      var (answers, refusals) = (0, 0)
      for round in 0..<140 {
        let statuses = try server.statuses(requests)
        #expect(statuses.count == requests.count && statuses.allSatisfy { (200..<600).contains($0) }, "\(statuses)")
        answers += statuses.count { $0 == 200 }
        refusals += statuses.count { $0 != 200 }
        for program in programs {
          let command = [
            ["query", program.pid, "\(block.address)", "0", "0x7fffffffe000"], ["top", program.pid],
            ["history", program.pid, "\(block.address)"], ["ps"],
          ][round % 4]
          let outcome = try Tool.control(
            command + (round % 8 < 4 ? ["--direct"] : []), in: directory, socket: server.socket)
          guard case .exit = outcome.ending else {
            Issue.record("\(command): \(outcome.ending), \(outcome.errors)")
            continue
          }
        }
        // The damage to others is nothing to a process whose files are whole.
        let answer = try server.request("/v1/processes/\(intact.pid)/query?address=\(block.address + 3)")
        #expect(answer.status == 200 && answer.body.contains("\"offset\":3"), "\(answer)")
        try #require(!server.process.hasEnded, "\(server.process.errors)")
      }
      // Damage was met, and not all was damaged.
      #expect(answers > 0 && refusals > 0, "\(answers) answers, \(refusals) refusals")
      #expect(try server.memory() - before.memory < 256 << 20)
      #expect(try server.descriptors() < before.descriptors + 64)
    }
  }
}
