// SPDX-License-Identifier: Apache-2.0
// Names in a directory of segments that are none of an agent's. All users' directories share one
// file system in memory, with so many files and bytes: where little of these is left, whatever is
// neither a segment, a control file nor a sweeper's mark is removed, so that no user keeps the
// indexes of others out by files of other names.
//
// Everything is done by descriptors, and with the rights of the directory's owner: the caller has
// become that user.

import COpening
import Glibc
import SystemAccess

extension OpenDirectory {
  /// Removes such names, with all that is below them, and returns how many there were.
  package func removeSurplus() -> Int { Self.removeSurplus(in: descriptor, of: checked.ownerID, depth: 0) }

  /// How deep the directories are that are removed with what is in them. Each takes a descriptor.
  private static let deepest = 128

  private static func removeSurplus(in directory: Int32, of owner: UInt32, depth: Int) -> Int {
    let readable = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard readable >= 0 else { return 0 }
    guard let stream = fdopendir(readable) else {
      close(readable)
      return 0
    }
    defer { closedir(stream) }
    var count = 0
    // bounded: the process that does this is ended after some seconds
    while let entry = readdir(stream) {
      let bytes = withUnsafeBytes(of: &entry.pointee.d_name) { Array($0.prefix { $0 != 0 }) }
      guard bytes != Array(".".utf8), bytes != Array("..".utf8) else { continue }
      if depth == 0, bytes.withUnsafeBytes({ Name($0) }) != nil || SweeperMark.isMark(bytes, inDirectoryOf: owner) {
        continue
      }
      let name = bytes.map { CChar(bitPattern: $0) } + [0]
      if unlinkat(readable, name, 0) == 0 {
        count += 1
      } else if errno == EISDIR || errno == EPERM, depth < deepest {
        // No link is followed, and nothing that is mounted there entered.
        let inner = allocs_open_in(readable, name, O_RDONLY | O_DIRECTORY)
        guard inner >= 0 else { continue }
        count += removeSurplus(in: inner, of: owner, depth: depth + 1)
        close(inner)
        if unlinkat(readable, name, Int32(AT_REMOVEDIR)) == 0 { count += 1 }
      }
    }
    return count
  }
}
