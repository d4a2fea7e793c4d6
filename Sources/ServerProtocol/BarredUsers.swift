// SPDX-License-Identifier: Apache-2.0
// Users whom the kernel keeps from connecting for a while. Connections of all users wait in one queue (listen(2)), and
// to take one and close it costs a server more than to make one costs a client: whoever connects without end keeps all
// others waiting, whatever the server answers. So the socket's file says who may not write to it (an access control
// list, acl(5)), and their connect(2) fails with EACCES before there is anything in the queue.
//
// - The list is only written to a socket in a directory where nobody but root or this user can put another file, and by
//   a descriptor of the file: it can't reach another one.
// - The file's mode and its list are the administrator's. Entries of this code are those for users who may execute the
//   file, and no more: to a socket that means nothing, and nobody else writes such. Each change takes what is there,
//   without those, and adds those who are barred now. What a server left that was killed goes in the same way.
// - Who has no entry is treated as before.

import COpening
import Glibc
import SystemAccess

/// The barred users of one socket. Times are seconds of CLOCK_MONOTONIC.
package struct BarredUsers: ~Copyable {
  package enum Outcome: Equatable {
    /// Nothing has changed.
    case passed
    /// The user can't connect for so many seconds.
    case barred(Double)
    /// Why nobody can be barred here. It is said once.
    case failed(String)
  }

  /// -1 where nobody can be barred.
  private let file: Descriptor
  private var floods: [UInt32: BackOff] = [:]
  /// Until when.
  private var barred: [UInt32: Double] = [:]
  /// Whether the file's list may have entries of those who are not barred any more.
  private var isStale = false
  private var hasFailed = false

  private static let attribute = "system.posix_acl_access"
  /// Of the list's entries, and of users whose floods are remembered.
  static let limit = 256
  /// Seconds in which what was in the queue already comes, before anybody is barred for it.
  private static let grace = 0.25
  /// In a user namespace the kernel shows every user from outside it under this id: who has the id inside must not be
  /// barred for what those do.
  private static let overflow: UInt32 = 65_534

  /// `listener`: a listening Unix socket with a name.
  package init(of listener: Int32) {
    file = Self.open(Self.path(of: listener) ?? "")
    // What a server has left that was killed.
    if file.number >= 0 { _ = write() }
  }

  deinit {
    if !barred.isEmpty || isStale { _ = Self.write([], to: file.number) }
  }

  /// Whether nobody is barred, and no entry is left.
  package var isEmpty: Bool { barred.isEmpty && !isStale }

  /// A user has gone on connecting after being refused again and again. The first time nothing happens.
  package mutating func flooded(by user: UInt32, at now: Double) -> Outcome {
    guard file.number >= 0, user != 0, user != Self.overflow, barred[user] == nil else { return .passed }
    var flood = floods[user] ?? BackOff()
    guard floods[user] == nil || flood.rest(at: now) >= Self.grace else { return .passed }
    // Who has flooded least goes from a table that is full, and the bar that ends first is lifted.
    if floods.count >= Self.limit, floods[user] == nil,
      let least = floods.filter({ barred[$0.key] == nil }).min(by: { $0.value.failures < $1.value.failures })
        ?? floods.min(by: { (barred[$0.key] ?? 0) < (barred[$1.key] ?? 0) })
    {
      floods[least.key] = nil
      isStale = isStale || barred.removeValue(forKey: least.key) != nil
    }
    flood.failed(at: now, started: now - flood.rest(at: now))
    floods[user] = flood
    let wait = flood.wait(at: now)
    guard wait > 0 else { return .passed }
    barred[user] = now + wait
    if let code = write() {
      barred[user] = nil
      defer { hasFailed = true }
      return hasFailed ? .passed : .failed(systemWords(code))
    }
    return .barred(wait)
  }

  /// Lets those in again whose time is over.
  package mutating func lift(at now: Double) {
    guard isStale || barred.values.contains(where: { $0 <= now }) else { return }
    barred = barred.filter { $0.value > now }
    _ = write()
  }

  // MARK: the list

  private struct Entry {
    enum Kind: UInt8 {
      case owner = 1
      case user = 2
      case group = 4
      case mask = 16
      case others = 32
    }
    static let size = 8

    /// struct posix_acl_xattr_entry: kind and rights, of two bytes each, and an id of four; little-endian.
    let bytes: [UInt8]

    init(_ bytes: some Sequence<UInt8>) { self.bytes = Array(bytes) }

    init(_ kind: Kind, _ rights: UInt32, id: UInt32 = .max) {
      bytes =
        [kind.rawValue, 0, UInt8(truncatingIfNeeded: rights & 7), 0]
        + [0, 8, 16, 24].map { UInt8(truncatingIfNeeded: id >> $0) }  // bounded: lists are joined
    }

    // bounded: four bytes at most
    var id: UInt32 { bytes.suffix(4).reversed().reduce(0) { $0 << 8 | UInt32(truncatingIfNeeded: $1) } }
    var isUser: Bool { bytes.first == Kind.user.rawValue }
    /// Whether this code has written it: a user who may execute the file.
    var isBar: Bool { isUser && bytes.dropFirst(2).first == 1 }
  }

  /// Writes who is barred. Returns nil, or the number of an error.
  private mutating func write() -> Int32? {
    let code = Self.write(Array(barred.keys), to: file.number)
    isStale = code != nil
    return code
  }

  private static func write(_ users: [UInt32], to file: Int32) -> Int32? {
    let name = "/proc/self/fd/\(file)"
    var bytes = [UInt8](repeating: 0, count: 65_536)
    let size = getxattr(name, attribute, &bytes, bytes.count)
    guard size >= 0 || errno == ENODATA else { return users.isEmpty && errno == EOPNOTSUPP ? nil : errno }
    // bounded: steps from 4 on
    let known = stride(from: 4, to: max(4, size), by: Entry.size).map { start in
      Entry(bytes.dropFirst(start).prefix(Entry.size))  // bounded: from 4 on, and a size above 0
    }
    let others = known.filter { !$0.isBar }
    guard !users.isEmpty || others.count < known.count else { return nil }
    var status = stat()
    guard fstat(file, &status) == 0 else { return errno }
    // Where there is no list, the rights of the mode are the entries; the mask is the group's.
    let mode = status.st_mode
    let ends =
      known.isEmpty
      ? [Entry(.owner, mode >> 6), Entry(.group, mode >> 3), Entry(.mask, mode >> 3), Entry(.others, mode)]
      : others.filter { !$0.isUser }
    let named = others.filter(\.isUser)
    if users.isEmpty, named.isEmpty, ends.count <= 4 { return removexattr(name, attribute) == 0 ? nil : errno }
    // Of each user there may be one entry, and entries must be in the order of kinds and ids.
    let theirs = Set(named.map(\.id))
    let bars = users.filter { !theirs.contains($0) }.map { Entry(.user, 1, id: $0) }
    let users = (named + bars).sorted { $0.id < $1.id }  // bounded: lists are joined
    let entries = ends.prefix(1) + users + ends.dropFirst()  // bounded: lists are joined
    let list = [2, 0, 0, 0] + entries.flatMap(\.bytes)  // bounded: lists are joined
    return setxattr(name, attribute, list, list.count, 0) == 0 ? nil : errno
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
    guard fstat(file, &status) == 0, status.st_uid == geteuid(), status.st_mode & S_IFMT == S_IFSOCK else {
      close(file)
      return Descriptor(adopting: none)
    }
    return Descriptor(adopting: file)
  }
}
