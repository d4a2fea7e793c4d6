// SPDX-License-Identifier: Apache-2.0
// Users whom the kernel keeps from connecting for a while. Connections of all users wait in one queue (listen(2)), and
// to take one and close it costs a server more than to make one costs a client: whoever connects without end keeps all
// others waiting, whatever the server answers. So the socket's file says who may not write to it (an access control
// list, acl(5)), and their connect(2) fails with EACCES before there is anything in the queue.
//
// - The list is only written to a socket in a directory where nobody but root or this user can put another file, and by
//   a descriptor of the file: it can't reach another one.
// - A list that somebody else has given the file stays, and nobody is barred. One that a server left behind, which was
//   killed, is known by an entry for a user that can't exist, and taken away.
// - The file's mode stays what it is, for those who are not barred.

import COpening
import Glibc
import SystemAccess

/// The barred users of one socket. Times are seconds of CLOCK_MONOTONIC.
package struct BarredUsers: ~Copyable {
  /// -1 where nobody can be barred.
  private let file: Descriptor
  private let mode: UInt32
  private var floods: [UInt32: BackOff] = [:]
  /// Until when.
  private var barred: [UInt32: Double] = [:]

  private static let attribute = "system.posix_acl_access"
  /// Of the list's entries, and of users whose floods are remembered.
  static let limit = 256
  /// (uid_t)-2, an id that systems give to nobody who may have a process here; in the list it is the mark of this code.
  private static let mark: UInt32 = 0xffff_fffe

  /// `listener`: a listening Unix socket with a name.
  package init(of listener: Int32) {
    file = Self.open(Self.path(of: listener) ?? "")
    var status = stat()
    fstat(file.number, &status)
    mode = status.st_mode & 0o777
    // What a server has left that was killed.
    if file.number >= 0, !Self.list(of: file.number).isEmpty { write() }
  }

  deinit {
    if !barred.isEmpty { removexattr("/proc/self/fd/\(file.number)", Self.attribute) }
  }

  /// Whether nobody is barred.
  package var isEmpty: Bool { barred.isEmpty }

  /// A user has gone on connecting after being refused again and again. Returns for how many seconds the user is barred
  /// from now on, nil if the user isn't: the first time nothing happens, as what is in the queue comes anyway.
  package mutating func flooded(by user: UInt32, at now: Double) -> Double? {
    guard file.number >= 0, user != 0, barred[user] == nil else { return nil }
    if floods.count >= Self.limit { floods = floods.filter { !$0.value.isClear(at: now) } }
    guard floods.count < Self.limit || floods[user] != nil else { return nil }
    var flood = floods[user] ?? BackOff()
    flood.failed(at: now, started: now - flood.rest(at: now))
    floods[user] = flood
    let wait = flood.wait(at: now)
    guard wait > 0, barred.count < Self.limit else { return nil }
    barred[user] = now + wait
    guard write() else {
      barred[user] = nil
      return nil
    }
    return wait
  }

  /// Lets those in again whose time is over.
  package mutating func lift(at now: Double) {
    guard barred.values.contains(where: { $0 <= now }) else { return }
    barred = barred.filter { $0.value > now }
    write()
  }

  // MARK: the list

  private struct Entry {
    enum Kind: UInt16 {
      case owner = 1
      case user = 2
      case group = 4
      case mask = 16
      case others = 32
    }

    let kind: Kind
    let rights: UInt32
    let id: UInt32

    init(_ kind: Kind, _ rights: UInt32, id: UInt32 = .max) {
      (self.kind, self.rights, self.id) = (kind, rights & 7, id)
    }

    /// struct posix_acl_xattr_entry: two numbers of two bytes, one of four; little-endian.
    var bytes: [UInt8] {
      let short = [UInt8(truncatingIfNeeded: kind.rawValue), 0, UInt8(truncatingIfNeeded: rights), 0]
      return short + [0, 8, 16, 24].map { UInt8(truncatingIfNeeded: id >> $0) }  // bounded: lists are joined
    }
  }

  /// Writes who is barred. As the group's own entry and the mask are the group's rights, the mode is what it was.
  @discardableResult private func write() -> Bool {
    let name = "/proc/self/fd/\(file.number)"
    if barred.isEmpty { return removexattr(name, Self.attribute) == 0 }
    var entries = [Entry(.owner, mode >> 6)]
    entries.append(contentsOf: ([Self.mark] + barred.keys).sorted().map { Entry(.user, 0, id: $0) })
    entries.append(contentsOf: [Entry(.group, mode >> 3), Entry(.mask, mode >> 3), Entry(.others, mode)])
    let bytes = [2, 0, 0, 0] + entries.flatMap(\.bytes)  // bounded: lists are joined
    return setxattr(name, Self.attribute, bytes, bytes.count, 0) == 0
  }

  /// The bytes of the file's list; none where it has none.
  private static func list(of file: Int32) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 65_536)
    let size = getxattr("/proc/self/fd/\(file)", attribute, &bytes, bytes.count)
    return Array(bytes.prefix(max(0, size)))
  }

  /// Whether a list is this code's.
  private static func isMarked(_ list: [UInt8]) -> Bool {
    let entry = Entry(.user, 0, id: mark).bytes
    return stride(from: 4, to: list.count, by: 8).contains { start in
      list.dropFirst(start).starts(with: entry)  // bounded: from 4 on
    }
  }

  // MARK: the file

  private static func path(of listener: Int32) -> String? {
    var address = sockaddr_un()
    var size = socklen_t(MemoryLayout<sockaddr_un>.size)
    let result = withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(listener, $0, &size) }
    }
    guard result == 0, address.sun_family == UInt16(AF_UNIX) else { return nil }
    let bytes = withUnsafeBytes(of: address.sun_path) { $0.prefix { $0 != 0 } }
    return bytes.first == UInt8(ascii: "/") ? String(decoding: bytes, as: UTF8.self) : nil
  }

  /// The socket's file, if nobody else can have put another there; else one with the number -1.
  private static func open(_ path: String) -> Descriptor {
    let none = Int32(-1)
    let slash = path.lastIndex(of: "/") ?? path.startIndex
    let directory = Descriptor(
      adopting: Glibc.open("\(path[..<slash])/", __O_PATH | O_DIRECTORY | O_CLOEXEC))
    var status = stat()
    guard fstat(directory.number, &status) == 0, status.st_uid == 0 || status.st_uid == geteuid(),
      status.st_mode & 0o022 == 0
    else { return Descriptor(adopting: none) }
    let name = String(path[slash...].drop { $0 == "/" })
    let file = openat(directory.number, name, __O_PATH | O_NOFOLLOW | O_CLOEXEC)
    guard fstat(file, &status) == 0, status.st_uid == geteuid(), status.st_mode & S_IFMT == S_IFSOCK,
      case let list = list(of: file), list.isEmpty || isMarked(list)
    else {
      close(file)
      return Descriptor(adopting: none)
    }
    return Descriptor(adopting: file)
  }
}
