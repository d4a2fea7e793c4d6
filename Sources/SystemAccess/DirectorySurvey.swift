// SPDX-License-Identifier: Apache-2.0
// Which directories of segments there are, found in pieces: anybody may put very many names into the directory of
// files in memory.
//
// - A name counts if its directory belongs to the user that it names, or else as one of few of its owner's: whoever
//   makes very many names hides those of nobody else.
// - Nothing is asked of a file system that is mounted over a user's directory.
// - A piece ends when its time is over; the next one goes on where it ended.

import ByteText
import COpening
import Glibc
import SharedLayout

/// A search for the directories in which segments that one user may read can be; for root, those of all users.
public final class DirectorySurvey {
  private typealias Place = SharedDirectories.Place

  /// Owns an open directory.
  private final class Names {
    let stream: OpaquePointer
    init?(_ path: String) {
      guard let stream = opendir(path) else { return nil }
      self.stream = stream
    }
    deinit { closedir(stream) }
  }

  /// A directory whose names are read, and what stands before the numbers of users in them.
  private struct Parent {
    var path: String
    var prefix: String
    var place: (UInt32) -> Place
  }

  private let user: UInt32
  private var parents: [Parent] = []
  private var names: Names?
  private var seen = 0
  private var numbers: [UInt32] = []
  /// Names of each owner that name another user.
  private var others: [UInt32: Int] = [:]
  private var found: [Place] = []

  /// A directory in memory can have a million names, and far more take very long.
  private static let mostSeen = 1 << 21
  /// In a user namespace, a user has another number, and then the directories that are named by it.
  private static let mostOthers = 16

  public init(ofUser user: UInt32) {
    self.user = user
    func parent(_ place: @escaping (UInt32) -> Place) -> Parent {
      Parent(
        path: String(cString: allocs_parent_of_place(place(0).number)),
        prefix: String(cString: allocs_name_of_place(place(0).number)), place: place)
    }
    if user == 0 {
      parents.append(parent { .ofRoot(user: $0) })
      var sessions = parent { .ofSession(user: $0) }
      sessions.prefix = ""
      parents.append(sessions)
    } else {
      found = SharedDirectories.tried(byUser: user)
    }
    parents.append(parent { .inMemory(user: $0) })
    parents.reverse()
  }

  /// Goes on until then (CLOCK_MONOTONIC). Returns all places once there are no more names; nil before.
  public func step(until time: Double) -> [SharedDirectories.Place]? {
    var count = 0
    while let parent = parents.last {
      guard let names = names ?? Names(parent.path) else {
        finish(parent)
        continue
      }
      self.names = names
      while seen < Self.mostSeen, let entry = readdir(names.stream) {
        seen &+= 1
        if let number = withUnsafeBytes(of: &entry.pointee.d_name, { Self.number($0, behind: parent.prefix) }) {
          take(number, parent, in: dirfd(names.stream))
        }
        count += 1
        if count % 64 == 0, seconds(of: CLOCK_MONOTONIC) >= time { return nil }
      }
      finish(parent)
    }
    return found + [.former]
  }

  private func take(_ number: UInt32, _ parent: Parent, in directory: Int32) {
    guard user == 0 || number != user else { return }
    // Only the system makes names in the other directories.
    if parent.prefix.isEmpty {
      numbers.append(number)
      return
    }
    // Not by its path: who has mounted a file system of their own making over it lets whoever looks at it wait.
    let place = allocs_open_in(directory, parent.prefix + "\(number)", __O_PATH | O_DIRECTORY)
    guard place >= 0 else { return }
    defer { close(place) }
    var status = stat()
    guard fstat(place, &status) == 0 else { return }
    let owner = status.st_uid
    guard user == 0 || owner == user else { return }
    if owner != number {
      others[owner, default: 0] += 1
      guard others[owner, default: 0] <= Self.mostOthers else { return }
    }
    numbers.append(number)
  }

  private func finish(_ parent: Parent) {
    found += numbers.sorted().map(parent.place)
    if user == 0, parent.path == Place.common.path { found.append(.common) }
    (numbers, names, seen) = ([], nil, 0)
    parents.removeLast()
  }

  private static func number(_ bytes: UnsafeRawBufferPointer, behind prefix: String) -> UInt32? {
    let name = bytes.prefix { $0 != 0 }
    guard name.starts(with: prefix.utf8), name.count <= prefix.utf8.count + 10 else { return nil }
    let text = String(decoding: name.dropFirst(prefix.utf8.count), as: UTF8.self)
    guard let number = UInt32(text), "\(number)" == text else { return nil }
    return number
  }
}
