// SPDX-License-Identifier: Apache-2.0
// Who floods a socket can't connect to it for a while, by a clock that the test turns; and what stays of the mode and
// the list of the file is its owner's.

import COpening
import Glibc
import SystemAccess
import TestSupport
import Testing

@testable import ServerProtocol

@Suite("barred users", .bounded)
struct BarredUsersTests {
  private let directory: TestDirectory
  private var path: String { directory.file("s") }
  private static let attribute = "system.posix_acl_access"

  init() throws { directory = try TestDirectory() }

  private func listen() throws -> Descriptor {
    let socket = try UnixSocket.create()
    try #require(try UnixSocket.withAddress(of: path) { bind(socket.descriptor, $0, $1) } == 0)
    chmod(path, 0o640)
    return Descriptor(adopting: socket.release())
  }

  private var mode: UInt32 {
    var status = stat()
    stat(path, &status)
    return status.st_mode & 0o777
  }

  /// An entry of a list: kind, rights, id.
  private typealias Entry = (kind: UInt8, rights: UInt8, id: UInt32)

  private func write(_ entries: [Entry]) {
    let bytes: [UInt8] =
      [2, 0, 0, 0] + entries.flatMap { [$0.kind, 0, $0.rights, 0] + withUnsafeBytes(of: $0.id) { Array($0) } }
    #expect(setxattr(path, Self.attribute, bytes, bytes.count, 0) == 0)
  }

  private var entries: [Entry] {
    var bytes = [UInt8](repeating: 0, count: 65_536)
    let size = getxattr(path, Self.attribute, &bytes, bytes.count)
    return stride(from: 4, to: max(4, size), by: 8).map { start in
      (bytes[start], bytes[start + 2], bytes[start + 4..<start + 8].reversed().reduce(0) { $0 << 8 | UInt32($1) })
    }
  }

  /// `1000:1` for the user 1000 with the right to execute.
  private var users: [String] { entries.filter { $0.kind == 2 }.map { "\($0.id):\($0.rights)" } }

  /// Floods so often, a second apart, that the user is barred if anybody can be.
  private func flood(_ barred: inout BarredUsers, _ user: UInt32, at time: Double) -> [BarredUsers.Outcome] {
    [barred.flooded(by: user, at: time), barred.flooded(by: user, at: time + 1)]
  }

  @Test("who floods again and again is barred, longer each time, to a bound; the rest of a queue counts once")
  func bars() throws {
    let listener = try listen()
    var barred = BarredUsers(of: listener.number)
    var now = 5.0
    // What is in the queue comes anyway.
    let first = (0..<100).map { barred.flooded(by: 1000, at: now + Double($0) / 1000) }
    #expect(first.allSatisfy { $0 == .passed } && users == [])
    now += 1
    var waits: [Double] = []
    for _ in 0..<12 {
      let outcome = barred.flooded(by: 1000, at: now)
      guard case .barred(let wait) = outcome else {
        Issue.record("\(outcome)")
        return
      }
      waits.append(wait)
      #expect(users == ["1000:1"] && mode == 0o640)
      let more = [
        barred.flooded(by: 1000, at: now), barred.flooded(by: 0, at: now), flood(&barred, 65_534, at: now)[1],
      ]
      #expect(more == [.passed, .passed, .passed])
      barred.lift(at: now + wait - 0.01)
      #expect(users == ["1000:1"])
      now += wait
      barred.lift(at: now)
      let isEmpty = barred.isEmpty
      #expect(isEmpty && entries.isEmpty && mode == 0o640)
      now += 1
    }
    #expect(waits.prefix(4) == [0.25, 0.5, 1, 2] && waits.max() == 30)
    // A minute of rest makes up for all.
    let last = barred.flooded(by: 1000, at: now + 61)
    #expect(last == .passed)
  }

  @Test("of more users than the list has room for the latest are barred; the list goes with its owner")
  func many() throws {
    let listener = try listen()
    do {
      var barred = BarredUsers(of: listener.number)
      for user in UInt32(1)...600 {
        let outcomes = flood(&barred, user, at: Double(user) / 1000)
        #expect(outcomes == [.passed, .barred(0.25)], "\(user)")
        #expect(users.contains("\(user):1") && users.count <= BarredUsers.limit)
      }
      #expect(users.count == BarredUsers.limit)
    }
    #expect(entries.isEmpty && mode == 0o640)
  }

  @Test("the file's mode and list stay its owner's, whatever they are changed to meanwhile")
  func others() throws {
    let listener = try listen()
    // A user who may write, one who may not, one who has an entry already.
    let named: [Entry] = [(2, 6, 7), (2, 0, 8), (2, 4, 1000)]
    let ends: [Entry] = [(1, 6, .max), (4, 4, .max), (16, 6, .max), (32, 0, .max)]
    write(ends.prefix(1) + named + ends.dropFirst())
    let before = entries.map { "\($0)" }
    var barred = BarredUsers(of: listener.number)
    _ = flood(&barred, 1000, at: 1)
    _ = flood(&barred, 500, at: 1)
    #expect(users == ["7:6", "8:0", "500:1", "1000:4"])
    barred.lift(at: 100)
    #expect(entries.map { "\($0)" } == before)
    // While somebody is barred: another mode, and an entry more.
    removexattr(path, Self.attribute)
    chmod(path, 0o600)
    _ = flood(&barred, 500, at: 200)
    #expect(users == ["500:1"] && mode == 0o600)
    chmod(path, 0o660)
    _ = flood(&barred, 501, at: 201)
    #expect(users == ["500:1", "501:1"] && mode == 0o660)
    let with = entries
    write(with.prefix(1) + [(2, 6, 9)] + with.dropFirst())
    barred.lift(at: 300)
    #expect(users == ["9:6"] && mode == 0o660)
    removexattr(path, Self.attribute)
    chmod(path, 0o600)
    barred.lift(at: 400)
    #expect(entries.isEmpty && mode == 0o600)
  }

  @Test("what a killed server left is taken away")
  func leftOver() throws {
    let listener = try listen()
    write([(1, 6, .max), (2, 1, 1000), (2, 0, 1234), (4, 4, .max), (16, 4, .max), (32, 0, .max)])
    _ = BarredUsers(of: listener.number)
    #expect(users == ["1234:0"])
    write([(1, 6, .max), (2, 1, 1000), (4, 4, .max), (16, 4, .max), (32, 0, .max)])
    let barred = BarredUsers(of: listener.number)
    let isEmpty = barred.isEmpty
    #expect(entries.isEmpty && isEmpty && listener.number >= 0)
  }

  @Test("a socket in a directory that others may write to, or without a name, gets no list")
  func places() throws {
    let listener = try listen()
    chmod(directory.path, 0o777)
    var barred = BarredUsers(of: listener.number)
    let outcomes = flood(&barred, 1000, at: 1)
    #expect(outcomes == [.passed, .passed] && entries.isEmpty)
    let nameless = Descriptor(adopting: try UnixSocket.create().release())
    barred = BarredUsers(of: nameless.number)
    let others = flood(&barred, 1000, at: 1)
    #expect(others == [.passed, .passed] && listener.number >= 0)
  }

  @Test("where no list can be written, that is said once, and nobody counts as barred")
  func failing() throws {
    let listener = try listen()
    var barred = BarredUsers(of: listener.number)
    // A list without room for more: an attribute has 64 KiB at most.
    write(
      [(1, 6, .max)] + (0..<8180).map { (2, 4, 10_000 + UInt32($0)) }
        + [(4, 4, .max), (16, 4, .max), (32, 0, .max)])
    var outcomes: [BarredUsers.Outcome] = []
    for user in UInt32(1)...40 { outcomes += flood(&barred, user, at: 1) }
    let failures = outcomes.filter { if case .failed = $0 { true } else { false } }
    #expect(failures.count == 1 && outcomes.contains(.barred(0.25)) && outcomes.last == .passed, "\(failures)")
    #expect(listener.number >= 0)
  }
}
