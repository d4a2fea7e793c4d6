// SPDX-License-Identifier: Apache-2.0
// Who floods a socket can't connect to it for a while, by a clock that the test turns; and which files get no list.

import COpening
import Glibc
import SystemAccess
import TestSupport
import Testing

@testable import ServerProtocol

@Suite("barred users", .bounded)
struct BarredUsersTests {
  private let directory: TestDirectory

  init() throws { directory = try TestDirectory() }

  @Test("who floods again and again is barred, longer each time, to a bound; others, the mode and root are not touched")
  func bars() throws {
    let listener = try listen()
    var barred = BarredUsers(of: listener.number)
    let first = barred.flooded(by: 1000, at: 5)
    #expect(first == nil)
    #expect(accessList == nil)
    var now = 5.0
    var waits: [Double] = []
    for _ in 0..<12 {
      let time = barred.flooded(by: 1000, at: now)
      let wait = try #require(time)
      waits.append(wait)
      #expect(accessList?.users == [1000, 0xffff_fffe])
      // The rest of what was in the queue makes it no longer.
      let more = [barred.flooded(by: 1000, at: now), barred.flooded(by: 0, at: now)]
      #expect(more == [nil, nil])
      barred.lift(at: now + wait - 0.01)
      #expect(accessList != nil)
      now += wait
      barred.lift(at: now)
      let isEmpty = barred.isEmpty
      #expect(isEmpty && accessList == nil)
    }
    #expect(waits.prefix(4) == [0.25, 0.5, 1, 2] && waits.max() == 30)
    // A minute of rest makes up for all.
    let last = barred.flooded(by: 1000, at: now + 61)
    #expect(last == nil)
    #expect(mode == 0o640)
  }

  @Test("some hundred users at a time; the list goes with its owner, and its rights are those of the file")
  func many() throws {
    let listener = try listen()
    do {
      var barred = BarredUsers(of: listener.number)
      for user in UInt32(1)...1000 {
        _ = barred.flooded(by: user, at: 1)
        _ = barred.flooded(by: user, at: 1)
      }
      let list = try #require(accessList)
      #expect(list.users.count == BarredUsers.limit + 1)
      // Owner, group, mask, others.
      #expect(list.rights == [6, 4, 4, 0] && mode == 0o640)
    }
    #expect(accessList == nil)
  }

  @Test("what a killed server left is taken away, what an administrator wrote stays")
  func found() throws {
    let listener = try listen()
    func write(_ user: UInt32) {
      let entries: [(UInt8, UInt8, UInt32)] = [
        (1, 6, .max), (2, 0, user), (4, 4, .max), (16, 4, .max), (32, 0, .max),
      ]
      let bytes: [UInt8] =
        [2, 0, 0, 0] + entries.flatMap { [$0.0, 0, $0.1, 0] + withUnsafeBytes(of: $0.2) { Array($0) } }
      #expect(setxattr(path, "system.posix_acl_access", bytes, bytes.count, 0) == 0)
    }
    write(1234)
    var barred = BarredUsers(of: listener.number)
    let waits = (1...4).map { barred.flooded(by: 1000, at: Double($0)) }
    #expect(waits == [nil, nil, nil, nil])
    #expect(accessList?.users == [1234])
    write(0xffff_fffe)
    barred = BarredUsers(of: listener.number)
    #expect(accessList == nil)
  }

  @Test("a socket in a directory that others may write to, or without a name, gets no list")
  func places() throws {
    let listener = try listen()
    chmod(directory.path, 0o777)
    var barred = BarredUsers(of: listener.number)
    let waits = (1...4).map { barred.flooded(by: 1000, at: Double($0)) }
    #expect(waits == [nil, nil, nil, nil])
    #expect(accessList == nil)
    let nameless = Descriptor(adopting: socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0))
    barred = BarredUsers(of: nameless.number)
    let others = (1...4).map { barred.flooded(by: 1000, at: Double($0)) }
    #expect(others == [nil, nil, nil, nil])
  }

  private var path: String { directory.file("s") }

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

  /// The users in the file's list, and the rights of its other entries.
  private var accessList: (users: [UInt32], rights: [UInt8])? {
    var bytes = [UInt8](repeating: 0, count: 65_536)
    let size = getxattr(path, "system.posix_acl_access", &bytes, bytes.count)
    guard size > 0 else { return nil }
    let entries = stride(from: 4, to: size, by: 8).map { Array(bytes[$0..<$0 + 8]) }
    let users = entries.filter { $0[0] == 2 }
    return (
      users.map { $0[4...].reversed().reduce(0) { $0 << 8 | UInt32($1) } },
      entries.filter { $0[0] != 2 }.map { $0[2] }
    )
  }
}
