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
    let (listener, path) = try listen()
    var barred = BarredUsers(of: listener.number)
    #expect(barred.flooded(by: 1000, at: 5) == nil)
    #expect(list(of: path) == nil)
    var now = 5.0
    var waits: [Double] = []
    for _ in 0..<12 {
      let wait = try #require(barred.flooded(by: 1000, at: now))
      waits.append(wait)
      #expect(list(of: path)?.users == [1000, 0xffff_fffe])
      // The rest of what was in the queue makes it no longer.
      #expect(barred.flooded(by: 1000, at: now) == nil && barred.flooded(by: 0, at: now) == nil)
      barred.lift(at: now + wait - 0.01)
      #expect(!barred.isEmpty)
      now += wait
      barred.lift(at: now)
      #expect(barred.isEmpty && list(of: path) == nil)
    }
    #expect(waits.prefix(4) == [0.25, 0.5, 1, 2] && waits.max() == 30)
    // A minute of rest makes up for all.
    #expect(barred.flooded(by: 1000, at: now + 61) == nil)
    #expect(mode(of: path) == 0o640)
  }

  @Test("some hundred users at a time; the list goes with its owner, and its rights are those of the file")
  func many() throws {
    let (listener, path) = try listen()
    do {
      var barred = BarredUsers(of: listener.number)
      for user in UInt32(1)...1000 {
        _ = barred.flooded(by: user, at: 1)
        _ = barred.flooded(by: user, at: 1)
      }
      let list = try #require(list(of: path))
      #expect(list.users.count == BarredUsers.limit + 1)
      // Owner, group, mask, others.
      #expect(list.rights == [6, 4, 4, 0] && mode(of: path) == 0o640)
    }
    #expect(list(of: path) == nil)
  }

  @Test("what a killed server left is taken away, what an administrator wrote stays")
  func found() throws {
    let (listener, path) = try listen()
    func write(_ user: UInt32) {
      let entries: [(UInt8, UInt8, UInt32)] = [
        (1, 6, .max), (2, 0, user), (4, 4, .max), (16, 4, .max), (32, 0, .max),
      ]
      let bytes = [2, 0, 0, 0] + entries.flatMap { [$0.0, 0, $0.1, 0] + withUnsafeBytes(of: $0.2) { Array($0) } }
      #expect(setxattr(path, "system.posix_acl_access", bytes, bytes.count, 0) == 0)
    }
    write(1234)
    var barred = BarredUsers(of: listener.number)
    for time in 1...4 { #expect(barred.flooded(by: 1000, at: Double(time)) == nil) }
    #expect(list(of: path)?.users == [1234])
    write(0xffff_fffe)
    barred = BarredUsers(of: listener.number)
    #expect(list(of: path) == nil)
  }

  @Test("a socket in a directory that others may write to, or without a name, gets no list")
  func places() throws {
    let (listener, path) = try listen()
    chmod(directory.path, 0o777)
    var barred = BarredUsers(of: listener.number)
    for time in 1...4 { #expect(barred.flooded(by: 1000, at: Double(time)) == nil) }
    #expect(list(of: path) == nil)
    let nameless = Descriptor(adopting: socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0))
    barred = BarredUsers(of: nameless.number)
    for time in 1...4 { #expect(barred.flooded(by: 1000, at: Double(time)) == nil) }
  }

  private func listen() throws -> (Descriptor, String) {
    let path = "\(directory.path)/s"
    let socket = try UnixSocket.create()
    try #require(try UnixSocket.withAddress(of: path) { bind(socket.descriptor, $0, $1) } == 0)
    chmod(path, 0o640)
    return (Descriptor(adopting: socket.release()), path)
  }

  private func mode(of path: String) -> UInt32 {
    var status = stat()
    stat(path, &status)
    return status.st_mode & 0o777
  }

  /// The users in the file's list, and the rights of its other entries.
  private func list(of path: String) -> (users: [UInt32], rights: [UInt8])? {
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
