// SPDX-License-Identifier: Apache-2.0
// Which kind of file system a descriptor leads to, by the kernel's table of mounts. Users may mount file systems of
// their own making where the system lets them (FUSE), and such a one answers when it likes: so it is not asked.

import ByteText
import Glibc

enum MountedFileSystem {
  /// Whether the kernel alone answers for the file system of an O_PATH descriptor. Also if nothing is known of it.
  static func answers(_ descriptor: Int32) -> Bool {
    guard let facts = contents(of: "/proc/self/fdinfo/\(descriptor)"),
      let line = facts.split(separator: UInt8(ascii: "\n")).first(where: { $0.starts(with: "mnt_id:".utf8) })
    else { return true }
    let id = line.dropFirst(7).drop { $0 == UInt8(ascii: "\t") || $0 == UInt8(ascii: " ") }
    guard let mounts = contents(of: "/proc/self/mountinfo"), let kind = kind(ofMount: Array(id), in: mounts) else {
      return true
    }
    return isOfKernel(kind)
  }

  /// The type of the mount with this number in the text of mountinfo (proc(5)).
  static func kind(ofMount id: [UInt8], in mounts: [UInt8]) -> String? {
    let blank = UInt8(ascii: " ")
    for line in mounts.split(separator: UInt8(ascii: "\n")) where line.starts(with: id + [blank]) {
      // Fields of any number end with a single hyphen; blanks in paths are written as \\040.
      let words = line.split(separator: blank)
      guard let hyphen = words.firstIndex(where: { $0.elementsEqual("-".utf8) }),
        let kind = words[hyphen...].dropFirst().first
      else { return nil }
      return String(decoding: kind, as: UTF8.self)
    }
    return nil
  }

  static func isOfKernel(_ kind: String) -> Bool {
    !["fuse", "nfs", "cifs", "smb", "9p", "autofs", "ceph", "afs", "coda", "virtiofs"].contains {
      kind.hasPrefix($0)
    }
  }

  private static func contents(of path: String) -> [UInt8]? {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 16 << 10)
    while bytes.count < 16 << 20 {
      let count = read(file, &piece, piece.count)
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { break }
      bytes += piece[..<count]
    }
    return bytes
  }
}
